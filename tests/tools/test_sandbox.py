"""The sandbox: what passes, what fails, and a list of attacks that must all come to nothing."""

import concurrent.futures
import gzip
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from pynanochat.errors import BackendError
from pynanochat.tools import sandbox, sandbox_helper
from pynanochat.tools.sandbox import LONGEST_PROGRAM, MOST_OUTPUT, active_tier, isolated, passes

ADD = "def add(a, b):\n    return a + b\n"
SQUARE = "def square(x):\n    return x * x\n"
TESTS = (
    "def check(candidate):\n    assert candidate(2) == 4\n    assert abs(candidate(3) - 9) < 1e-6\n\ncheck(square)\n"
)
LONG = 30.0  # seconds: of programs that end by themselves, on a machine that does other things
HUMAN_EVAL = Path(__file__).parents[2].parent / "shared/data/tasks/HumanEval.jsonl.gz"

BEST = active_tier()
TIERS = [
    BEST,
    *(t for t in ("landlock+seccomp", "rlimits only") if t != BEST and (t == "rlimits only" or "landlock" in BEST)),
]
ISOLATED = [tier for tier in TIERS if tier != "rlimits only"]


@pytest.fixture(params=TIERS)
def tier(request, monkeypatch):
    """Each tier that can be had here."""
    monkeypatch.setattr(sandbox, "active_tier", lambda: request.param)
    return request.param


@pytest.fixture(params=ISOLATED or [pytest.param("", marks=pytest.mark.skip(reason="this kernel isolates nothing"))])
def isolation(request, monkeypatch):
    """Each tier that cuts programs off: the attacks that would do harm on the lowest one run under these."""
    monkeypatch.setattr(sandbox, "active_tier", lambda: request.param)
    return request.param


@pytest.fixture(autouse=True)
def nothing_is_left(monkeypatch, tmp_path):
    """No child of this process, running or dead, and no temporary folder outlives a test."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    before = set(children())
    yield
    assert set(children()) <= before
    assert not list((tmp_path / "temporary").iterdir())


def children():
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            yield int(stat.parent.name)


def command_lines():
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield file.read_bytes()
        except OSError:
            continue


# --- what passes and what does not


def test_right_program_passes(tier):
    outcome = passes(ADD, "assert add(2, 3) == 5", timeout=LONG)
    assert (outcome.passed, outcome.reason, outcome.output, outcome.tier) == (True, "passed", "", tier)


def test_wrong_program_fails(tier):
    outcome = passes("def add(a, b):\n    return a - b\n", "assert add(2, 3) == 5", timeout=LONG)
    assert (outcome.passed, outcome.reason) == (False, "a test failed")


@pytest.mark.parametrize("tests", ["", "\n", "pass", "def check(candidate):\n    assert candidate(1, 1) == 2\n"])
def test_nothing_checked_is_no_pass(tests):
    outcome = passes(ADD, tests, timeout=LONG)
    assert not outcome.passed
    assert outcome.reason.startswith("nothing was checked")


def test_tier_is_told():
    parts = set(active_tier().split("+"))
    assert parts <= {"namespaces", "landlock", "seccomp"} or parts == {"rlimits only"}
    assert isolated() == ("namespaces" in parts or {"landlock", "seccomp"} <= parts)


PLAIN = [
    None, True, 0, -1, 2**200, -(2**70), 1.5, float("inf"), 1e-300, 2 + 3j, "", "text", "\x00\ud800\U0001f600\n",
    b"\x00\xff", [], [1, [2, (3, "x")]], (), (1,), {}, {"a": [1], 2: {"b": None}, (1, 2): 3}, {1, 2}, frozenset({"x"}),
    range(2, 9, 3),
    [True, 1, 1.0],
]  # fmt: skip


def test_plain_values_go_over_and_come_back_with_their_types():
    tests = f"from math import inf\nfor value in {PLAIN!r}:\n    assert repr(same(value)) == repr(value), value\n"
    outcome = passes("def same(value):\n    return value\n", tests, timeout=LONG)
    assert outcome.passed, outcome


def test_subclasses_of_plain_values_arrive_as_plain():
    program = "from collections import Counter, namedtuple\nPair = namedtuple('Pair', 'a b')\n"
    program += "def count(text):\n    return Counter(text)\ndef pair():\n    return Pair(1, 2)\n"
    assert passes(program, "assert count('aab') == {'a': 2, 'b': 1}\nassert pair() == (1, 2)", timeout=LONG).passed


def test_other_names_modules_and_constants_of_the_program_serve_the_tests():
    program = "import math\nLIMIT = [1, 2]\ndef helper(x):\n    return math.sqrt(x)\n"
    assert passes(program, "assert helper(4) == math.sqrt(4)\nassert LIMIT == [1, 2]", timeout=LONG).passed


def test_exceptions_reach_the_tests_as_they_were():
    program = "class Own(Exception):\n    pass\n\n\ndef f(x):\n    raise ValueError('no') if x else Own('mine')\n"
    tests = (
        "try:\n    f(1)\nexcept ValueError as e:\n    assert str(e) == 'no'\nelse:\n    assert False\n"
        "try:\n    f(0)\nexcept Exception as e:\n    assert 'Own: mine' in str(e)\nelse:\n    assert False\n"
    )
    outcome = passes(program, tests, timeout=LONG)
    assert outcome.passed, outcome


def test_output_and_reason_are_kept():
    outcome = passes("print('hello')\nimport sys\nprint('there', file=sys.stderr)\n1 / 0\n", TESTS, timeout=LONG)
    assert (outcome.passed, outcome.reason) == (False, "ZeroDivisionError: division by zero")
    assert sorted(outcome.output.split()) == ["hello", "there"]


def test_demonstrations_do_not_run():
    assert passes(SQUARE + "if __name__ == '__main__':\n    print(input())\n", TESTS, timeout=LONG).passed


def test_program_and_tests_over_128_kib():
    outcome = passes(SQUARE + "x = 1\n" * 100_000, TESTS + "y = 1\n" * 100_000, timeout=LONG)
    assert outcome.passed, outcome


def test_program_that_is_far_too_long():
    outcome = passes("x" * (LONGEST_PROGRAM + 1), TESTS)
    assert not outcome.passed
    assert "longer than" in outcome.reason


def test_eight_at_once():
    jobs = [(f"def f(x):\n    return x + {i}\n", f"assert f(1) == {1 + i // 2 * 2}") for i in range(24)]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(lambda job: passes(*job, timeout=2 * LONG), jobs))
    assert [outcome.passed for outcome in outcomes] == [i % 2 == 0 for i in range(24)]


COMING_AND_GOING = """
import os
for _ in range(23):
    if not os.fork():
        break
