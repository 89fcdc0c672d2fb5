"""The memory check of the CUDA ops with a stand-in for compute-sanitizer."""

import os
import stat

import pytest

from pynanochat.bench import gpu_memcheck
from pynanochat.bench.gpu_memcheck import run_memcheck

BOTH = ("memcheck", "racecheck")
LINES = {
    "memcheck": "Invalid __global__ write of size 4",
    "racecheck": "Error: Race reported between Write access and Read access",
}


@pytest.fixture
def sanitizer(tmp_path, monkeypatch):
    """Puts a compute-sanitizer of these shell lines first on PATH."""

    def install(lines):
        folder = tmp_path / "bin"
        folder.mkdir()
        tool = folder / gpu_memcheck.TOOL
        tool.write_text(f"#!/bin/sh\n{lines}\n")
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    return install


def test_without_the_tool_or_the_time_it_says_so(tmp_path, monkeypatch, sanitizer):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run_memcheck(tmp_path, 100) == dict.fromkeys(BOTH, "compute-sanitizer is not installed")
    sanitizer("exit 0")
    assert run_memcheck(tmp_path, gpu_memcheck.LEAST_SECONDS - 1) == dict.fromkeys(BOTH, "the time was up")


def test_it_watches_the_cuda_tests_without_torchs_cache(tmp_path, sanitizer):
    sanitizer(f'echo "$PYTORCH_NO_CUDA_MEMORY_CACHING $@" >> {tmp_path}/said')
    assert run_memcheck(tmp_path, 100) == dict.fromkeys(BOTH, "clean")
    for what, said in zip(BOTH, (tmp_path / "said").read_text().splitlines(), strict=True):
        assert said.startswith(f"1 --tool {what} ") and "-m gpu -k cuda" in said and said.endswith("tests/kernels")


def test_errors_come_with_the_last_lines(tmp_path, sanitizer):
    sanitizer("seq 1 100; echo '========= ERROR SUMMARY: 1 error'; exit 9")
    result = run_memcheck(tmp_path, 100)
    assert result["memcheck"] == result["racecheck"] == "errors" and len(result["output"]) == 80
    assert result["output"][-1].endswith("ERROR SUMMARY: 1 error")


def test_a_run_that_fails_otherwise_is_not_called_clean(tmp_path, sanitizer):
    sanitizer("exit 4")
    assert run_memcheck(tmp_path, 100)["racecheck"] == "pytest ended with 4"


@pytest.mark.parametrize("what", BOTH)
def test_what_was_seen_until_the_time_was_up(tmp_path, sanitizer, monkeypatch, what):
    """One tool's findings are no finding of the other."""
    monkeypatch.setattr(gpu_memcheck, "LEAST_SECONDS", 0)
    sanitizer(f"echo '========= {LINES[what]}'; exec sleep 60")
    result = run_memcheck(tmp_path, 4)
    assert {name: result[name] for name in BOTH} == {
        name: "errors" if name == what else "no error until the time was up" for name in BOTH
    }
