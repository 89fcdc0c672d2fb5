"""attention on its GPU backends. B batch, T positions, H query heads, G key/value heads, D head dim."""

import pytest
import torch

from pynanochat.ops import attention_gpu
from pynanochat.ops.attention import attention, attention_reference
from tests.kernels.on_gpu import test_a_hundred_times, test_in_a_graph, test_on_a_stream_of_its_own  # noqa: F401

OP = "attention"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
NAMES = ("out", "dq", "dk", "dv")
CASES = {  # B, T, H, G, D, window; few head dims, as each takes seconds to compile
    "grouped": (2, 40, 4, 2, 16, -1),
    "window": (1, 17, 3, 1, 16, 5),
    "window of one": (1, 17, 2, 2, 16, 1),
    "window as long as all": (1, 20, 1, 1, 16, 19),
    "huge window": (1, 20, 1, 1, 16, 2**40),
    "head of 64": (1, 130, 1, 1, 64, -1),
    "head of 128": (1, 100, 2, 2, 128, 33),
}
HEADS = {  # of other sizes
    "smallest head": ((1, 9, 1, 1, 1, -1), torch.float32),
    "odd head": ((1, 17, 2, 1, 23, 5), torch.float16),
    "padded head": ((1, 70, 2, 1, 96, -1), torch.bfloat16),
    "wide head": ((1, 20, 1, 1, 256, 7), torch.bfloat16),
    "wide head fp32": ((1, 20, 1, 1, 200, -1), torch.float32),
}
GPU_CASES = {
    "d12": (2, 2048, 6, 6, 128, -1),
    "d12 window": (2, 2048, 6, 6, 128, 512),
    "grouped": (2, 1999, 8, 2, 64, -1),
    "grouped window": (1, 1023, 6, 2, 128, 200),
}


def inputs(case, dtype, device, seed=0):
    """dout, q, k, v and the window."""
    B, T, H, G, D, window = case
    generator = torch.Generator().manual_seed(seed)
    dout, q, k, v = (torch.randn(B, T, n, D, generator=generator).to(device, dtype) for n in (H, H, G, G))
    return dout, q, k, v, window


def plain(dout, q, k, v, window, dtype):
    """out, dq, dk and dv by plain torch in `dtype`."""
    dout, q, k, v = (x.detach().to(dtype) for x in (dout, q, k, v))
    q, k, v = (x.requires_grad_() for x in (q, k, v))
    out = attention_reference(q, k, v, window)
    return out.detach(), *torch.autograd.grad(out, (q, k, v), dout)


def run(backend, dout, q, k, v, window):
    kernel = getattr(attention_gpu, backend)
    out, lse = kernel.forward(q, k, v, window)
    return out, *kernel.backward(dout, q, k, v, out, lse, window)


