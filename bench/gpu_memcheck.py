"""compute-sanitizer over the tests of the CUDA ops, for `pynanochat bench gpu`, where it is installed.

memcheck finds a kernel that reads or writes outside its tensors even where the result is right; torch cuts tensors out
of larger blocks, in which such an access would not show: it is told to keep none. racecheck finds threads of a block
that use shared memory without a barrier between them. Each has half of what time is left. The sanitizer's own lines
are known from its manual; it has not run here yet.
"""

import os
import shutil
import sys
import time
from pathlib import Path

from pynanochat.bench.gpu_tests import run_limited

TOOL = "compute-sanitizer"
FINDINGS = {"memcheck": "Invalid __", "racecheck": "Race reported"}  # what each says where it found something
FOUND = 9  # its exit code then
LEAST_SECONDS = 30


def run_memcheck(checkout: Path, seconds: float) -> dict:
    """{"memcheck" and "racecheck": "clean" | "errors" | why it says nothing, "output": last lines where not clean}."""
    deadline = time.monotonic() + seconds
    result = watched(checkout, "memcheck", seconds / 2)
    other = watched(checkout, "racecheck", deadline - time.monotonic())
    output = result.get("output", []) + other.get("output", [])
    return result | other | ({"output": output} if output else {})


def watched(checkout: Path, what: str, seconds: float) -> dict:
    """What the sanitizer's tool `what` says of the tests in at most `seconds`."""
    tool = shutil.which(TOOL)
    if tool is None:
        return {what: f"{TOOL} is not installed"}
    if seconds < LEAST_SECONDS:
        return {what: "the time was up"}
    command = [tool, "--tool", what, "--target-processes", "all", "--error-exitcode", str(FOUND)]
    command += [sys.executable, "-m", "pytest", "-q", "-x", "-m", "gpu", "-k", "cuda", "-p", "no:cacheprovider"]
    command += ["tests/kernels"]
    environment = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "PYNANOCHAT_BACKEND")}
    environment["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
    code, output = run_limited(command, checkout, environment, seconds)
    if code == 0:
        return {what: "clean"}
    if code is None and FINDINGS[what] not in output:
        return {what: "no error until the time was up"}
    found = "errors" if code in (FOUND, None) else f"pytest ended with {code}"
    return {what: found, "output": last_lines(output)}


def last_lines(output: str, count: int = 40) -> list[str]:
    return output.splitlines()[-count:]
