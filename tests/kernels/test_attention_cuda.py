"""attention on its GPU backends. B batch, T positions, H query heads, G key/value heads, D head dim, W window."""

import pytest
import torch

from pynanochat.ops import attention_gpu
from pynanochat.ops.attention import attention, attention_reference

OP = "attention"
DTYPES = [torch.bfloat16, torch.float16]
SHAPES = {  # B, T, H, G, D, W
    "one token": (2, 1, 2, 1, 64, -1),
    "part of a tile": (1, 17, 2, 2, 128, -1),
    "grouped": (1, 70, 4, 2, 64, -1),
    "two tiles and a rest": (1, 130, 1, 1, 128, -1),
    "window in a tile": (1, 70, 1, 1, 64, 5),
    "window over tiles": (1, 200, 1, 1, 64, 70),
    "window of nothing": (1, 20, 1, 1, 64, 0),
    "window longer than all": (1, 17, 1, 1, 64, 100),
}


def inputs(shape, dtype, device, seed=0):
    """q, k, v, a gradient and the window."""
    batch, positions, heads, groups, size, window = shape
    generator = torch.Generator().manual_seed(seed)
    make = lambda h: torch.randn(batch, positions, h, size, generator=generator).to(device, dtype)  # noqa: E731
    return make(heads), make(groups), make(groups), make(heads), window


def plain(q, k, v, grad, window, dtype):
    """out, lse, dq, dk, dv by plain torch, computed in `dtype`."""
    q, k, v = (x.detach().to(dtype).requires_grad_() for x in (q, k, v))
    out = attention_reference(q, k, v, window)
    i = torch.arange(q.size(1), device=q.device)
    hidden = (i > i[:, None]) | (i < i[:, None] - (window if window >= 0 else q.size(1)))
    wide = torch.promote_types(dtype, torch.float32)
    keys = k.to(wide).repeat_interleave(q.size(2) // k.size(2), dim=2)
    scores = torch.einsum("bthd,bshd->bhts", q.to(wide), keys) / q.size(-1) ** 0.5
    lse = scores.masked_fill(hidden, -torch.inf).logsumexp(-1)
    return out, lse, *torch.autograd.grad(out, (q, k, v), grad.to(dtype))


def check(backend, no_worse, q, k, v, grad, window, **settings):
    kernel = getattr(attention_gpu, backend)
    before = [x.clone() for x in (q, k, v, grad)]
    out, lse = kernel.forward(q, k, v, window)
    ours = out, lse, *kernel.backward(grad, q, k, v, out, lse, window, **settings)
    theirs = plain(q, k, v, grad, window, q.dtype)
    truth = plain(q, k, v, grad, window, torch.float64)
    for what, mine, his, true in zip(("out", "lse", "dq", "dk", "dv"), ours, theirs, truth, strict=True):
        no_worse(what, mine, his, true, 30.0)
    assert all(torch.equal(x, y) for x, y in zip(before, (q, k, v, grad), strict=True)), "an input was written to"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_shapes_and_dtypes(backend, device, no_worse, shape, dtype):
    check(backend, no_worse, *inputs(shape, dtype, device))


def test_slices_of_one_projection(backend, device, no_worse):
    """q, k and v as views of a joint (B, T, (H + 2G) D) projection, the gradient in (B, H, T, D) order."""
    joint, _, _, _, window = inputs((2, 21, 4, 1, 64, 9), torch.bfloat16, device)
    grad = inputs((2, 21, 2, 1, 64, 9), torch.bfloat16, device, seed=1)[0].transpose(1, 2).contiguous().transpose(1, 2)
    check(backend, no_worse, joint[:, :, :2], joint[:, :, 2:3], joint[:, :, 3:], grad, window)


def test_unaligned_and_strided(backend, device, no_worse):
    """Heads that begin off 16 bytes, channels two apart, an expanded gradient."""
    q, k, v, grad, window = inputs((1, 18, 2, 1, 64, -1), torch.bfloat16, device)
    room = torch.zeros(q.numel() + 1, dtype=q.dtype, device=device)
    off = room[1:].view(q.shape).copy_(q)
    apart = torch.zeros(*k.shape[:3], 128, dtype=k.dtype, device=device)[..., ::2].copy_(k)
    check(backend, no_worse, off, apart, v, grad[:1, :1, :1].expand(q.shape), window)


def test_large_scores_stay_finite(backend, device, no_worse):
    q, k, v, grad, window = inputs((1, 66, 1, 1, 64, 40), torch.float16, device)
    check(backend, no_worse, q * 8, k * 8, v, grad, window)


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("size", [64, 128])
def test_both_forms_on_hopper(backend, device, no_worse, monkeypatch, size, deterministic):
    monkeypatch.setenv("EMULATED_COMPUTE_CAPABILITY", "9")
    tensors = inputs((1, 100, 2, 1, size, 70), torch.bfloat16, device)
    check(backend, no_worse, *tensors, deterministic=deterministic)


class Listener:
    """The extension, and the arguments of what was called of it."""

    def __init__(self, extension):
        self.extension, self.calls = extension, {}

    def __getattr__(self, name):
        def call(*arguments):
            self.calls[name] = arguments
            return getattr(self.extension, name)(*arguments)

        return call


@pytest.mark.parametrize("deterministic", [True, False])
def test_deterministic_where_torch_is_told(backend, device, monkeypatch, deterministic):
    monkeypatch.setenv("EMULATED_COMPUTE_CAPABILITY", "9")
    q, k, v, grad, window = inputs((1, 5, 2, 1, 64, -1), torch.bfloat16, device)
    kernel = getattr(attention_gpu, backend)
    out, lse = kernel.forward(q, k, v, window)
    listener = Listener(attention_gpu._C)
    monkeypatch.setattr(attention_gpu, "_C", listener)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(deterministic)
    try:
        kernel.backward(grad, q, k, v, out, lse, window)
    finally:
        torch.use_deterministic_algorithms(before)
    *_, asked, _, dq_sum, _, _, _, _ = listener.calls["cuda_attention_backward"]
    hopper = device == "cpu" or torch.cuda.get_device_capability()[0] == 9
    assert asked == deterministic
    assert dq_sum.numel() == (2 * 64 * 64 if hopper and not deterministic else 0), "two heads, T rounded up to 64"


def test_room_that_is_too_small(backend, device, monkeypatch):
    monkeypatch.setenv("EMULATED_COMPUTE_CAPABILITY", "9")
    if device == "cuda" and torch.cuda.get_device_capability()[0] != 9:
        return  # no other card uses any; a skipped test would keep the op from being verified there
    q, k, v, grad, window = inputs((1, 5, 2, 1, 64, -1), torch.bfloat16, device)
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda size, **settings: empty(size - 1, **settings))
    with pytest.raises(ValueError, match="dq_sum must be 8192 contiguous float32"):
        attention_gpu.cuda.backward(grad, q, k, v, q, torch.zeros(1, 2, 5, device=device), window, False)


