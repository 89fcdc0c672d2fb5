"""rms_norm and rms_norm_residual on the CPU: the reference, its gradient by formula, the registered operators."""

import pytest
import torch
import torch.nn.functional as F

from pynanochat.ops import rms_norm, rms_norm_residual
from pynanochat.ops.backends import implementations

OPERATORS = {name: getattr(torch.ops.pynanochat, name).default for name in ("rms_norm", "rms_norm_residual")}


def given(name, dtype=torch.float32):
    """The inputs of an op, with gradients."""
    count = 2 if name == "rms_norm_residual" else 1
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, 24, generator=generator, dtype=dtype).requires_grad_() for _ in range(count)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_sum_and_norm_have_the_bits_of_the_two_alone(dtype):
    x, residual = given("rms_norm_residual", dtype)
    total, normed = rms_norm_residual(x, residual)
    alone = x + residual
    assert torch.equal(total, alone) and torch.equal(normed, rms_norm(alone))
    assert torch.equal(normed, F.rms_norm(alone, (24,), eps=1e-6))
    joint = torch.autograd.grad((total * normed).sum(), (x, residual))
    assert all(map(torch.equal, joint, torch.autograd.grad((alone * rms_norm(alone)).sum(), (x, residual))))


def test_a_broadcast_residual_is_the_reference_s(monkeypatch):
    monkeypatch.setenv("PYNANOCHAT_BACKEND", "triton")  # which takes none
    x, residual = given("rms_norm_residual")
    total, _ = rms_norm_residual(x, residual[:, :1])
    assert torch.equal(total, x + residual[:, :1])


@pytest.mark.parametrize("name", OPERATORS)
def test_gradient_by_formula(name):
    reference = implementations(name)["reference"]
    inputs = given(name, torch.float64)
    results = reference.forward(*inputs, 1e-6)
    results = results if isinstance(results, tuple) else (results,)
    grads = [torch.randn_like(y) for y in results]
    by_autograd = torch.autograd.grad(results, inputs, grads)
    by_formula = reference.backward(*grads, results[0].detach() if len(inputs) == 2 else inputs[0], 1e-6)
    for expected in by_autograd:
        torch.testing.assert_close(by_formula, expected)


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_are_registered_right(name):
    torch.library.opcheck(OPERATORS[name], (*given(name), 1e-6))
    torch.library.opcheck(OPERATORS[name], (*(x.transpose(0, 1) for x in given(name)), 1e-6))


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_compile_without_a_graph_break(name):
    f = lambda *inputs: torch.stack([*OPERATORS[name](*(2 * x for x in inputs), 1e-6)])  # noqa: E731
    inputs = given(name)
    both = [torch.autograd.grad(g(*inputs).square().sum(), inputs) for g in (torch.compile(f, fullgraph=True), f)]
    torch.testing.assert_close(*both)


def test_the_public_op_compiles():
    (x,) = given("rms_norm")
    compiled = torch.compile(lambda x: rms_norm(2 * x), fullgraph=True)
    torch.testing.assert_close(compiled(x), rms_norm(2 * x))
