"""Runs this folder's tests through Triton's interpreter, where TRITON_INTERPRET=1 precedes `import triton`."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
FILES = sorted(
    set(Path(__file__).parent.glob("test_*.py")) - {Path(__file__), Path(__file__).with_name("test_compiles.py")}
)


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="already there")
@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem[5:])
def test_interpreted(file):
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-m", "pytest", "-v", "-x", "-m", "not gpu", "-p", "no:cacheprovider", str(file)]
    run = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert re.search(r"\d+ passed", run.stdout) and "skipped" not in run.stdout, run.stdout[-2000:]
