"""value_gate on the CPU: the reference against a loop, its gradient by formula, the registered operator."""

import torch

from pynanochat.ops import value_gate
from pynanochat.ops.backends import implementations

op = torch.ops.pynanochat.value_gate.default


def given(dtype=torch.float32):
    """v (2, 3, 2, 4), x (2, 3, 10), ids, table (5, 8) and gate_weight (2, 6), with gradients where they can."""
    generator = torch.Generator().manual_seed(0)
    sizes = (2, 3, 2, 4), (2, 3, 10), (5, 8), (2, 6)
    v, x, table, gate_weight = (torch.randn(*s, generator=generator, dtype=dtype).requires_grad_() for s in sizes)
    return v, x, torch.tensor([[0, 4, 4], [1, 4, 0]]), table, gate_weight


def floats(inputs):
    return [t for t in inputs if t.is_floating_point()]


def test_one_token_at_a_time():
    v, x, ids, table, gate_weight = given(torch.float64)
    out = value_gate(v, x, ids, table, gate_weight)
    for b in range(2):
        for t in range(3):
            gate = 3 * torch.sigmoid(gate_weight @ x[b, t, :6])
            expected = v[b, t] + gate[:, None] * table[ids[b, t]].view(2, 4)
            torch.testing.assert_close(out[b, t], expected)


def test_gradient_by_formula():
    inputs = given(torch.float64)
    out = value_gate(*inputs)
    dout = torch.randn_like(out)
    by_autograd = torch.autograd.grad(out, floats(inputs), dout)
    by_formula = implementations("value_gate")["reference"].backward(dout, *inputs[1:])
    torch.testing.assert_close((dout, *by_formula), by_autograd)
    without = implementations("value_gate")["reference"].backward(dout, *inputs[1:], wants_table=False)
    assert without[1] is None and torch.equal(without[0], by_formula[0]) and torch.equal(without[2], by_formula[2])


def test_operators_are_registered_right():
    inputs = given()
    torch.library.opcheck(op, inputs)
    torch.library.opcheck(op, (inputs[0].transpose(0, 1), inputs[1].transpose(0, 1), inputs[2].T, *inputs[3:]))


def test_operator_compiles_without_a_graph_break():
    inputs = given()
    f = lambda v, *rest: op(2 * v, *rest) + 1  # noqa: E731
    compiled = torch.compile(f, fullgraph=True)
    both = [torch.autograd.grad(g(*inputs).square().sum(), floats(inputs)) for g in (compiled, f)]
    torch.testing.assert_close(*both)