while True:
    child = os.fork()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
"""


def test_processes_that_end_while_the_helper_lists_them():
    others = subprocess.Popen([sys.executable, "-I", "-S", "-c", COMING_AND_GOING], start_new_session=True)
    try:
        for _ in range(50):
            assert passes(ADD, "assert add(2, 3) == 5", timeout=LONG).passed
    finally:
        os.killpg(others.pid, signal.SIGKILL)
        others.wait()


def test_sandbox_that_cannot_be_set_up_is_our_error(monkeypatch, tmp_path):
    monkeypatch.setattr(sandbox, "active_tier", lambda: "namespaces")
    monkeypatch.setattr(sandbox_helper, "helper", lambda: str(tmp_path / "missing"))
    with pytest.raises(BackendError, match="did not run"):
        passes(SQUARE, TESTS)


def test_no_helper_is_the_lowest_tier(monkeypatch):
    monkeypatch.setattr(sandbox_helper, "helper", lambda: None)
    assert sandbox_helper.probe(sandbox.interpreter()) == "rlimits only"


# --- programs that would pass without being right

WRONG = "def square(x):\n    return 7\n"
SEND = "import os\ndef send(text):\n    data = text.encode()\n    os.write(5, b'%08x' % len(data) + data)\n"
FORGERIES = {
    "sys.exit(0)": "import sys\nsys.exit(0)\n",
    "os._exit(0)": "import os\nos._exit(0)\n",
    "exit in the call": "import sys\ndef square(x):\n    sys.exit(0)\n",
    "os._exit in the call": "import os\ndef square(x):\n    os._exit(0)\n",
    "BaseException": "def square(x):\n    raise BaseException\n",
    "KeyboardInterrupt": "def square(x):\n    raise KeyboardInterrupt\n",
    "GeneratorExit at the top": "raise GeneratorExit\n",
    "exits after the last call": "import os\ndef square(x):\n    return 4 if x == 2 else os._exit(0)\n",
    "equals everything": "class Any:\n    __eq__ = lambda *a: True\n    __sub__ = __abs__ = __lt__ = lambda *a: True\n"
    "def square(x):\n    return Any()\n",
    "an int that equals everything": "class Any(int):\n    __eq__ = lambda *a: True\n    __hash__ = int.__hash__\n"
    "def square(x):\n    return Any(7)\n",
    "own check": WRONG + "def check(candidate):\n    pass\n",
    "own builtins": WRONG + "import builtins\nbuiltins.abs = lambda x: 0\nbuiltins.AssertionError = SystemExit\n"
    "def abs(x):\n    return 0\nclass AssertionError(BaseException):\n    pass\n",
    "own __eq__ of the arguments": "class square(int):\n    __eq__ = lambda *a: True\n",
    "hook on exceptions": WRONG + "import sys\nsys.excepthook = lambda *a: None\nsys.settrace(lambda *a: None)\n",
    "atexit": WRONG + "import atexit, os\natexit.register(os._exit, 0)\n",
    "closes every descriptor": WRONG + "import os\nos.closerange(0, 1024)\n",
    "writes a verdict everywhere": WRONG + "import os\nfor fd in range(3, 64):\n    try:\n"
    "        os.write(fd, b'00000027' + b'0' * 32 + b' passed')\n    except OSError:\n        pass\n",
    "reopens what it finds": WRONG + "import os\nfor pid in range(1, 40):\n    for fd in range(64):\n        try:\n"
    "            with open(f'/proc/{pid}/fd/{fd}', 'wb') as f:\n                f.write(b'00000027')\n"
    "        except OSError:\n            pass\n",
    "answers before it is asked": SEND + "send('d0:')\nsend('d2:s5:checkd2:s8:functionys3:absd2:s8:functiony')\n"
    "send('d2:s5:valuey')\nsend('d2:s5:valuey')\n",
    "claims a builtin": SEND + "send('d0:')\nsend('d4:s6:squared2:s8:functionys3:absd2:s8:functiony')\n"
    "send('d2:s5:valuei4;')\nsend('d2:s5:valuei0;')\nsend('d2:s5:valuei0;')\n",
    "a message without end": "import os\nos.write(5, b'ffffffff')\nimport time\ntime.sleep(600)\n",
    "a length that is none": "import os\nos.write(5, b'-0000001' * 100)\n",
    "nested without end": SEND + "send('l1:' * 100_000)\n",
    "a list without its items": SEND + "send('l999999999999:')\n",
    "a negative length": SEND + "send('d0:')\nsend('d-1:')\nsend('s-5:')\n",
    "no dict": SEND + "send('n')\nsend('i5;')\n",
    "a value that is no encoding": SEND + "send('d0:')\nsend('d2:s6:squared2:s8:functiony')\nsend('x')\n",
    "fork, and the parent leaves": WRONG + "import os\nif os.fork():\n    os._exit(0)\n",
    "wrong answer, then a right one": SEND + WRONG + "import threading\n"
    "threading.Thread(target=lambda: [send('d2:s5:valuei4;') for _ in range(9)]).start()\n",
}


@pytest.mark.parametrize("name", FORGERIES)
def test_forgery(name, tier):
    outcome = passes(FORGERIES[name], TESTS, timeout=2.0)
    assert not outcome.passed, outcome


def test_tests_and_nonce_are_not_to_be_found_in_the_program(tier, monkeypatch):
    monkeypatch.setattr(sandbox.secrets, "token_hex", lambda size: "nonce-of-the-judge")
    program = """
