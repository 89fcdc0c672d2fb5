"""The sandbox against programs that would do harm: attacks that must all come to nothing."""

import concurrent.futures
import os
import signal
import socket
import sys
import threading
from pathlib import Path

import pytest

from pynanochat.tools import sandbox
from pynanochat.tools.sandbox import MOST_OUTPUT, passes
from tests.tools.programs import LONG, SQUARE, TESTS, WRONG

MARK = "pynanochat-grandchild"
SPAWN = f"""
import os, sys
def spawn():
    if os.fork() == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", "import time; time.sleep(999)", "{MARK}"])
"""
FORKS = """
import os
while True:
    try:
        os.fork()
        os.setsid()
    except OSError:
        pass
"""
FLOOD = """
import os, time
if os.fork() == 0:
    os.setsid()
    while True:
        os.write(1, b"x" * 65536)
time.sleep(999)
"""
DEAF = """
import signal, time
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
time.sleep(999)
"""
HARM = {
    "fork bomb": FORKS.replace("os.setsid()", "pass"),
    "fork bomb of sessions": FORKS,
    "thread bomb": "import threading, time\nwhile 1:\n    threading.Thread(target=time.sleep, args=(999,)).start()\n",
    "memory bomb": "x = [0]\nwhile True:\n    x += x\n",
    "memory map": "import mmap\nmmap.mmap(-1, 1 << 40)\n",
    "output flood": "while True:\n    print('x' * 9999)\n",
    "flood of standard error": "import os\nwhile True:\n    os.write(2, b'x' * 65536)\n",
    "flood by a grandchild": FLOOD,
    "endless loop": "while True:\n    pass\n",
    "endless call": "def square(x):\n    while True:\n        pass\n",
    "sleep": "import time\ntime.sleep(999)\n",
    "ignores signals": DEAF,
    "stops itself": "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\n",
    "recursion": "def square(x):\n    return square(x)\n",
    "recursion without a limit": "import sys\nsys.setrecursionlimit(10**9)\ndef square(x):\n    return square(x) + 1\n",
    "segmentation fault": "import ctypes\nctypes.string_at(0)\n",
    "abort": "import os\nos.abort()\n",
    "parentheses": "x = " + "(" * 50_000 + ")" * 50_000 + "\n",
    "huge integer": "def square(x):\n    return 10 ** 10 ** 9\n",
    "huge answer": "def square(x):\n    return 'x' * (1 << 26)\n",
    "catastrophic pattern": "import re\nre.match(r'(a+)+$', 'a' * 64 + 'b')\n",
    "standard input": "input()\n",
    "NUL": "x = 1\x00\n",
    "lone surrogate": "x = '\ud800'\n",
    "unknown coding": "# coding: nonsense\n",
    "no text": "\x01\x02\x7f",
    "empty": "",
    "syntax error": "def square(x:\n",
    "descriptors": "import os\nwhile True:\n    os.pipe()\n",
}


def command_lines():
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield file.read_bytes()
        except OSError:
            continue


@pytest.mark.parametrize("name", HARM)
def test_harm(name, isolation):
    outcome = passes(HARM[name], TESTS, timeout=0.8, memory_mb=128)
    assert not outcome.passed, outcome
    assert outcome.reason
    assert len(outcome.output) <= sandbox.KEPT_OUTPUT


def test_flood_is_cut():
    outcome = passes("while True:\n    print('x' * 9999)\n", TESTS, timeout=LONG)
    assert outcome.reason == f"wrote more than {MOST_OUTPUT} bytes"


def test_grandchild_that_holds_the_pipe_ends_with_the_program(isolation):
    outcome = passes(SPAWN + SQUARE + "spawn()\n", TESTS, timeout=LONG)
    assert outcome.passed or "Operation not permitted" in outcome.reason, outcome
    assert not any(MARK.encode() in line for line in command_lines() if b"_sandbox" not in line)


def test_grandchildren_of_a_program_that_never_ends(isolation):
    passes(SPAWN + "for _ in range(3):\n    spawn()\nwhile True:\n    pass\n", TESTS, timeout=0.8)
    assert not any(MARK.encode() in line for line in command_lines() if b"_sandbox" not in line)


