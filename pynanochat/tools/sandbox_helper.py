"""The sandbox's two interpreters under csrc/sandbox, which builds for Linux have: `probe(python)`, `run(tier, ...)`."""

import functools
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from pynanochat.errors import BackendError
from pynanochat.tools.sandbox_processes import LOWEST, Limits, Ran

SYSTEM = ("/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib32", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache",
          "/etc/ld.so.conf", "/nix/store", "/gnu/store")  # fmt: skip
GRACE = 20.0  # seconds beyond the limit, for the helper to end everything; it keeps the limit itself


@functools.cache
def helper() -> str | None:
    """The helper's path, beside the extension; None where it was not built."""
    spec = importlib.util.find_spec("pynanochat._C")
    path = Path(spec.origin).with_name("_sandbox") if spec and spec.origin else None
    return str(path) if path and os.access(path, os.X_OK) else None


def probe(python: list[str]) -> str:
    """The best tier to be had here."""
    if helper() is None:
        return LOWEST
    done = subprocess.run(
        [helper(), "probe", *readable(), "--", *python],
        capture_output=True,
        text=True,
        env={},
        stdin=subprocess.DEVNULL,
    )
    return done.stdout.strip() if done.returncode == 0 else LOWEST


def run(tier: str, python: list[str], program: bytes, tests: bytes, limits: Limits) -> Ran:
    """Run both under exactly `tier`. Raises BackendError where that cannot be set up."""
    if "namespaces" in tier:
        return _run(tier, python, program, tests, limits, "/tmp")
    with tempfile.TemporaryDirectory(prefix="pynanochat-", ignore_cleanup_errors=True) as folder:
        return _run(tier, python, program, tests, limits, folder)


def _run(tier, python, program, tests, limits, folder):
    numbers = (limits.seconds, limits.memory, limits.processes, limits.file, limits.output)
    words = [helper(), "run", tier, *map(str, numbers), folder, str(len(program)), *readable(), "--", *python]
    try:
        done = subprocess.run(words, input=program + tests, capture_output=True, env={}, timeout=limits.seconds + GRACE)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BackendError(f"the sandbox did not run ({error.__class__.__name__}); see `pynanochat doctor`") from error
    if done.returncode != 0:
        words = done.stderr.decode("utf-8", "replace").strip() or f"exit code {done.returncode}"
        raise BackendError(f"the sandbox could not be set up as {tier} ({words}); see `pynanochat doctor`")
    stopped, ending, sizes, rest = done.stdout.split(b"\n", 3)
    size = int(sizes.split()[0])
    return Ran(rest[:size], rest[size:], stopped.decode(), ending.decode())


@functools.cache
def readable() -> tuple[str, ...]:
    """The interpreter's folders and the system's libraries: all that a program may read."""
    home = [sys.base_prefix, sys.base_exec_prefix]
    found = {path for path in (*map(os.path.realpath, home), *SYSTEM) if os.path.lexists(path)}
    within = lambda path: any(path != other and Path(other) in Path(path).parents for other in found)  # noqa: E731
    return tuple(sorted(path for path in found if not within(path)))
