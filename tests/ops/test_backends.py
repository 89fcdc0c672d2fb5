"""The order of the GPU backends, without a GPU."""

import types

import pytest
import torch

from pynanochat.ops import adamw_step_gpu, attention_gpu, attention_paged_gpu, backends, muon_step_gpu

GPU = types.SimpleNamespace(type="cuda", index=0)


@pytest.fixture
def gpu(monkeypatch):
    """An op whose backends all passed on this GPU, of which cuda takes only small sizes; returns choose for a dtype and
    the arguments of a call."""
    monkeypatch.delenv("PYNANOCHAT_BACKEND", raising=False)
    monkeypatch.setattr(backends, "_implementations", {})
    monkeypatch.setattr(backends, "_takes", {})
    for backend in ("reference", "triton"):
        backends.implement("op", backend, None)
    backends.implement("op", "cuda", None, takes=lambda x, size: size < 8)
    monkeypatch.setattr(backends, "architecture", lambda index: "sm_80")
    monkeypatch.setattr(backends, "verified", lambda architecture: {("op", "triton"), ("op", "cuda")})
    monkeypatch.setattr(backends, "missing", lambda backend: "")
    return lambda dtype, *arguments: backends.choose("op", types.SimpleNamespace(dtype=dtype, device=GPU), *arguments)


def test_what_a_backend_does_not_take_goes_to_the_next(gpu):
    assert gpu(torch.float32, (1, 7)) == "cuda" and gpu(torch.float32, (1, 8)) == "triton"
    assert gpu(torch.float64, (1, 7)) == "reference" and gpu(torch.float32) == "cuda"


def test_what_a_forced_backend_does_not_take_goes_to_the_reference(gpu, monkeypatch):
    monkeypatch.setenv("PYNANOCHAT_BACKEND", "cuda")
    assert gpu(torch.float32, (1, 7)) == "cuda" and gpu(torch.float32, (1, 8)) == "reference"
    here = torch.zeros(())
    assert backends.choose("op", here, (1, 8)) == "cuda", "that there is no GPU is said first, by the backend itself"


def test_torch_compile_takes_the_choice_as_a_constant(monkeypatch):
    """Tracing it would read files and ask drivers, which breaks the graph at every op."""
    asked = []
    monkeypatch.setattr(backends, "architecture", lambda index: asked.append(index) or "sm_80")
    monkeypatch.setattr(backends, "verified", lambda architecture: open("/dev/null").close() or {("op", "triton")})
    monkeypatch.setattr(backends, "missing", lambda backend: "")

    def step(x):
        passed = backends._passed("op", "triton", 0) and backends.takes("attention", "cuda", (x, x, x, 1))
        return x + 1 if passed else x - 1

    compiled = torch.compile(step, fullgraph=True, backend="eager")
    assert torch.equal(compiled(torch.zeros(1, 2, 2, 64).half()), torch.ones(1, 2, 2, 64)) and asked
    assert torch.equal(compiled(torch.zeros(1, 2, 2, 32).half()), -torch.ones(1, 2, 2, 32))


def test_what_the_cuda_kernels_take():
    """Each names the calls that its launcher refuses."""
    half = torch.zeros(2, 3, 2, 64).half()
    assert attention_gpu.takes_cuda(half, half, half, -1)
    assert not attention_gpu.takes_cuda(half.float(), half, half, -1)
    assert not attention_gpu.takes_cuda(half[..., :32], half, half, -1)

    def paged(pages=half, longest=1):
        return attention_paged_gpu.takes_cuda(half[0], half, pages, None, None, None, longest, -1)

    assert paged() and not paged(longest=2) and not paged(pages=half[..., ::2])

    def adamw(**changed):
        four = {name: [torch.zeros(4, 2)] * 2 for name in ("params", "grads", "exp_avgs", "exp_avg_sqs")}
        return adamw_step_gpu.takes(*(four | changed).values())

    assert adamw() and adamw(grads=[torch.zeros(4, 2).half()] * 2)
    assert not adamw(grads=[torch.zeros(2, 4).T] * 2) and not adamw(exp_avgs=[torch.zeros(4, 2).half()] * 2)
    assert not adamw(grads=[torch.zeros(4, 2), torch.zeros(4, 2).half()])

    assert muon_step_gpu.takes_cuda(torch.zeros(1, 4, 9), torch.bfloat16)
    assert not muon_step_gpu.takes_cuda(torch.zeros(1, 4, 9), torch.float32)
    assert not muon_step_gpu.takes_cuda(torch.zeros(1, 1, muon_step_gpu.LARGEST + 1), torch.float16)