def attempts(lines: str) -> str:
    """A right program that first tries each line of `lines` and prints which of them worked."""
    program = "import os, sys, socket, ctypes, resource, signal\nlibc = ctypes.CDLL(None, use_errno=True)\n"
    program += "def refused(result):\n    if result < 0:\n        raise OSError(ctypes.get_errno())\n"
    for line in map(str.strip, lines.strip().splitlines()):
        program += f"try:\n    {line}\n    print('worked:', {line!r})\nexcept (OSError, ValueError):\n    pass\n"
    return program + SQUARE


def test_files_of_the_user_cannot_be_read(isolation, tmp_path, monkeypatch):
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    (home / ".ssh/id").write_text("the secret key")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("SECRET", "the secret variable")
    key = str(home / ".ssh/id")
    lines = f"""
        print(open({key!r}).read())
        print(os.listdir({str(home)!r}))
        print(os.listdir(os.path.expanduser('~root')))
        os.symlink({key!r}, 'link'); print(open('link').read())
        os.link({key!r}, 'hard'); print(open('hard').read())
        os.rename({key!r}, 'moved')
        print(open('/etc/passwd').read())
        print(open('/proc/self/environ').read())
        print(open('/proc/1/environ').read())
        print(os.listdir('/etc'))
        os.chroot('.')
        print(open('../..{key}').read())
    """
    outcome = passes(attempts(lines) + "print(os.environ)\n", TESTS, timeout=LONG)
    assert outcome.passed, outcome
    assert "secret" not in outcome.output
    assert "worked" not in outcome.output
    assert (home / ".ssh/id").read_text() == "the secret key"


