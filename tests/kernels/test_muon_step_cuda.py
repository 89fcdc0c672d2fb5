"""muon_step on its GPU backends: the matrix iteration alone, and whole steps of both recipes. A stack is (n, R, C)."""

import importlib

import pytest
import torch

from pynanochat.ops.muon_step import muon_step, second_moment_shape

OP = "muon_step"
op = importlib.import_module("pynanochat.ops.muon_step")  # `import ... as` would give the function of this name
SHAPES = {  # n, R, C
    "square": (1, 64, 64),
    "wide": (2, 40, 72),
    "tall": (2, 72, 40),
    "odd wide": (1, 5, 33),
    "odd tall": (1, 33, 7),
    "one row": (3, 1, 9),
    "one column": (1, 9, 1),
    "a tile": (1, 128, 136),
}
SEVERAL_TILES = {"wide": (1, 136, 144), "tall": (1, 272, 136)}


def draw(shape, device, dtype=torch.float32, seed=0):
    """Matrices whose largest singular value is at most 1."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (x / x.norm(dim=(-2, -1), keepdim=True)).to(device, dtype)


def iterate(backend, x, coefficients):
    return getattr(op, f"iterate_{backend}")(x.clone(), coefficients, x.dtype)


def check_iteration(backend, no_worse, shape, coefficients, device, dtype=torch.bfloat16):
    x = draw(shape, device, dtype)
    ours = iterate(backend, x, coefficients)
    no_worse("x", ours, op.iterate(x, coefficients, dtype), op.iterate(x, coefficients, torch.float64))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_iteration(backend, device, no_worse, shape, dtype):
    """One step in bf16, two in fp16."""
    check_iteration(backend, no_worse, shape, op.POLAR_EXPRESS[: 1 + (dtype == torch.float16)], device, dtype)


@pytest.mark.parametrize("shape", SEVERAL_TILES.values(), ids=SEVERAL_TILES)
def test_several_tiles(backend, device, no_worse, shape):
    check_iteration(backend, no_worse, shape, [op.QUINTIC], device)


def test_matrices_of_a_stack_do_not_meet(backend, device):
    """A stack gives what its matrices give alone, also beside one of NaN."""
    x = draw((3, 24, 40), device, torch.bfloat16)
    x[1] = float("nan")
    together = iterate(backend, x, [op.QUINTIC])
    assert together[1].isnan().all()
    for i in (0, 2):
        assert torch.equal(together[i : i + 1], iterate(backend, x[i : i + 1], [op.QUINTIC]))


def run(shape, recipe, device, dtype, ns_dtype, steps=1):
    """Parameters and their state after a few steps."""
    params = draw(shape, device, torch.float32, seed=9).to(dtype)
    momentum = torch.zeros_like(params)
    second = params.new_zeros(second_moment_shape(params.shape)) if recipe == "2026" else None
    for step in range(steps):
        grads = draw(shape, device, torch.float32, seed=step).to(dtype)
        muon_step(params, grads, momentum, second, lr=0.02, weight_decay=0.1, recipe=recipe, ns_dtype=ns_dtype)
    return params, momentum, second


@pytest.mark.parametrize("recipe", ["2025", "2026"])
@pytest.mark.parametrize("shape", [(2, 24, 56), (2, 56, 24)], ids=["wide", "tall"])
def test_public_op(backend, device, monkeypatch, shape, recipe):
    """The update's error is at most twice plain torch's, each in bf16, by their root mean squares."""
    monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)
    ours = run(shape, recipe, device, torch.float32, torch.bfloat16)
    monkeypatch.setenv("PYNANOCHAT_BACKEND", "reference")
    theirs = run(shape, recipe, device, torch.float32, torch.bfloat16)
    truth = run(shape, recipe, device, torch.float64, torch.float64)
    error, limit = ((x[0].double() - truth[0]).norm().item() for x in (ours, theirs))
    assert 0 < error <= 2 * limit
    torch.testing.assert_close(ours[1], theirs[1])
    if recipe == "2026":
        torch.testing.assert_close(ours[2], theirs[2], rtol=0.1, atol=1e-4)


def test_other_dtypes_of_the_iteration(backend, device, monkeypatch):
    """In fp32 another implementation iterates, with the reference's result."""
    monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)
    ours = run((2, 8, 12), "2026", device, torch.float32, torch.float32)
    monkeypatch.setenv("PYNANOCHAT_BACKEND", "reference")
    theirs = run((2, 8, 12), "2026", device, torch.float32, torch.float32)
    torch.testing.assert_close(ours[0], theirs[0])


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(24, 768, 768), (6, 3072, 768), (6, 768, 3072), (2, 1000, 1500)], ids=str)
def test_a_models_matrices(backend, no_worse, shape):
    check_iteration(backend, no_worse, shape, op.POLAR_EXPRESS[:2], "cuda")


@pytest.mark.gpu
def test_stream(backend, no_worse):
    """On a stream of its own, behind work that is still running there."""
    stream = torch.cuda.Stream()
    x = draw((4, 256, 512), "cuda", torch.bfloat16)
    expected, truth = (op.iterate(x, [op.QUINTIC], dtype) for dtype in (torch.bfloat16, torch.float64))
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        ours = iterate(backend, x + 0, [op.QUINTIC])
    stream.synchronize()
    no_worse("x", ours, expected, truth)