import gc, os, sys
found = [repr(o)[:9999] for o in gc.get_objects() if not isinstance(o, type(gc))] + [repr((sys.argv, os.environ))]
frame = sys._getframe()
while frame:
    found.append(repr(frame.f_locals))
    frame = frame.f_back
for fd in range(3, 64):
    try:
        found.append(repr(os.pread(fd, 9999, 0)))
    except OSError:
        pass
words = ["egduj-eht-fo-ecnon", "stset-eht-fo-terces"]  # backwards, so as not to find themselves
print(len(found), [word for word in words if any(word[::-1] in text for text in found)])
"""
    outcome = passes(SQUARE + program, TESTS + "secret = 'secret-of-the-tests'\n", timeout=LONG)
    assert outcome.passed, outcome
    number, left = outcome.output.split(" ", 1)
    assert int(number) > 100
    assert left.strip() == "[]"


# --- programs that would do harm

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


# --- HumanEval

needs_human_eval = pytest.mark.skipif(
    not HUMAN_EVAL.is_file(), reason="../shared/data/tasks/HumanEval.jsonl.gz is not here"
)


def human_eval():
    with gzip.open(HUMAN_EVAL, "rt") as file:
        return [json.loads(line) for line in file]


def judged(row, solution):
    return passes(row["prompt"] + solution, f"{row['test']}\ncheck({row['entry_point']})\n", timeout=2 * LONG)


@needs_human_eval
@pytest.mark.slow
def test_canonical_solutions_pass():
    failed = [
        (row["task_id"], outcome)
        for row in human_eval()
        if not (outcome := judged(row, row["canonical_solution"])).passed
    ]
    assert failed == []


@needs_human_eval
@pytest.mark.parametrize(
    "broken", ["    pass\n", "    return None\n", "    raise SystemExit(0)\n", "    return True\n"]
)
def test_broken_solutions_fail(broken):
    rows = human_eval()[::16]
    assert [row["task_id"] for row in rows if judged(row, broken).passed] == []
