"""muon_step against fp64 formulas written out here for one matrix, and against the exact polar factor by SVD."""

import pytest
import torch

from pynanochat.errors import UsageError
from pynanochat.ops.muon_step import muon_step, second_moment_shape

SHAPES = [(16, 16), (8, 32), (32, 8), (5, 7), (7, 5), (1, 9), (9, 1), (33, 65)]
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU])]
EXPRESS = [
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
]


@pytest.fixture(params=["cpu", "reference"], autouse=True)
def backend(request, monkeypatch):
    monkeypatch.setenv("PYNANOCHAT_BACKEND", request.param)


def draw(seed, *shape, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def by_singular_values(matrix, coefficients):
    """Odd polynomials of a matrix act on its singular values alone."""
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    for a, b, c in coefficients:
        s = a * s + b * s**3 + c * s**5
    return u @ torch.diag(s) @ vh


def expected_update(g, recipe, second, beta2=0.9):
    """The update of one matrix in fp64, looping over rows. Returns (update, new second moment)."""
    rows, cols = g.shape
    if recipe == "2025":
        return by_singular_values(g / (g.norm() + 1e-7), [(3.4445, -4.7750, 2.0315)] * 5), None
    rms = g.norm() / rows**0.5
    g = torch.stack([row * rms / max(float(row.norm()), 1e-6) for row in g])
    update = by_singular_values(g / (1.01 * g.norm() + 1e-6), EXPRESS)
    update = update * min(rows, cols) ** 0.5 / update.norm()
    lines = list(update) if rows >= cols else list(update.T)
    second = beta2 * second + (1 - beta2) * torch.stack([line.square().mean() for line in lines])
    lines = torch.stack([line / s.sqrt() for line, s in zip(lines, second, strict=True)])
    scaled = lines if rows >= cols else lines.T
    return scaled * update.norm() / scaled.norm(), second


def run(steps, shape, recipe, dtype, n=3, ns_dtype=None, weight_decay=0.0, device="cpu", params=None):
    params = (draw(99, n, *shape, dtype=dtype) if params is None else params).to(device)
    momentum = torch.zeros_like(params)
    second = params.new_zeros(second_moment_shape(params.shape)) if recipe == "2026" else None
    for step in range(steps):
        grads = draw(step, n, *shape, dtype=dtype).to(device)
        muon_step(
            params,
            grads,
            momentum,
            second,
            lr=0.02,
            momentum=0.9,
            beta2=0.9,
            weight_decay=weight_decay,
            recipe=recipe,
            ns_dtype=ns_dtype,
        )
    return params, momentum, second


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("recipe", ["2025", "2026"])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_formula(shape, recipe, device):
    params, momentum, second = run(
        3, shape, recipe, torch.float64, ns_dtype=torch.float64, weight_decay=0.3, device=device
    )
    factor = 0.02 * max(1, shape[0] / shape[1]) ** 0.5
    for i in range(3):
        p, buffer = draw(99, 3, *shape)[i], torch.zeros(shape, dtype=torch.float64)
        moment = torch.zeros(max(shape), dtype=torch.float64)
        for step in range(3):
            grad = draw(step, 3, *shape)[i]
            buffer = 0.9 * buffer + 0.1 * grad
            update, moment = expected_update(0.1 * grad + 0.9 * buffer, recipe, moment)
            decays = (update * p >= 0) if recipe == "2026" else torch.ones_like(p)
            p = p - factor * (update + 0.3 * p * decays)
        torch.testing.assert_close(params[i].cpu(), p, rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(momentum[i].cpu(), buffer, rtol=1e-12, atol=1e-12)
        if recipe == "2026":
            torch.testing.assert_close(second[i].flatten().cpu(), moment, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("recipe", ["2025", "2026"])
@pytest.mark.parametrize("shape", [(48, 48), (24, 96), (96, 24)])
def test_one_step_is_close_to_the_polar_factor(shape, recipe):
    grad = draw(5, 1, *shape, dtype=torch.float32)
    u, _, vh = torch.linalg.svd(grad[0].double(), full_matrices=False)
    params, momentum = torch.zeros(1, *shape), torch.zeros(1, *shape)
    second = torch.zeros(second_moment_shape(params.shape))
    muon_step(params, grad, momentum, second, lr=-1.0, momentum=0.0, recipe=recipe, ns_dtype=torch.float32)
    update = params[0].double() / max(1, shape[0] / shape[1]) ** 0.5
    cosine = (update * (u @ vh)).sum() / (update.norm() * (u @ vh).norm())
    assert cosine > 0.97
    singular = torch.linalg.svdvals(update)
    # square Gaussian matrices have singular values near 0, which five steps bring up only part of the way
    assert singular.max() < 1.35
    if shape[0] != shape[1]:
        assert singular.min() > 0.6


@pytest.mark.parametrize("shape", SHAPES)
def test_2026_update_has_the_norm_of_an_orthogonal_matrix(shape):
    params, momentum = torch.zeros(2, *shape), torch.zeros(2, *shape)
    second = draw(3, *second_moment_shape(params.shape), dtype=torch.float32).square()
    grads = draw(1, 2, *shape, dtype=torch.float32)
    muon_step(params, grads, momentum, second, lr=1.0, momentum=0.5, recipe="2026", ns_dtype=torch.float32)
    for update in params / max(1, shape[0] / shape[1]) ** 0.5:
        assert float(update.norm()) == pytest.approx(min(shape) ** 0.5, rel=1e-5)


def test_rows_with_large_history_move_less():
    params, momentum = torch.zeros(1, 8, 4), torch.zeros(1, 8, 4)
    second = torch.ones(1, 8, 1)
    second[0, 3] = 100.0
    muon_step(params, draw(1, 1, 8, 4, dtype=torch.float32), momentum, second, lr=1.0, recipe="2026")
    rows = params[0].norm(dim=-1)
    assert rows[3] == rows.min()
    assert rows[3] < 0.3 * rows.median()


def test_decay_is_cautious_in_2026_and_plain_in_2025():
    start = draw(7, 2, 6, 10, dtype=torch.float32)
    for recipe in ("2025", "2026"):
        still, _, _ = run(1, (6, 10), recipe, torch.float32, n=2, params=start.clone())
        decayed, _, _ = run(1, (6, 10), recipe, torch.float32, n=2, params=start.clone(), weight_decay=0.5)
        update = start - still
        expected = -0.02 * 0.5 * start * ((update * start >= 0) if recipe == "2026" else 1)
        torch.testing.assert_close(decayed - still, expected, rtol=1e-4, atol=1e-6)
        assert (expected == 0).any() == (recipe == "2026")


@pytest.mark.parametrize("shape", [(48, 80), (80, 48)])
def test_2025_moves_as_torch_optim_muon(shape):
    ours, _, _ = run(3, shape, "2025", torch.float32, ns_dtype=torch.bfloat16)
    exact, _, _ = run(3, shape, "2025", torch.float32, ns_dtype=torch.float64)
    theirs = [torch.nn.Parameter(p.clone()) for p in draw(99, 3, *shape, dtype=torch.float32)]
    optimizer = torch.optim.Muon(theirs, lr=0.02, momentum=0.9, weight_decay=0.0, adjust_lr_fn="original")
    for step in range(3):
        for p, grad in zip(theirs, draw(step, 3, *shape, dtype=torch.float32), strict=True):
            p.grad = grad
        optimizer.step()
    theirs = torch.stack([p.detach() for p in theirs])
    moved = (exact - draw(99, 3, *shape, dtype=torch.float32)).norm()
    assert (ours - exact).norm() <= 2 * (theirs - exact).norm()
    assert (theirs - exact).norm() < 0.02 * moved


@pytest.mark.parametrize("recipe", ["2025", "2026"])
def test_bf16_iteration_stays_close(recipe):
    exact, _, _ = run(1, (64, 128), recipe, torch.float32, ns_dtype=torch.float64)
    start = draw(99, 3, 64, 128, dtype=torch.float32)
    for dtype, bound in [(torch.float32, 1e-4), (torch.bfloat16, 0.1)]:
        near, _, _ = run(1, (64, 128), recipe, torch.float32, ns_dtype=dtype)
        assert (near - exact).norm() / (exact - start).norm() < bound


@pytest.mark.parametrize("recipe", ["2025", "2026"])
def test_zero_gradient_and_zero_row_are_harmless(recipe):
    params = draw(0, 2, 6, 4, dtype=torch.float32)
    before, grads = params.clone(), draw(1, 2, 6, 4, dtype=torch.float32)
    grads[0] = 0
    grads[1, 2] = 0
    muon_step(params, grads, torch.zeros(2, 6, 4), torch.zeros(2, 6, 1), lr=0.1, recipe=recipe, ns_dtype=torch.float32)
    assert torch.equal(params[0], before[0])
    assert torch.isfinite(params).all()
    assert torch.equal(params[1, 2], before[1, 2])
    assert not torch.equal(params[1, 0], before[1, 0])


def test_2025_does_not_see_the_scale_of_the_gradient():
    steps = []
    for scale in (1.0, 1e4):
        params = torch.zeros(1, 12, 20)
        muon_step(
            params, scale * draw(1, 1, 12, 20, dtype=torch.float32), torch.zeros(1, 12, 20), lr=1.0, recipe="2025"
        )
        steps.append(params)
    torch.testing.assert_close(*steps, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("recipe", ["2025", "2026"])
@pytest.mark.parametrize("device", DEVICES)
def test_list_equals_stack(recipe, device):
    stack, grads = draw(0, 3, 10, 6, dtype=torch.float32).to(device), draw(1, 3, 10, 6, dtype=torch.float32).to(device)
    matrices = [p.clone() for p in stack]
    untouched = grads.clone()
    for params, given in [(stack, grads), (matrices, list(grads))]:
        second = torch.zeros(3, 10, 1, device=device)
        muon_step(params, given, torch.zeros(3, 10, 6, device=device), second, lr=0.1, recipe=recipe)
    assert torch.equal(stack, torch.stack(matrices))
    assert torch.equal(grads, untouched)


@pytest.mark.parametrize("recipe", ["2025", "2026"])
def test_layouts_may_differ(recipe):
    start, grad = draw(0, 10, 6, dtype=torch.float32), draw(1, 10, 6, dtype=torch.float32)
    results = []
    for given in (grad, grad.T.contiguous().T):
        params = start.clone()
        muon_step([params], [given], torch.zeros(1, 10, 6), torch.zeros(1, 10, 1), lr=0.1, recipe=recipe)
        results.append(params)
    torch.testing.assert_close(*results)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": "2024"}, "recipe '2024'"),
        ({"ns_steps": 6}, "ns_steps 6"),
        ({"ns_steps": 0}, "ns_steps 0"),
        ({"second_moment": None}, "second_moment"),
        ({"second_moment": torch.zeros(2, 1, 3)}, "second_moment"),
        ({"grads": torch.zeros(3, 4, 3)}, "as many"),
        ({"grads": torch.zeros(2, 3, 4)}, "shape"),
        ({"momentum_buffer": torch.zeros(2, 12)}, "shape"),
    ],
)
def test_misuse_is_named(change, message):
    given = {
        "params": torch.zeros(2, 4, 3),
        "grads": torch.zeros(2, 4, 3),
        "momentum_buffer": torch.zeros(2, 4, 3),
        "second_moment": torch.zeros(2, 4, 1),
    }
    with pytest.raises(UsageError, match=message):
        muon_step(**{"lr": 0.1, **given, **change})
