"""muon_step in CUDA, in smaller sizes than test_muon_step.py, as its products are emulated. A stack is (n, R, C)."""

import pytest
import torch

from pynanochat.ops import muon_step_gpu
from pynanochat.ops.muon_step import POLAR_EXPRESS, QUINTIC, muon_step, muon_step_reference
from tests.kernels.test_muon_step import HALF, check_iteration, draw, normalized, run

OP = "muon_step"
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


@pytest.mark.parametrize("dtype", [HALF, torch.float16], ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_iteration(backend, device, no_worse, shape, dtype):
    """One step in bf16, two in fp16."""
    x = normalized(draw(0, *shape, device=device))
    check_iteration(backend, no_worse, x, POLAR_EXPRESS[: 1 + (dtype == torch.float16)], dtype)


@pytest.mark.parametrize("shape", SEVERAL_TILES.values(), ids=SEVERAL_TILES)
def test_several_tiles(backend, device, no_worse, shape):
    check_iteration(backend, no_worse, normalized(draw(0, *shape, device=device)), [QUINTIC], HALF)


def test_matrices_of_a_stack_do_not_meet(backend, device):
    """A stack gives what its matrices give alone, also beside one of NaN."""
    x = normalized(draw(0, 3, 24, 40, device=device))
    x[1] = float("nan")
    iterate = lambda x: muon_step_gpu.iterate_cuda(x.clone(), [QUINTIC], HALF)  # noqa: E731
    together = iterate(x)
    assert together[1].isnan().all()
    for i in (0, 2):
        assert torch.equal(together[i : i + 1], iterate(x[i : i + 1]))


@pytest.mark.parametrize("recipe", ["2025", "2026"])
@pytest.mark.parametrize("shape", [(2, 24, 56), (2, 56, 24)], ids=["wide", "tall"])
def test_public_op(backend, device, monkeypatch, shape, recipe):
    """The update's error is at most twice plain torch's, each in bf16, by their root mean squares."""
    monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)
    ours = run(muon_step, shape, recipe, HALF, device, steps=1)
    theirs = run(muon_step_reference, shape, recipe, HALF, device, steps=1)
    truth = run(muon_step_reference, shape, recipe, torch.float64, device, torch.float64, steps=1)
    error, limit = ((x[0].double() - truth[0]).norm().item() for x in (ours, theirs))
    assert 0 < error <= 2 * limit
    torch.testing.assert_close(ours[1], theirs[1])
    if recipe == "2026":
        torch.testing.assert_close(ours[2], theirs[2], rtol=0.1, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(24, 768, 768), (6, 3072, 768), (6, 768, 3072), (2, 1000, 1500)], ids=str)
def test_a_models_matrices(backend, no_worse, shape):
    check_iteration(backend, no_worse, normalized(draw(0, *shape, device="cuda")), POLAR_EXPRESS[:2], HALF)
