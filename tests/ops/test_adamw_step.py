"""adamw_step against torch.optim.AdamW and the formula in fp64; tests/kernels runs the kernels."""

import pytest
import torch

from pynanochat.errors import UsageError
from pynanochat.ops.adamw_step import adamw_step

SETTINGS = {"lr": 0.03, "beta1": 0.8, "beta2": 0.95, "eps": 1e-10, "weight_decay": 0.1}
SHAPES = [(7, 13), (1,), (), (3, 5, 2), (129, 257)]
NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU])]


def tensors(seed, dtype=torch.float32, device="cpu", shapes=SHAPES):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype) for shape in shapes]


@pytest.fixture(params=["cpu", "reference"])
def backend(request, monkeypatch):
    monkeypatch.setenv("PYNANOCHAT_BACKEND", request.param)
    return request.param


@pytest.mark.parametrize("device", DEVICES)
def test_equals_torch(backend, device, record_property):
    if device == "cuda":
        record_property("op", "adamw_step")
        record_property("backend", backend)
    params = tensors(0, device=device)
    moments = [[torch.zeros_like(p) for p in params] for _ in range(2)]
    theirs = [p.clone().requires_grad_() for p in params]
    optimizer = torch.optim.AdamW(theirs, lr=0.03, betas=(0.8, 0.95), eps=1e-10, weight_decay=0.1, foreach=False)
    for step in range(1, 8):
        grads = tensors(step, device=device)
        adamw_step(params, grads, *moments, step=step, **SETTINGS)
        for p, g in zip(theirs, grads, strict=True):
            p.grad = g
        optimizer.step()
        for ours, reference in zip(params, theirs, strict=True):
            torch.testing.assert_close(ours, reference.detach(), rtol=2e-6, atol=2e-7)


def test_error_is_at_most_twice_that_of_torch(backend):
    shape = (64, 1000)
    (param,), (grad,) = tensors(0, shapes=[shape]), tensors(1, shapes=[shape])
    exact = param.double() * (1 - 0.03 * 0.1)
    m, v = (1 - 0.8) * grad.double(), (1 - 0.95) * grad.double() ** 2
    exact -= 0.03 * (m / (1 - 0.8)) / ((v / (1 - 0.95)).sqrt() + 1e-10)

    theirs = param.clone().requires_grad_()
    theirs.grad = grad.clone()
    torch.optim.AdamW([theirs], lr=0.03, betas=(0.8, 0.95), eps=1e-10, weight_decay=0.1).step()
    adamw_step(param, grad, torch.zeros_like(param), torch.zeros_like(param), step=1, **SETTINGS)
    assert (param - exact).abs().max() <= 2 * (theirs.detach() - exact).abs().max()


def test_list_equals_one_at_a_time(backend):
    together, alone = tensors(0), tensors(0)
    m, v = [[torch.zeros_like(p) for p in together] for _ in range(2)]
    adamw_step(together, tensors(1), m, v, step=1, **SETTINGS)
    for p, g, joint in zip(alone, tensors(1), together, strict=True):
        adamw_step(p, g, torch.zeros_like(p), torch.zeros_like(p), step=1, **SETTINGS)
        assert torch.equal(p, joint)


def test_layouts_may_differ(backend):
    params, expected = tensors(0, shapes=[(6, 10)]), tensors(0, shapes=[(6, 10)])
    grad = tensors(1, shapes=[(10, 6)])[0].T  # the same matrix, other strides
    zeros = lambda: [torch.zeros(6, 10)]  # noqa: E731
    adamw_step(params, [grad], zeros(), zeros(), step=1, **SETTINGS)
    adamw_step(expected, [grad.contiguous()], zeros(), zeros(), step=1, **SETTINGS)
    torch.testing.assert_close(params, expected)


def test_a_gradient_may_be_narrower(backend):
    params, expected, grads = tensors(0), tensors(0), tensors(1, torch.bfloat16)
    zeros = lambda: [[torch.zeros_like(p) for p in params] for _ in range(2)]  # noqa: E731
    adamw_step(params, grads, *zeros(), step=1, **SETTINGS)
    adamw_step(expected, [g.float() for g in grads], *zeros(), step=1, **SETTINGS)
    assert all(torch.equal(p, e) for p, e in zip(params, expected, strict=True))


def test_zero_gradient_only_decays(backend):
    (param,) = tensors(0, shapes=[(5, 5)])
    before, zero = param.clone(), torch.zeros(5, 5)
    adamw_step(param, zero, zero.clone(), zero.clone(), step=1, **SETTINGS)
    torch.testing.assert_close(param, before * (1 - 0.03 * 0.1), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": 0}, "step 0"),
        ({"grad": torch.zeros(3)}, "agree"),
        ({"exp_avg": torch.zeros(4, dtype=torch.float64)}, "agree"),
        ({"grad": torch.zeros(4, dtype=torch.float64)}, "agree"),
        ({"grad": [torch.zeros(4)] * 2}, "as many"),
    ],
)
def test_misuse_is_named(change, message):
    given = {"param": torch.zeros(4), "grad": torch.zeros(4), "exp_avg": torch.zeros(4), "exp_avg_sq": torch.zeros(4)}
    if isinstance(change.get("grad"), list):
        given = {k: [v] for k, v in given.items()}
    with pytest.raises(UsageError, match=message):
        adamw_step(**{"step": 1, **SETTINGS, **given, **change})
