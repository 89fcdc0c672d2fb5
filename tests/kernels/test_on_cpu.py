"""Runs this folder's tests without a GPU: the Triton twins interpreted, the CUDA kernels emulated under the sanitizers.

Each in a process of its own: TRITON_INTERPRET must precede `import triton`, the sanitizers everything. As many run at
a time as there are processors: half of what each does is importing.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy
import pytest
import torch

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FILES = sorted(set(HERE.glob("test_*.py")) - {Path(__file__), HERE / "test_compiles.py"})
OF_CUDA = [f for f in FILES if f.stem.endswith("_cuda")]
IN_TRITON = [f for f in FILES if (ROOT / "kernels" / f"{f.stem[5:]}.py").exists()]
LONG = ("attention", "muon_step")  # their test_OP.py would take minutes emulated: test_OP_cuda.py has smaller cases
IN_CUDA = OF_CUDA + [f for f in FILES if (ROOT / "csrc/cuda" / f"{f.stem[5:]}.cu").exists() and f.stem[5:] not in LONG]
COMPILER = os.environ.get("CXX", "g++")


def run_tests(file, **environment):
    command = [sys.executable, "-m", "pytest", "-v", "-x", "-m", "not gpu", "-p", "no:cacheprovider", str(file)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def check(run):
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    assert re.search(r"\d+ passed", run.stdout) and "skipped" not in run.stdout, run.stdout[-2000:]


@pytest.fixture(scope="module")
def start(request):
    """Starts the files that the selected tests named `test` are about; gives each file's run to come."""
    pool = ThreadPoolExecutor(os.cpu_count())

    def submit(test, **environment):
        files = [i.callspec.params["file"] for i in request.session.items if getattr(i, "originalname", "") == test]
        return {file: pool.submit(run_tests, file, **environment) for file in files}

    yield submit
    pool.shutdown(cancel_futures=True)


def version(package) -> tuple[int, int]:
    major, minor = package.__version__.split(".")[:2]
    return int(major), int(minor)


@pytest.fixture(scope="module")
def interpreted(start):
    triton = pytest.importorskip("triton")
    if version(triton) < (3, 7) and version(numpy) >= (2, 4):
        pytest.skip("Triton before 3.7 cannot interpret beside NumPy from 2.4 on: pip install 'numpy<2.4'")
    return start("test_triton_interpreted", TRITON_INTERPRET="1")


def test_no_file_is_left_out():
    assert set(IN_TRITON) | set(IN_CUDA) == set(FILES)


@pytest.mark.parametrize("file", IN_TRITON, ids=lambda f: f.stem[5:])
def test_triton_interpreted(file, interpreted):
    check(interpreted[file].result())


@pytest.fixture(scope="module")
def emulated(tmp_path_factory):
    """The extension with its kernels compiled for the CPU, and the environment to load it in."""
    python, torch_include = sysconfig.get_paths()["include"], Path(torch.__file__).parent / "include"
    if shutil.which(COMPILER) is None or not Path(python, "Python.h").exists():
        pytest.skip("needs a C++ compiler and Python.h")
    path = tmp_path_factory.mktemp("emulated") / "_C.so"
    build = ["sh", str(ROOT / "tests/cuda/emulator/build.sh"), str(ROOT), str(path), python, str(torch_include)]
    run = subprocess.run(build, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    find = lambda name: subprocess.check_output([COMPILER, f"-print-file-name={name}"], text=True).strip()  # noqa: E731
    return {
        "EMULATED_CUDA": str(path),
        "LD_PRELOAD": f"{find('libasan.so')} {find('libubsan.so')}",
        "ASAN_OPTIONS": "detect_leaks=0",
    }


@pytest.fixture(scope="module")
def runs_emulated(start, emulated):
    return start("test_cuda_emulated", **emulated)


@pytest.mark.parametrize("file", IN_CUDA, ids=lambda f: f.stem[5:])
def test_cuda_emulated(file, runs_emulated):
    check(runs_emulated[file].result())


def test_the_emulation_catches_a_read_out_of_bounds(emulated):
    """The sanitizers are awake: a view that reaches beyond its storage must end the process."""
    code = f"""
import sys, torch
sys.path.insert(0, {str(HERE)!r})
import emulated
emulated.install({emulated["EMULATED_CUDA"]!r})
products = torch.zeros(4, 64)
class Longer:
    shape, dtype, data_ptr, stride = torch.Size([5, 64]), torch.float32, products.data_ptr, lambda self: (64, 1)
targets, losses = torch.zeros(5).long(), torch.zeros(5)
extension = emulated.GLUE[0]._C
extension.cuda_linear_softcap_cross_entropy(Longer(), targets, None, losses, 15.0, -1, 0)
"""
    run = subprocess.run([sys.executable, "-c", code], env={**os.environ, **emulated}, capture_output=True, text=True)
    assert run.returncode != 0 and "heap-buffer-overflow" in run.stderr, run.stderr[-2000:]
