"""The tests of this folder run a GPU backend of an op, given as the fixtures `backend` and `device`.

Plain `pytest`: test_on_cpu.py starts them in processes of their own, with TRITON_INTERPRET=1 the Triton twins and with
EMULATED_CUDA=PATH the CUDA kernels, on CPU tensors. `pytest -m gpu` on a machine with a GPU: both backends there.
"""

import fcntl
import importlib.util
import os
import tempfile
from pathlib import Path

import pytest
import torch

from pynanochat.ops.backends import implementations, missing

ON_CPU = ["triton"] if os.environ.get("TRITON_INTERPRET") == "1" else []
if os.environ.get("EMULATED_CUDA"):
    specification = importlib.util.spec_from_file_location("emulated", Path(__file__).with_name("emulated.py"))
    emulated = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(emulated)
    emulated.install(os.environ["EMULATED_CUDA"])
    ON_CPU = ["cuda"]


def pytest_generate_tests(metafunc):
    if "backend" in metafunc.fixturenames:
        gpu_only = metafunc.definition.get_closest_marker("gpu")
        have = implementations(metafunc.module.OP)
        names = ("cuda",) if metafunc.module.__name__.endswith("_cuda") else ("triton", "cuda")
        on_gpu = [pytest.param(name, marks=pytest.mark.gpu) for name in names if name in have]
        metafunc.parametrize("backend", ON_CPU if ON_CPU and not gpu_only else on_gpu)


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    lacking = missing(item.callspec.params.get("backend", "")) if hasattr(item, "callspec") and not ON_CPU else ""
    if lacking:
        pytest.skip(lacking)


@pytest.fixture
def device():
    return "cpu" if ON_CPU else "cuda"


@pytest.fixture(autouse=True)
def _say_what_ran(request, record_property):
    """`pynanochat bench gpu` reads from the outcomes of the tests which (op, backend) passed here."""
    if "backend" in request.fixturenames:
        record_property("op", request.module.OP)
        record_property("backend", request.getfixturevalue("backend"))


@pytest.fixture(autouse=True)
def _alone_on_the_card(request):
    """Tests of very large tensors, which run in several processes, take the card's memory one after the other."""
    if "32_bits" not in request.node.name or not torch.cuda.is_available():
        yield
        return
    with open(Path(tempfile.gettempdir()) / "pynanochat-gpu.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
        torch.cuda.empty_cache()


@pytest.fixture
def no_worse():
    """Checks a result by its fp64 truth: its largest error is at most twice that of plain torch in the same dtype."""

    def check(what, ours, plain, truth, largest_logit=0.0):
        assert ours.shape == truth.shape and ours.dtype == plain.dtype, what
        error = (ours.double() - truth).abs().max().item()
        limit = 2 * (plain.double() - truth).abs().max().item()
        # plain torch may happen to be exact: one rounding of the result, and one of an fp32 logit, are always allowed
        size = truth.abs().max().item()
        roundings = torch.finfo(ours.dtype).eps * size + torch.finfo(torch.float32).eps * largest_logit * max(size, 1.0)
        limit = max(limit, roundings)
        assert error <= limit, f"{what}: error {error:.3g}, at most {limit:.3g} allowed"

    return check
