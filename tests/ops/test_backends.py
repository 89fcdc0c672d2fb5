"""The order of the GPU backends, without a GPU."""

import types

import pytest
import torch

from pynanochat.ops import backends


@pytest.fixture
def gpu(monkeypatch):
    """An op whose backends all passed on this GPU, of which cuda takes only bf16; returns choose for a dtype."""
    everything = types.SimpleNamespace()
    only_bf16 = types.SimpleNamespace(takes=lambda tensor: tensor.dtype == torch.bfloat16)
    monkeypatch.delenv("PYNANOCHAT_BACKEND", raising=False)
    monkeypatch.setattr(backends, "_implementations", {"op": {"reference": 1, "triton": everything, "cuda": only_bf16}})
    monkeypatch.setattr(backends, "architecture", lambda index: "sm_80")
    monkeypatch.setattr(backends, "verified", lambda architecture: {("op", "triton"), ("op", "cuda")})
    monkeypatch.setattr(backends, "missing", lambda backend: "")
    device = types.SimpleNamespace(type="cuda", index=0)
    return lambda dtype: backends.choose("op", types.SimpleNamespace(dtype=dtype, device=device))


def test_what_a_backend_does_not_take_goes_to_the_next(gpu):
    assert gpu(torch.bfloat16) == "cuda" and gpu(torch.float32) == "triton" and gpu(torch.float64) == "reference"


def test_a_forced_backend_is_not_asked(gpu, monkeypatch):
    monkeypatch.setenv("PYNANOCHAT_BACKEND", "cuda")
    assert gpu(torch.float32) == "cuda", "its own error names the remedy"


def test_torch_compile_takes_the_choice_as_a_constant(monkeypatch):
    """Tracing it would read files and ask drivers, which breaks the graph at every op."""
    asked = []
    monkeypatch.setattr(backends, "architecture", lambda index: asked.append(index) or "sm_80")
    monkeypatch.setattr(backends, "verified", lambda architecture: open("/dev/null").close() or {("op", "triton")})
    monkeypatch.setattr(backends, "missing", lambda backend: "")

    def step(x):
        return x + 1 if backends._passed("op", "triton", 0) else x - 1

    compiled = torch.compile(step, fullgraph=True, backend="eager")
    assert torch.equal(compiled(torch.zeros(3)), torch.ones(3)) and asked