def largest_score(q, k):
    k = k.repeat_interleave(q.size(2) // k.size(2), dim=2)
    return (torch.einsum("bthd,bshd->bhts", q.double(), k.double()).abs().max() / q.size(3) ** 0.5).item()


def check(backend, no_worse, *given):
    before = [x.clone() for x in given[:4]]
    ours, theirs, truth = run(backend, *given), plain(*given, given[1].dtype), plain(*given, torch.float64)
    for name, mine, his, true in zip(NAMES, ours, theirs, truth, strict=True):
        no_worse(name, mine, his, true, largest_score(*given[1:3]))
    assert all(torch.equal(x, y) for x, y in zip(before, given[:4], strict=True)), "an input was written to"


def example(backend, device):
    *given, window = inputs((2, 512, 6, 2, 128, 100), torch.bfloat16, device)
    return lambda *given: run(backend, *given, window), given


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_shapes_and_dtypes(backend, device, no_worse, case, dtype):
    check(backend, no_worse, *inputs(case, dtype, device))


@pytest.mark.parametrize(("case", "dtype"), HEADS.values(), ids=HEADS.keys())
def test_heads_of_other_sizes(backend, device, no_worse, case, dtype):
    check(backend, no_worse, *inputs(case, dtype, device))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", [(3, 1, 2, 1, 16, -1), (1, 19, 2, 2, 16, 0)], ids=["one position", "window of zero"])
def test_a_query_that_sees_one_key(backend, device, case, dtype):
    """The output is the value; what q and k get is zero but for roundings of dout · out."""
    dout, q, k, v, window = inputs(case, dtype, device)
    out, dq, dk, dv = run(backend, dout, q, k, v, window)
    group = q.size(2) // k.size(2)
    assert torch.equal(out, v.repeat_interleave(group, dim=2))
    shared = dout.double().unflatten(2, (-1, group)).sum(3)
    torch.testing.assert_close(dv.double(), shared, rtol=torch.finfo(dtype).eps, atol=0)
    assert max(dq.abs().max(), dk.abs().max()) < 16 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_log_sum_exp(backend, device, dtype):
    _, q, k, v, window = inputs((2, 40, 4, 2, 16, 9), dtype, device)
    _, lse = getattr(attention_gpu, backend).forward(q, k, v, window)
    scores = torch.einsum("bthd,bshd->bhts", q.double(), k.double().repeat_interleave(2, dim=2)) / 4
    i = torch.arange(40, device=device)
    hidden = (i > i[:, None]) | (i < i[:, None] - window)
    truth = scores.masked_fill(hidden, -torch.inf).logsumexp(-1)
    assert lse.dtype == torch.float32 and lse.is_contiguous()
    torch.testing.assert_close(lse.double(), truth, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("window", [0, 15, 16, 33, 47, -1])
@pytest.mark.parametrize("shape", [(16, 32), (32, 16)], ids=str)
def test_every_edge_of_a_tile(backend, device, monkeypatch, window, shape):
    """Small tiles, of which a window begins and ends inside, at and beyond the edges; T is no multiple of them."""
    if backend == "triton":
        from pynanochat.kernels import attention as kernel

        small = dict(zip(("QUERIES", "KEYS"), shape, strict=True), D=16, HEAD=16, num_warps=4, num_stages=1)
        monkeypatch.setattr(kernel, "tiles", lambda *_: small)
    given = inputs((1, 75, 1, 1, 16, window), torch.float32, device)
    for name, ours, truth in zip(NAMES, run(backend, *given), plain(*given, torch.float64), strict=True):
        torch.testing.assert_close(ours.double(), truth, rtol=2e-5, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("share", [3, 6])
def test_every_head_has_its_turn(backend, device, no_worse, monkeypatch, share):
    """Sections of heads whose last one is short: 6 of the 8 query heads for 3, 3 of the 4 key heads for 6."""
    if backend == "triton":
        from pynanochat.kernels import attention as kernel

        monkeypatch.setattr(kernel, "L2_SHARE", share * 2 * 40 * 16 * 4)
    check(backend, no_worse, *inputs((2, 40, 4, 2, 16, -1), torch.float32, device))


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_slices_of_one_projection(backend, device, no_worse, dtype):
    """q, k and v as views of a joint (B, T, (H + 2G) D) projection, dout in (B, H, T, D) order."""
    _, joint, *_ = inputs((2, 21, 8, 1, 16, 4), dtype, device)
    dout = inputs((2, 21, 4, 2, 16, 4), dtype, device, seed=1)[0].transpose(1, 2).contiguous().transpose(1, 2)
    check(backend, no_worse, dout, *joint.split([4, 2, 2], dim=2), 4)


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_unaligned_and_strided(backend, device, no_worse, dtype):
    """q off 16 bytes, k with channels two apart, v with positions innermost, one row of dout for all."""
    dout, q, k, v, window = inputs((2, 21, 2, 1, 16, -1), dtype, device)
    off = torch.zeros(q.numel() + 1, dtype=dtype, device=device)[1:].view(q.shape).copy_(q)
    apart = torch.zeros(*k.shape[:3], 32, dtype=dtype, device=device)[..., ::2].copy_(k)
    inside = v.permute(3, 2, 0, 1).contiguous().permute(2, 3, 1, 0)
    check(backend, no_worse, dout[:1, :1, :1].expand(q.shape), off, apart, inside, window)


def test_one_key_head_expanded(backend, device, no_worse):
    dout, q, k, v, window = inputs((1, 21, 4, 1, 16, 6), torch.float32, device)
    check(backend, no_worse, dout, q, k.expand(q.shape), v.expand(q.shape), window)


def test_large_scores_stay_finite(backend, device, no_worse):
    dout, q, k, v, window = inputs((1, 40, 1, 1, 16, -1), torch.float32, device)
    check(backend, no_worse, dout, q * 30, k * 30, v, window)


def test_later_positions_never_matter(backend, device):
    _, q, k, v, _ = inputs((1, 70, 2, 1, 16, -1), torch.bfloat16, device)
    forward = getattr(attention_gpu, backend).forward
    whole = forward(q, k, v, -1)[0][:, :40]
    assert torch.equal(whole, forward(q[:, :40], k[:, :40], v[:, :40], -1)[0])
    k[:, 40:] = float("nan")
    assert torch.equal(whole, forward(q, k, v, -1)[0][:, :40])


def test_same_bits_each_time(backend, device):
    given = inputs((1, 70, 4, 2, 16, 40), torch.float16, device)
    first, second = run(backend, *given), run(backend, *given)
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


def test_nothing_in_nothing_out(backend, device):
    for case in ((2, 0, 4, 2, 16, -1), (0, 5, 4, 2, 16, -1)):
        dout, q, k, v, window = inputs(case, torch.float32, device)
        results = run(backend, dout, q, k, v, window)
        assert [x.shape for x in results] == [x.shape for x in (q, q, k, v)]


@pytest.mark.parametrize(
    "broken",
    [
        lambda q, k, v: (q, k[:, :, :1].expand(-1, -1, 3, -1), v[:, :, :1].expand(-1, -1, 3, -1)),
        lambda q, k, v: (q, k[:, :4], v[:, :4]),
        lambda q, k, v: (q, k, v[:, :, :1]),
        lambda q, k, v: (q, k, v.bfloat16()),
    ],
    ids=["heads", "positions", "values", "dtype"],
)
def test_what_does_not_fit_is_an_error(backend, device, broken):
    _, q, k, v, _ = inputs((1, 5, 4, 2, 16, -1), torch.float32, device)
    with pytest.raises(ValueError):
        getattr(attention_gpu, backend).forward(*broken(q, k, v), -1)


@pytest.mark.parametrize("through", ["autograd", "dispatcher"])
def test_public_op(backend, device, no_worse, monkeypatch, through):
    """The op itself, the backend forced: its gradient, and the operator that torch.compile sees."""
    monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)
    dout, q, k, v, window = inputs((2, 21, 4, 2, 16, 6), torch.bfloat16, device)
    leaves = [x.detach().clone().requires_grad_() for x in (q, k, v)]
    if through == "autograd":
        out = attention(*leaves, window)
    else:
        out = torch.ops.pynanochat.attention.default(*leaves, window)[0]
    ours = [out, *torch.autograd.grad(out, leaves, dout)]
    theirs, truth = plain(dout, q, k, v, window, q.dtype), plain(dout, q, k, v, window, torch.float64)
    for name, mine, his, true in zip(NAMES, ours, theirs, truth, strict=True):
        no_worse(name, mine, his, true)


@pytest.mark.parametrize("layout", ["dense", "slices"])
def test_operator_is_registered_right(backend, device, monkeypatch, layout):
    monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)
    _, q, k, v, window = inputs((1, 5, 2, 2, 16, 2), torch.float32, device)
    if layout == "slices":
        q, k, v = torch.cat([q, k, v], dim=2).split(2, dim=2)
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    torch.library.opcheck(torch.ops.pynanochat.attention.default, (*leaves, window))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", GPU_CASES.values(), ids=GPU_CASES.keys())
def test_real_sizes(backend, no_worse, case, dtype):
    check(backend, no_worse, *inputs(case, dtype, "cuda"))


@pytest.mark.gpu
def test_many_lengths_and_windows(backend, no_worse):
    """About the edges of the real tiles."""
    for T in (1, 2, 31, 32, 33, 63, 64, 65, 127, 128, 129, 191, 255, 257):
        for window in {-1, 0, 1, 31, 32, 33, 63, 64, 65, 127, 128, 129, T - 1}:
            check(backend, no_worse, *inputs((2, T, 4, 2, 64, window), torch.bfloat16, "cuda"))


@pytest.mark.gpu
def test_more_elements_than_32_bits_count(backend, no_worse):
    """The last rows of a q of more than 2^31 elements, or of as many as the card holds; the window keeps it quick."""
    room = torch.cuda.mem_get_info()[0] // 4 // 2  # elements of q in bf16: q, out, dq and something to spare
    T, window = min(2**31 // (64 * 128) + 100, room // (64 * 128)), 50
    last = slice(T - 200, T)
    q = torch.empty(1, T, 64, 128, dtype=torch.bfloat16, device="cuda").normal_()
    k, v = (torch.randn(1, T, 1, 128, dtype=torch.bfloat16, device="cuda") for _ in "kv")
    dout = torch.randn(1, 1, 1, 128, dtype=torch.bfloat16, device="cuda").expand(q.shape)
    ours = [x[:, last][:, window:] for x in run(backend, dout, q, k, v, window)]
    part = (dout[:, last], q[:, last], k[:, last], v[:, last], window)
    theirs, truth = plain(*part, torch.bfloat16), plain(*part, torch.float64)
    for name, mine, his, true in zip(NAMES, ours, theirs, truth, strict=True):
        no_worse(name, mine, his[:, window:], true[:, window:])
