"""The sandbox: whether a program that a model wrote passes its tests, run apart from everything.

    outcome = passes("def add(a, b):\\n    return a + b\\n", "assert add(2, 3) == 5")
    outcome.passed, outcome.reason        True, "passed"
    active_tier()                         "namespaces+landlock+seccomp"
    isolated()                            True: network and files are really cut off

The program and the tests run in two fresh interpreters (tools/sandbox_guest.py): to the tests, the program's functions
are calls over a pipe that take and return plain data (numbers, strings, lists, dictionaries ...). A program passes when
the tests ran to their end, raised nothing and called something of the program.

What a hostile program can still do: answer each call with any plain value it likes, however it came by it, for every
name of its own that the tests use (HumanEval/32 checks `find_zero` with the program's own `poly`); use the CPU, the
memory and the disk up to the limits until the time is over; and, on the "rlimits only" tier, whatever the user may do,
its tests' process and verdict included. What honest programs cannot do: return objects of their own classes, or change
an argument in place for the tests to see.
"""

import functools
import os
import secrets
import sys
from dataclasses import dataclass
from pathlib import Path

from pynanochat.errors import BackendError
from pynanochat.tools import sandbox_helper, sandbox_processes
from pynanochat.tools.sandbox_processes import LOWEST, Limits, Ran

LONGEST_PROGRAM = 4 << 20  # bytes, of the tests too
MOST_OUTPUT = 1 << 20  # bytes that a program may write before it is stopped
KEPT_OUTPUT = 1 << 16
MOST_PROCESSES = 8
LARGEST_FILE = 16 << 20  # bytes
ENDED = "the program ended before the tests did"


@dataclass(frozen=True)
class Outcome:
    """What became of a program."""

    passed: bool
    reason: str
    """One line: "passed", or why not."""
    output: str
    """The beginning of what the program wrote to its standard output and error."""
    tier: str
    """The isolation that it ran under, as `active_tier`."""


def passes(program: str, tests: str = "", *, timeout: float = 5.0, memory_mb: int = 256) -> Outcome:
    """Whether `tests`, Python that uses names of `program` and raises where they are wrong, run to their end.

    timeout: seconds, for both together, their start included. memory_mb: address space of each process, MiB.
    Nothing that the program does raises here; BackendError is raised where no interpreter could be started.
    """
    sources = [text.encode("utf-8", "surrogatepass") for text in (program, tests)]
    for name, source in zip(("program", "tests"), sources, strict=True):
        if len(source) > LONGEST_PROGRAM:
            return Outcome(False, f"the {name} is longer than {LONGEST_PROGRAM} bytes", "", active_tier())
    if not tests.strip():
        return Outcome(False, "nothing was checked: there are no tests", "", active_tier())
    nonce, tier = secrets.token_hex(16), active_tier()
    limits = Limits(timeout, memory_mb << 20, MOST_PROCESSES, LARGEST_FILE, MOST_OUTPUT)
    run = sandbox_processes.run if tier == LOWEST else sandbox_helper.run
    ran = run(tier, interpreter(), sources[0], nonce.encode() + b"\n" + sources[1], limits)
    passed, reason = _judged(ran, nonce)
    return Outcome(passed, reason, ran.output[:KEPT_OUTPUT].decode("utf-8", "replace"), tier)


@functools.cache
def active_tier() -> str:
    """The isolation that programs run under here: "namespaces+landlock+seccomp", or what of it this kernel lets an
    ordinary process have, or "rlimits only". Tried out once."""
    return sandbox_helper.probe(interpreter())


def isolated() -> bool:
    """Whether the kernel cuts programs off from the network and from the user's files."""
    parts = active_tier().split("+")
    return "namespaces" in parts or {"landlock", "seccomp"} <= set(parts)


def interpreter() -> list[str]:
    """The command line of a bare interpreter: no environment, no site-packages, nothing of the current folder."""
    python = os.path.realpath(getattr(sys, "_base_executable", "") or sys.executable)
    if not Path(python).is_file():
        raise BackendError(f"{python}: the sandbox's Python is not there; run pynanochat with another one")
    return [python, "-I", "-S", "-B", "-X", "utf8", "-c", Path(__file__).with_name("sandbox_guest.py").read_text()]


def _judged(ran: Ran, nonce: str) -> tuple[bool, str]:
    """(passed, reason) from the judge's words, which begin with the nonce if they are the judge's."""
    words = ran.verdict.decode("utf-8", "replace")[8:].split(" ", 2)
    if ran.stopped:
        return False, ran.stopped
    if len(words) != 3 or words[0] != nonce or words[2] == ENDED:
        return False, f"{ENDED} ({ran.ending})" if ran.ending else ENDED
    return (True, "passed") if words[1] == "passed" else (False, " ".join(words[2].split()) or "failed")
