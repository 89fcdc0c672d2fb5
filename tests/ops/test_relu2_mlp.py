"""relu2_mlp: every instruction set against plain torch; cases from bench_relu2_mlp."""

import pytest
import torch

from pynanochat.bench import bench_relu2_mlp as bench
from pynanochat.bench.harness import prove
from pynanochat.ops import linear, relu2_mlp
from pynanochat.ops.relu2_mlp import relu2_mlp_reference


@pytest.mark.parametrize("case", bench.TEST_CASES.values(), ids=bench.TEST_CASES)
@pytest.mark.parametrize("dtypes", bench.DTYPES.values(), ids=bench.DTYPES)
def test_matches_torch(case, dtypes, isa):
    prove(bench.compare(relu2_mlp, relu2_mlp_reference, bench.make(case, dtypes)), dtypes[0])


def test_gradient_in_float64():
    x, _, w_fc, w_proj = bench.make((5, 4, 3), (torch.float64, torch.float64))
    torch.autograd.gradcheck(relu2_mlp, [t.requires_grad_() for t in (x, w_fc, w_proj)])


def test_operator_is_registered_right():
    x, _, w_fc, w_proj = bench.make((9, 8, 6), bench.DTYPES["fp32"])
    inputs = tuple(t.requires_grad_() for t in (x, w_fc, w_proj))
    torch.library.opcheck(torch.ops.pynanochat.relu2_mlp.default, inputs)


def test_dead_units_get_no_gradient(isa):
    x, grad, w_fc, w_proj = bench.make((80, 16, 24), bench.DTYPES["fp32"])
    results = bench.run(relu2_mlp, x.abs(), grad, -w_fc.abs(), w_proj)
    assert all(torch.count_nonzero(results[name]) == 0 for name in ("y", "dx", "dw", "dw2"))


def test_compiles_without_a_graph_break():
    x, _, w_fc, w_proj = bench.make((160, 16, 24), bench.DTYPES["fp32"])
    inputs = [t.requires_grad_() for t in (x, w_fc, w_proj)]
    f = lambda x, w_fc, w_proj: relu2_mlp(linear(x, w_fc[:16]) * 2, w_fc, w_proj).square()  # noqa: E731
    compiled = torch.compile(f, fullgraph=True, dynamic=True)
    for rows in (160, 100):
        part = [x[:rows].detach().requires_grad_(), *inputs[1:]]
        torch.testing.assert_close(compiled(*part), f(*part))
        torch.testing.assert_close(*[torch.autograd.grad(g(*part).sum(), part) for g in (compiled, f)])
