"""rotary_qk_norm: every backend that runs here against plain torch; cases from bench_rotary_qk_norm."""

import pytest
import torch

from pynanochat import _C
from pynanochat.bench import bench_rotary_qk_norm as bench
from pynanochat.bench.harness import prove
from pynanochat.ops import rotary_qk_norm
from pynanochat.ops.rotary_qk_norm import backward_reference, rotary_qk_norm_reference, rotary_table

op = torch.ops.pynanochat.rotary_qk_norm.default


@pytest.mark.parametrize("case", bench.TEST_CASES.values(), ids=bench.TEST_CASES)
@pytest.mark.parametrize("dtype", bench.DTYPES, ids=str)
def test_matches_torch(case, dtype, isa):
    prove(bench.compare(bench.make(case, dtype)), dtype)


@pytest.mark.parametrize("layout", ["packed", "heads first"])
@pytest.mark.parametrize("row_tables", [False, True])
def test_takes_strides(layout, row_tables, isa):
    prove(bench.compare(bench.make((3, 10, 4, 2, 48), torch.bfloat16, layout, row_tables)), torch.bfloat16)


def test_threads_do_not_change_bits():
    inputs = bench.make((2, 96, 4, 2, 64), torch.float32)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = bench.run(rotary_qk_norm, *inputs)
        torch.set_num_threads(3)
        together = bench.run(rotary_qk_norm, *inputs)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(alone[name], together[name]) for name in alone)


@pytest.mark.parametrize("row_tables", [False, True])
def test_gradient_in_float64(row_tables):
    q, k, cos, sin, *_ = bench.make((2, 3, 2, 1, 8), torch.float64, row_tables=row_tables)
    cos, sin = cos.double() * 1.1, sin.double() - 0.2  # the norm must not assume a rotation
    q, k = q.requires_grad_(), k.requires_grad_()
    torch.autograd.gradcheck(lambda q, k: rotary_qk_norm(q, k, cos, sin, 1.2), (q, k))
    dq_out, dk_out = torch.randn_like(q), torch.randn_like(k)
    by_autograd = torch.autograd.grad(rotary_qk_norm_reference(q, k, cos, sin, 1.2, 1e-6), (q, k), (dq_out, dk_out))
    by_formula = backward_reference(dq_out, dk_out, q, k, cos, sin, 1.2, 1e-6)
    torch.testing.assert_close(by_formula, by_autograd)


def test_operator_is_registered_right():
    q, k, cos, sin, *_ = bench.make(bench.TEST_CASES["grouped"], torch.float32)
    torch.library.opcheck(op, (q.requires_grad_(), k.requires_grad_(), cos, sin, 1.2, 1e-6))


def test_compiles_without_a_graph_break():
    q, k, cos, sin, *_ = bench.make(bench.TEST_CASES["grouped"], torch.float32)
    f = lambda q, k: torch.cat(rotary_qk_norm(2 * q, k + 1, cos, sin), dim=2)  # noqa: E731
    compiled = torch.compile(f, fullgraph=True, dynamic=True)
    for batch in (1, 3):
        wide = [x.expand(batch, -1, -1, -1).clone().requires_grad_() for x in (q, k)]
        torch.testing.assert_close(compiled(*wide), f(*wide))
        both = [torch.autograd.grad(g(*wide).square().sum() + g(*wide).sum(), wide) for g in (compiled, f)]
        torch.testing.assert_close(*both)


def test_forced_reference_gives_the_same(monkeypatch):
    inputs = bench.make(bench.TEST_CASES["plain"], torch.float32)
    ours = bench.run(rotary_qk_norm, *inputs)
    monkeypatch.setenv("PYNANOCHAT_BACKEND", "reference")
    torch.testing.assert_close(bench.run(rotary_qk_norm, *inputs), ours, rtol=1e-5, atol=1e-5)


def test_norm_and_positions():
    q, k, cos, sin, *_ = bench.make((1, 4, 1, 1, 64), torch.float32)
    q_out, _ = rotary_qk_norm(q, k, cos, sin, scale=1.2, eps=0.0)
    torch.testing.assert_close(q_out.square().mean(-1).sqrt(), torch.full((1, 4, 1), 1.2))
    same = q[:, :1].expand(-1, 4, -1, -1)
    turned, _ = rotary_qk_norm(same, same, cos, sin)  # a dot product of two depends on the distance alone
    dots = (turned[:, :-1] * turned[:, 1:]).sum(-1).flatten()
    torch.testing.assert_close(dots, dots[:1].expand(3))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda q, k, c, s: (q[..., :7], k[..., :7], c, s), "head dim 7"),
        (lambda q, k, c, s: (q, k, c[:3], s[:3]), "cos or sin has shape"),
        (lambda q, k, c, s: (q, k.bfloat16(), c, s), "one dtype"),
        (lambda q, k, c, s: (q, k[:1], c, s), "has shape"),
        (lambda q, k, c, s: (q, k, c.bfloat16(), s.bfloat16()), "float32"),
        (lambda q, k, c, s: (torch.randn(2, 7, 1, 300), torch.randn(2, 7, 1, 300), c, s), "head dim 300"),
    ],
)
def test_names_what_is_wrong(broken, message):
    q, k, *_ = bench.make(bench.TEST_CASES["plain"], torch.float32)
    cos, sin = rotary_table(7, 16, 10000.0)
    with pytest.raises(ValueError, match=message):
        rotary_qk_norm(*broken(q, k, cos, sin))


def test_unknown_instruction_set_is_named():
    with pytest.raises(ValueError, match="sse9"):
        _C.set_cpu_isa("sse9")
