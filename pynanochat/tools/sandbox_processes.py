"""The sandbox's two interpreters where nothing but POSIX is to be had: `run(tier, python, program, tests, limits)`.

Resource limits, an empty environment, a temporary folder, sessions that are killed as a whole, and no more: the program
can read what the user can read.
"""

import contextlib
import os
import selectors
import signal
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass

LOWEST = "rlimits only"
LONGEST_VERDICT = 1 << 12


@dataclass(frozen=True)
class Limits:
    """seconds of wall clock, bytes of address space of a process, processes, bytes of a file and of all output."""

    seconds: float
    memory: int
    processes: int
    file: int
    output: int

    def words(self) -> list[str]:
        """In the order of sandbox_guest.LIMITS: 64 open files, no core dump."""
        return [str(n) for n in (self.memory, int(self.seconds) + 1, self.file, self.processes, 64, 0)]


@dataclass(frozen=True)
class Ran:
    """What two interpreters left: the judge's words, the program's output, why they were stopped, if they were, and
    how the program ended ("exit 1", "signal 11"), if it is known."""

    verdict: bytes
    output: bytes
    stopped: str
    ending: str = ""


def run(tier: str, python: list[str], program: bytes, tests: bytes, limits: Limits) -> Ran:
    """Run both to the verdict, the end of the program or of the time, and leave no process and no folder."""
    with tempfile.TemporaryDirectory(prefix="pynanochat-", ignore_cleanup_errors=True) as folder:
        return _run(python, program, tests, limits, folder)


def _run(python, program, tests, limits, folder):
    pipes = [os.pipe() for _ in range(6)]
    (source, tests_in, requests, answers, verdict, output) = pipes
    children, feeders = [], []
    try:
        roles = (
            (("program", source[0], requests[0], answers[1]), output[1]),
            (("judge", tests_in[0], answers[0], requests[1], verdict[1]), subprocess.DEVNULL),
        )
        for (role, *fds), written in roles:
            children.append(_start([*python, role, *map(str, fds), *limits.words()], fds, written, folder))
        for fd in (source[0], tests_in[0], *requests, *answers, verdict[1], output[1]):
            os.close(fd)
        for pipe, data in ((source, program), (tests_in, tests)):
            feeders.append(threading.Thread(target=_feed, args=(pipe[1], data)))
            feeders[-1].start()
        return _watch(verdict[0], output[0], children[0], limits)
    finally:
        for child in children:
            with contextlib.suppress(OSError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        for feeder in feeders:
            feeder.join()
        for fd in (verdict[0], output[0]):
            os.close(fd)


def _start(command, fds, written, folder):
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=written, stderr=written, cwd=folder, pass_fds=fds,
        env={"PATH": "/usr/bin:/bin", "HOME": folder, "TMPDIR": folder}, start_new_session=True,
    )  # fmt: skip


def _feed(fd, data):
    """Write all of `data`, or as much as is read."""
    with contextlib.suppress(OSError), open(fd, "wb") as pipe:
        pipe.write(data)


def _watch(verdict_fd, output_fd, child, limits):
    """Read both until the verdict's end, or a limit is passed."""
    deadline = time.monotonic() + limits.seconds
    verdict, output, stopped = b"", b"", ""
    with selectors.DefaultSelector() as selector:
        selector.register(verdict_fd, selectors.EVENT_READ)
        selector.register(output_fd, selectors.EVENT_READ)
        while not stopped:
            left = deadline - time.monotonic()
            if left <= 0:
                stopped = f"took longer than {limits.seconds:g} s"
                break
            ready = {key.fd for key, _ in selector.select(left)}
            if output_fd in ready:
                part = os.read(output_fd, 1 << 16)
                output += part
                if not part:
                    selector.unregister(output_fd)
                if len(output) > limits.output:
                    stopped = f"wrote more than {limits.output} bytes"
            if verdict_fd in ready:
                part = os.read(verdict_fd, LONGEST_VERDICT)
                verdict += part
                if not part or len(verdict) > LONGEST_VERDICT:
                    break
    return Ran(verdict, output, stopped)
