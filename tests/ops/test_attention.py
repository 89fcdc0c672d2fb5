"""attention: every backend that runs here against plain torch; cases from bench_attention."""

import pytest
import torch

from pynanochat.bench import bench_attention as bench
from pynanochat.bench.harness import prove
from pynanochat.ops import attention
from pynanochat.ops.attention import attention_reference, backward_cpu, forward_cpu


@pytest.mark.parametrize("case", bench.TEST_CASES.values(), ids=bench.TEST_CASES)
@pytest.mark.parametrize("dtype", bench.DTYPES, ids=str)
def test_matches_torch(case, dtype, isa):
    results = bench.compare(bench.make(case, dtype))
    if case[1] == 1:  # one key: its gradient and the query's are zero in truth
        assert max(results.pop(name)[0].abs().max() for name in ("dq", "dk")) < 0.05
    prove(results, dtype)


@pytest.mark.parametrize("layout", ["packed", "heads first"])
@pytest.mark.parametrize("dtype", bench.DTYPES, ids=str)
def test_takes_strides(layout, dtype, isa):
    prove(bench.compare(bench.make((2, 50, 4, 2, 20, 30), dtype, layout)), dtype)


def test_window_zero_sees_itself(isa):
    q, k, v, grad, _ = bench.make((2, 30, 2, 2, 16, 0), torch.float32)
    results = bench.run(attention, q, k, v, grad, 0)
    torch.testing.assert_close(results["out"], v)
    torch.testing.assert_close(results["dv"], grad)


def test_log_sum_exp():
    q, k, v, *_ = bench.make((1, 120, 2, 1, 16, 20), torch.float32)
    _, lse = forward_cpu(q, k, v, 20)
    scores = torch.einsum("bthd,bsd->bhts", q, k[:, :, 0]) / 4
    i = torch.arange(120)
    hidden = (i > i[:, None]) | (i < i[:, None] - 20)
    torch.testing.assert_close(lse, scores.masked_fill(hidden, -torch.inf).logsumexp(-1))


def test_later_positions_never_matter(isa):
    q, k, v, *_ = bench.make((1, 150, 2, 1, 16, -1), torch.bfloat16)
    cut = 101
    whole, part = attention(q, k, v)[:, :cut], attention(q[:, :cut], k[:, :cut], v[:, :cut])
    assert torch.equal(whole, part)
    k[:, cut:] = float("nan")
    assert torch.equal(attention(q, k, v)[:, :cut], part)


def test_large_scores_stay_finite(isa):
    q, k, v, grad, window = bench.make((1, 80, 1, 1, 16, -1), torch.float32)
    prove(bench.compare((q * 8, k * 8, v, grad, window)), torch.float32)


def test_threads_do_not_change_bits():
    inputs = bench.make((2, 200, 4, 2, 32, 60), torch.bfloat16)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(bench.run(attention, *inputs))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


@pytest.mark.parametrize("window", [-1, 2])
def test_gradient_in_float64(window):
    q, k, v, *_ = bench.make((1, 5, 2, 1, 4, window), torch.float64)
    inputs = [x.requires_grad_() for x in (q, k, v)]
    torch.autograd.gradcheck(lambda q, k, v: attention(q, k, v, window), inputs)


def test_operator_is_registered_right():
    q, k, v, *_ = bench.make(bench.TEST_CASES["plain"], torch.float32)
    inputs = [x.requires_grad_() for x in (q, k, v)]
    torch.library.opcheck(torch.ops.pynanochat.attention.default, (*inputs, 8))


def test_compiles_without_a_graph_break():
    q, k, v, *_ = bench.make(bench.TEST_CASES["grouped"], torch.float32)
    f = lambda q, k, v: attention(2 * q, k, v + 1, 20).square()  # noqa: E731
    compiled = torch.compile(f, fullgraph=True, dynamic=True)
    for positions in (70, 33):
        part = [x[:, :positions].clone().requires_grad_() for x in (q, k, v)]
        torch.testing.assert_close(compiled(*part), f(*part))
        torch.testing.assert_close(*[torch.autograd.grad(g(*part).sum(), part) for g in (compiled, f)])


def test_nothing_in_nothing_out():
    q, k, v = (torch.empty(2, 0, heads, 8, requires_grad=True) for heads in (4, 2, 2))
    out = attention(q, k, v)
    assert out.shape == (2, 0, 4, 8)
    out.sum().backward()
    assert q.grad.shape == q.shape


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda q, k, v: (q, k[:, :, :1].expand(-1, -1, 3, -1), v), "no multiple"),
        (lambda q, k, v: (q, k[:, :9], v), "k has shape"),
        (lambda q, k, v: (q, k, v.bfloat16()), "v must have the dtype of q"),
        (lambda q, k, v: (q.half(), k.half(), v.half()), "float32 and bfloat16"),
    ],
)
def test_names_what_is_wrong(broken, message):
    q, k, v, *_ = bench.make(bench.TEST_CASES["plain"], torch.float32)
    with pytest.raises(ValueError, match=message):
        attention(*broken(q, k, v))


def test_backward_takes_what_forward_gave():
    q, k, v, grad, window = bench.make(bench.TEST_CASES["window"], torch.float32)
    by_hand = backward_cpu(grad, q, k, v, *forward_cpu(q, k, v, window), window)
    by_torch = bench.run(attention_reference, q, k, v, grad, window)
    torch.testing.assert_close(by_hand, tuple(by_torch[name] for name in ("dq", "dk", "dv")), rtol=1e-4, atol=1e-5)
