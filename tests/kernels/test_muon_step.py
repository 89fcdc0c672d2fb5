"""muon_step on its GPU backends: the matrix iteration, then whole steps. Stacks of n matrices (R, C)."""

import pytest
import torch

from pynanochat.ops import muon_step_gpu
from pynanochat.ops.muon_step import (
    POLAR_EXPRESS,
    QUINTIC,
    iterate,
    muon_step,
    muon_step_reference,
    second_moment_shape,
)
from tests.kernels.on_gpu import test_a_hundred_times, test_in_a_graph, test_on_a_stream_of_its_own  # noqa: F401

OP = "muon_step"
RECIPES = {"2025": [QUINTIC] * 5, "2026": POLAR_EXPRESS}
HALF = torch.bfloat16  # what is asked for; the kernels may use fp16
SHAPES = {
    "dense": (2, 24, 40),
    "square of several tiles": (1, 70, 70),
    "gram": (2, 20, 90),
    "gram of several tiles": (1, 66, 140),
    "tall dense": (1, 40, 24),
    "tall gram": (2, 90, 20),
    "rows": (6, 1, 9),
    "columns": (6, 9, 1),
}


def draw(seed, *shape, device="cpu"):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device)


def normalized(x):
    return x / (1.01 * torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True))


def check_iteration(backend, no_worse, x, coefficients, dtype):
    iterate_ours = getattr(muon_step_gpu, f"iterate_{backend}")
    if backend == "cuda" and dtype == torch.float32:  # which another backend does
        with pytest.raises(ValueError, match="float16"):
            iterate_ours(x.clone(), coefficients, dtype)
        return
    ours = iterate_ours(x.clone(), coefficients, dtype)
    plain, truth = iterate(x, coefficients, dtype), iterate(x, coefficients, torch.float64)
    no_worse("iteration", ours.float(), plain.float(), truth)


def example(backend, device):
    iterate_ours = getattr(muon_step_gpu, f"iterate_{backend}")
    run = lambda x: iterate_ours(x.clone(), POLAR_EXPRESS, HALF)  # noqa: E731
    return run, [normalized(draw(0, 2, 300, 700, device=device))]


@pytest.mark.parametrize("dtype", [torch.float32, HALF], ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_iteration(backend, device, no_worse, shape, dtype):
    """Both forms and orientations, of each recipe in turn, against plain products in the dtype that was asked for."""
    for n, coefficients in enumerate(RECIPES.values()):
        if dtype == HALF or n == min(shape) % 2:  # interpreted fp32 products are slow
            check_iteration(backend, no_worse, normalized(draw(n, *shape, device=device)), coefficients, dtype)


def test_few_directions(backend, device, no_worse):
    """Most singular values near nothing, where a Gram matrix keeps little but rounding errors."""
    x = draw(0, 1, 24, 4) @ draw(1, 1, 4, 80) + 1e-3 * draw(2, 1, 24, 80)
    check_iteration(backend, no_worse, normalized(x).to(device), POLAR_EXPRESS, HALF)


@pytest.mark.parametrize("steps", range(1, 6))
def test_fewer_steps(backend, device, no_worse, steps):
    """The Gram form begins anew in the middle, and must end right wherever it ends."""
    check_iteration(backend, no_worse, normalized(draw(0, 1, 9, 40)).to(device), POLAR_EXPRESS[:steps], HALF)


def test_strided(backend, device, no_worse):
    """Every second column of a slice, and a stack stored with its matrices side by side."""
    wide = normalized(draw(0, 2, 12, 80, device=device))
    check_iteration(backend, no_worse, wide[:, 2:, ::2], POLAR_EXPRESS, HALF)
    check_iteration(
        backend, no_worse, normalized(draw(0, 12, 2, 30, device=device).transpose(0, 1)), POLAR_EXPRESS, HALF
    )


def run(step, shape, recipe, ns_dtype, device, dtype=torch.float32, steps=2):
    """params, momentum and second moment after `steps` calls of `step`."""
    params = draw(99, *shape, device=device).to(dtype)
    momentum, second = torch.zeros_like(params), params.new_zeros(second_moment_shape(shape))
    for n in range(steps):
        grads = draw(n, *shape, device=device).to(dtype)
        step(
            params.unbind(0), grads.unbind(0), momentum, second, lr=0.02, momentum=0.9, beta2=0.9, weight_decay=0.3,
            recipe=recipe, ns_steps=5, ns_dtype=ns_dtype,
        )  # fmt: skip
    return params, momentum, second


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("shape", [(2, 24, 30), (2, 20, 60), (2, 50, 20), (1, 7, 5)], ids=str)
def test_whole_steps(backend, device, no_worse, monkeypatch, shape, recipe):
    monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)
    ours = run(muon_step, shape, recipe, HALF, device)
    plain = run(muon_step_reference, shape, recipe, HALF, device)
    truth = run(muon_step_reference, shape, recipe, torch.float64, device, torch.float64)
    for what, mine, theirs, true in zip(("params", "momentum", "second moment"), ours, plain, truth, strict=True):
        no_worse(what, mine, theirs, true)


