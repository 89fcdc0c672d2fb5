"""smear on the CPU: the reference against a loop, its gradient by formula, the registered operator."""

import pytest
import torch

from pynanochat.ops import smear
from pynanochat.ops.backends import implementations

op = torch.ops.pynanochat.smear.default


def given(with_previous, dtype=torch.float32):
    """x, weight, scale and previous, with gradients."""
    generator = torch.Generator().manual_seed(0)
    sizes = (2, 4, 10), (1, 6), (1,), (2, 10)
    inputs = [torch.randn(*size, generator=generator, dtype=dtype).requires_grad_() for size in sizes]
    return inputs if with_previous else [*inputs[:3], None]


@pytest.mark.parametrize("with_previous", [True, False])
def test_one_position_at_a_time(with_previous):
    x, weight, scale, previous = given(with_previous, torch.float64)
    before = torch.zeros(2, 10, dtype=torch.float64) if previous is None else previous
    rows = []
    for t in range(4):
        rows.append(x[:, t] + scale * torch.sigmoid(x[:, t, :6] @ weight[0])[:, None] * before)
        before = x[:, t]
    torch.testing.assert_close(smear(x, weight, scale, previous), torch.stack(rows, dim=1))


@pytest.mark.parametrize("with_previous", [True, False])
def test_gradient_by_formula(with_previous):
    inputs = given(with_previous, torch.float64)
    y = smear(*inputs)
    dy = torch.randn_like(y)
    by_autograd = torch.autograd.grad(y, [t for t in inputs if t is not None], dy)
    *by_formula, dprevious = implementations("smear")["reference"].backward(dy, *inputs)
    torch.testing.assert_close((*by_formula, dprevious)[: len(by_autograd)], by_autograd)
    assert with_previous or dprevious.numel() == 0


@pytest.mark.parametrize("with_previous", [True, False])
def test_operator_is_registered_right(with_previous):
    torch.library.opcheck(op, tuple(given(with_previous)))


@pytest.mark.parametrize("with_previous", [True, False])
def test_operator_compiles_without_a_graph_break(with_previous):
    inputs = given(with_previous)
    wanted = [t for t in inputs if t is not None]
    f = lambda x, *rest: op(2 * x, *rest) + 1  # noqa: E731
    both = [torch.autograd.grad(g(*inputs).square().sum(), wanted) for g in (torch.compile(f, fullgraph=True), f)]
    torch.testing.assert_close(*both)