def test_nothing_outside_its_folder_can_be_written(isolation, tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("kept")
    lines = f"""
        open({str(victim / "new")!r}, 'w')
        open({str(victim / "file")!r}, 'a')
        open({sys.base_prefix + "/lib/pynanochat-test"!r}, 'w')
        open('/usr/lib/pynanochat-test', 'w')
        os.mkdir('/pynanochat-test')
        os.truncate({str(victim / "file")!r}, 0)
        os.unlink({str(victim / "file")!r})
        os.mknod('device', 0o600 | 0o020000, os.makedev(1, 3))
    """
    outcome = passes("open('own', 'w').write('x')\n" + attempts(lines), TESTS, timeout=LONG)
    assert outcome.passed, outcome
    assert "worked" not in outcome.output
    assert [file.name for file in victim.iterdir()] == ["file"]
    assert (victim / "file").read_text() == "kept"


def test_links_in_its_folder_lead_nowhere(isolation, tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "file").write_text("kept")
    program = f"""
import os
os.symlink({str(victim)!r}, "link")
os.makedirs("a/b")
os.symlink("..", "a/b/up")
os.symlink({str(victim / "file")!r}, "a/file")
os.chmod("a/b", 0)
os.chmod("a", 0)
"""
    assert passes(program + SQUARE, TESTS, timeout=LONG).passed
    assert (victim / "file").read_text() == "kept"


def test_no_network(isolation, tmp_path):
    heard = []
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp, socket.socket(socket.AF_UNIX) as unix:
        tcp.bind(("127.0.0.1", 0))
        udp.bind(("127.0.0.1", 0))
        unix.bind(str(tmp_path / "s"))
        for listening in (tcp, unix):
            listening.listen()
        for each in (tcp, udp, unix):
            each.setblocking(False)
        address, datagrams = tcp.getsockname(), udp.getsockname()
        lines = f"""
            socket.create_connection({address!r}, timeout=2)
            socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', {datagrams!r})
            socket.socket(socket.AF_UNIX).connect({str(tmp_path / "s")!r})
            socket.socket(socket.AF_INET6).bind(('::1', 0))
            socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)
            socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)
            socket.socket(socket.AF_VSOCK)
            socket.socket(socket.AF_ALG)
            socket.getaddrinfo('localhost', 80)[0] and socket.socket()
            refused(libc.syscall(425, 8, ctypes.create_string_buffer(256)))
        """
        outcome = passes(attempts(lines), TESTS, timeout=LONG)
        for each, get in ((tcp, tcp.accept), (unix, unix.accept), (udp, lambda: udp.recv(9))):
            try:
                heard.append((each, get()))
            except BlockingIOError:
                continue
    assert outcome.passed, outcome
    assert "worked" not in outcome.output
    assert heard == []


KILLS = """
import os, signal
for pid in (-1, os.getppid(), 1, 0):
    try:
        os.kill(pid, signal.SIGTERM)
    except OSError:
        pass
"""


def test_signals_reach_nobody_outside(isolation):
    parent = os.getpid()
    got = []
    numbers = (signal.SIGUSR1, signal.SIGTERM)
    before = [signal.signal(number, lambda n, _: got.append(n)) for number in numbers]
    try:
        lines = f"""
            os.kill({parent}, signal.SIGUSR1)
            os.kill({os.getppid()}, 0)
            os.killpg({os.getpgid(0)}, signal.SIGUSR1)
            os.pidfd_open({parent})
        """
        outcome = passes(attempts(lines), TESTS, timeout=LONG)
        assert outcome.passed, outcome
        assert "worked" not in outcome.output
        # -1: everybody that it may reach, the judge among them
        outcome = passes(KILLS + WRONG, TESTS, timeout=3.0)
        assert not outcome.passed
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
    assert got == []


def test_calls_into_the_kernel_are_refused(isolation):
    lines = f"""
        refused(libc.ptrace(16, {os.getpid()}, 0, 0))
        refused(libc.ptrace(16, os.getppid(), 0, 0))
        refused(libc.ptrace(0, 0, 0, 0))
        refused(libc.unshare(0x10000000))
        refused(libc.unshare(0x20000))
        refused(libc.mount(b'none', b'/tmp', b'tmpfs', 0, b''))
        refused(libc.umount2(b'/tmp', 2))
        refused(libc.setns(3, 0))
        refused(libc.personality(0x0040000))
        refused(libc.syscall(435, ctypes.create_string_buffer(88), 88))
        refused(libc.syscall(442, -100, b'/', 0, ctypes.create_string_buffer(32), 32))
        refused(libc.memfd_create(b'x', 0))
        refused(libc.shmget(0, 1 << 30, 0o1600))
        os.setuid(0) if os.getuid() else refused(-1)
        resource.setrlimit(resource.RLIMIT_AS, (-1, -1))
        resource.setrlimit(resource.RLIMIT_NPROC, (9999, 9999))
        resource.prlimit(os.getppid(), resource.RLIMIT_CPU, (1, 1))
        open('/tmp/../proc/sys/kernel/core_pattern', 'w')
        open('/dev/mem', 'rb')
        open('/sys/kernel/uevent_helper', 'w')
    """
    outcome = passes(attempts(lines), TESTS, timeout=LONG)
    assert outcome.passed, outcome
    assert "worked" not in outcome.output


def test_huge_file(isolation):
    program = """
import os, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
try:
    with open("big", "wb") as file:
        for _ in range(64):
            file.write(bytes(1 << 20))
except OSError:
    print("cut at", os.path.getsize("big"))
"""
    outcome = passes(program + SQUARE, TESTS, timeout=LONG)
    assert outcome.passed, outcome
    assert int(outcome.output.split()[-1]) <= sandbox.LARGEST_FILE


def test_memory_of_all_is_bounded(isolation):
    """A program may have 128 MiB, its children as much, and there are few of them."""
    program = """
import os, time
count = 0
try:
    while count < 99:
        if os.fork() == 0:
            time.sleep(999)
        count += 1
except OSError:
    pass
print(count)
"""
    outcome = passes(program + SQUARE, TESTS, timeout=LONG)
    assert outcome.passed, outcome
    assert int(outcome.output) <= sandbox.MOST_PROCESSES


def test_attacks_side_by_side_do_not_touch_each_other(isolation):
    hostile = [HARM[name] for name in ("fork bomb", "output flood", "memory bomb", "segmentation fault")]
    jobs = [job for program in hostile for job in ((program, 0.8), (SQUARE, LONG))]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda job: passes(job[0], TESTS, timeout=job[1]).passed, jobs))
    assert outcomes == [False, True] * 4
    assert threading.active_count() < 20