def test_layouts_and_addresses_may_differ(backend, device, monkeypatch):
    """A list whose matrices are stored by columns, off 16 bytes, or each in its own way, moves as a stack does."""
    monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)
    start, grad = draw(0, 2, 20, 34, device=device), draw(1, 2, 20, 34, device=device)
    by_columns = lambda m: m.T.contiguous().T  # noqa: E731
    off = lambda m: torch.cat([m.new_zeros(1), m.flatten()])[1:].view(m.shape)  # noqa: E731
    results = []
    for first, second in ((torch.clone, torch.clone), (by_columns, by_columns), (off, off), (torch.clone, by_columns)):
        params, grads = [first(start[0]), second(start[1])], [second(grad[0]), first(grad[1])]
        momentum, moment = torch.zeros_like(start), start.new_zeros(second_moment_shape(start.shape))
        muon_step(params, grads, momentum, moment, lr=0.1, weight_decay=0.2, ns_dtype=HALF)
        results.append(torch.stack(params))
    assert not torch.equal(results[0], start)
    assert all(torch.equal(results[0], other) for other in results[1:])


def test_zero_gradient_and_zero_row_are_harmless(backend, device, monkeypatch):
    monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)
    for recipe in RECIPES:
        params, grads = draw(0, 2, 6, 4, device=device), draw(1, 2, 6, 4, device=device)
        before = params.clone()
        grads[0], grads[1, 2] = 0, 0
        state = torch.zeros_like(params), params.new_zeros(2, 6, 1)
        muon_step(params, grads, *state, lr=0.1, recipe=recipe, ns_dtype=HALF)
        assert torch.equal(params[0], before[0]) and torch.equal(params[1, 2], before[1, 2])
        assert params.isfinite().all() and not torch.equal(params[1, 0], before[1, 0])


def test_tiny_and_huge_gradients(backend, device, monkeypatch):
    """Half precision never sees a gradient as it comes: its scale must not matter."""
    monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)
    moved = []
    for size in (1e-4, 1.0, 1e4):
        params = torch.zeros(1, 12, 20, device=device)
        muon_step(
            params, size * draw(1, 1, 12, 20, device=device), params.clone(), lr=1.0, recipe="2025", ns_dtype=HALF
        )
        moved.append(params)
    for other in (moved[0], moved[2]):
        torch.testing.assert_close(other, moved[1], rtol=0.01, atol=0.002)


def test_the_same_twice(backend, device, monkeypatch):
    monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)
    first, second = (run(muon_step, (2, 24, 30), "2026", HALF, device, steps=1) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(4, 1536, 1536), (2, 1536, 6144), (2, 3072, 768), (1, 2048, 2048)], ids=str)
def test_large_iteration(backend, no_worse, shape):
    for dtype in (torch.float32, HALF):
        check_iteration(backend, no_worse, normalized(draw(0, *shape, device="cuda")), POLAR_EXPRESS, dtype)