def test_later_keys_never_matter(backend, device):
    q, k, v, _, window = inputs((1, 100, 1, 1, 64, -1), torch.bfloat16, device)
    forward = getattr(attention_gpu, backend).forward
    part = forward(q[:, :71], k[:, :71], v[:, :71], window)[0]
    k[:, 71:] = float("nan")
    assert torch.equal(forward(q, k, v, window)[0][:, :71], part)


def test_other_sizes_and_dtypes(backend, device, no_worse):
    """cuda refuses it, names the remedy and says so beforehand, so that another is chosen; triton takes all."""
    if backend == "triton":
        return check(backend, no_worse, *inputs((1, 3, 2, 1, 96, -1), torch.float32, device))
    kernel = attention_gpu.cuda
    for size, dtype, said in ((96, torch.bfloat16, "head_dim 96"), (64, torch.float32, "bfloat16 and float16")):
        q, k, v, grad, window = inputs((1, 3, 2, 1, size, -1), dtype, device)
        lse = torch.zeros(1, 2, 3, device=device)
        assert not attention_gpu.takes_cuda(q, k, v, window)
        for call in (
            lambda: kernel.forward(q, k, v, window),  # noqa: B023
            lambda: kernel.backward(grad, q, k, v, q, lse, window),  # noqa: B023
        ):
            with pytest.raises(ValueError, match=f"{said}.*PYNANOCHAT_BACKEND=triton"):
                call()


def test_no_tokens(backend, device):
    q, k, v, grad, window = inputs((2, 0, 2, 1, 32, -1), torch.bfloat16, device)
    kernel = getattr(attention_gpu, backend)
    out, lse = kernel.forward(q, k, v, window)
    assert [x.shape for x in kernel.backward(grad, q, k, v, out, lse, window)] == [q.shape, k.shape, v.shape]


@pytest.mark.parametrize("through", ["autograd", "dispatcher"])
def test_public_op(backend, device, no_worse, monkeypatch, through):
    """The op itself, the backend forced: its gradient, and the operator that torch.compile sees."""
    monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)
    q, k, v, grad, window = inputs((1, 19, 2, 1, 64, 7), torch.bfloat16, device)
    op = attention if through == "autograd" else lambda *x: torch.ops.pynanochat.attention(*x)[0]
    leaves = [x.requires_grad_() for x in (q, k, v)]
    out = op(*leaves, window)
    ours = out, *torch.autograd.grad(out, leaves, grad)
    theirs, truth = plain(q, k, v, grad, window, q.dtype), plain(q, k, v, grad, window, torch.float64)
    for what, mine, i in zip(("out", "dq", "dk", "dv"), ours, (0, 2, 3, 4), strict=True):
        no_worse(what, mine, theirs[i], truth[i])


@pytest.mark.gpu
@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("window", [-1, 512])
@pytest.mark.parametrize("size", [64, 128])
def test_a_real_length(backend, no_worse, size, window, deterministic):
    tensors = inputs((2, 2048, 6, 2, size, window), torch.bfloat16, "cuda")
    check(backend, no_worse, *tensors, deterministic=deterministic)


@pytest.mark.gpu
@pytest.mark.parametrize("window", [-1, 0, 17, 64, 128])
@pytest.mark.parametrize("positions", [1, 63, 64, 65, 127, 128, 129, 300])
def test_edges_of_tiles(backend, no_worse, positions, window):
    for size in (64, 128):
        tensors = inputs((2, positions, 4, 2, size, window), torch.float16, "cuda")
        for deterministic in (True, False):
            check(backend, no_worse, *tensors, deterministic=deterministic)


@pytest.mark.gpu
def test_the_same_bits_twice(backend):
    q, k, v, grad, window = inputs((2, 1000, 6, 2, 128, 300), torch.bfloat16, "cuda")
    kernel = getattr(attention_gpu, backend)
    out, lse = kernel.forward(q, k, v, window)
    first, second = (kernel.backward(grad, q, k, v, out, lse, window, deterministic=True) for _ in range(2))
    assert all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


@pytest.mark.gpu
def test_stream(backend, no_worse):
    """On a stream of its own, behind work that is still running there."""
    q, *rest = inputs((1, 500, 4, 2, 128, 100), torch.bfloat16, "cuda")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        check(backend, no_worse, q + 0, *rest)
    stream.synchronize()
