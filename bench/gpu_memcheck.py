"""compute-sanitizer's memcheck over the tests of the CUDA ops, for `pynanochat bench gpu`, where it is installed.

It runs for what time is left. A kernel that reads or writes outside its tensors is found even where the result is
right. torch cuts tensors out of larger blocks, in which such an access would not show: it is told to keep none. The
sanitizer's own lines are known from its manual; it has not run here yet.
"""

import os
import shutil
import sys
from pathlib import Path

from pynanochat.bench.gpu_tests import run_limited

TOOL = "compute-sanitizer"
FOUND = 9  # its exit code where it found something
LEAST_SECONDS = 30


def run_memcheck(checkout: Path, seconds: float) -> dict:
    """{"memcheck": "clean" | "errors" | why it says nothing, "output": the last lines where there were errors}."""
    tool = shutil.which(TOOL)
    if tool is None:
        return {"memcheck": f"{TOOL} is not installed"}
    if seconds < LEAST_SECONDS:
        return {"memcheck": "the time was up"}
    command = [tool, "--tool", "memcheck", "--target-processes", "all", "--error-exitcode", str(FOUND)]
    command += [sys.executable, "-m", "pytest", "-q", "-x", "-m", "gpu", "-k", "cuda", "-p", "no:cacheprovider"]
    command += ["tests/kernels"]
    environment = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "PYNANOCHAT_BACKEND")}
    environment["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
    code, output = run_limited(command, checkout, environment, seconds)
    if code == 0:
        return {"memcheck": "clean"}
    if code is None and "Invalid __" not in output:
        return {"memcheck": "no error until the time was up"}
    what = "errors" if code in (FOUND, None) else f"pytest ended with {code}"
    return {"memcheck": what, "output": last_lines(output)}


def last_lines(output: str, count: int = 40) -> list[str]:
    return output.splitlines()[-count:]
