"""rotary_qk_norm on its GPU backends. B batch, T positions, H query heads, G key heads, D head dim."""

import pytest
import torch

from pynanochat.ops import rotary_qk_norm_gpu
from pynanochat.ops.rotary_qk_norm import rotary_qk_norm, rotary_qk_norm_reference, rotary_table
from tests.kernels.on_gpu import test_a_hundred_times, test_in_a_graph, test_on_a_stream_of_its_own  # noqa: F401

OP = "rotary_qk_norm"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = {  # B, T, H, G, D
    "grouped": (2, 3, 6, 2, 128),
    "one token": (1, 1, 4, 4, 64),
    "many heads": (1, 3, 40, 20, 32),
    "odd sizes": (3, 5, 5, 1, 24),
    "pairs of three": (2, 3, 2, 2, 6),
    "smallest head": (1, 4, 1, 1, 2),
    "wide head": (1, 3, 2, 1, 512),
    "wider than a warp": (1, 2, 1, 1, 1024),
}


def inputs(shape, dtype, device, seed=0):
    batch, positions, heads, key_heads, size = shape
    generator = torch.Generator().manual_seed(seed)
    make = lambda h: torch.randn(batch, positions, h, size, generator=generator).to(device, dtype)  # noqa: E731
    tables = [t.to(device) for t in rotary_table(positions, size, 10_000.0)]
    return make(heads), make(key_heads), *tables, make(heads), make(key_heads)


def plain(q, k, cos, sin, grad_q, grad_k, dtype):
    """q', k' and the gradients of q and k by plain torch, computed in `dtype`."""
    q, k, cos, sin = (x.to(dtype) if x.is_floating_point() else x for x in (q, k, cos, sin))
    q, k = q.detach().requires_grad_(), k.detach().requires_grad_()
    if dtype != torch.float64:
        cos, sin = cos.float(), sin.float()
    out = rotary_qk_norm_reference(q, k, cos, sin, 1.2, 1e-6)
    return *out, *torch.autograd.grad(out, (q, k), (grad_q.to(dtype), grad_k.to(dtype)))


def check(backend, no_worse, q, k, cos, sin, grad_q, grad_k):
    kernel = getattr(rotary_qk_norm_gpu, backend)
    before = [x.clone() for x in (q, k, cos, sin)]
    ours = [
        *kernel.forward(q, k, cos, sin, 1.2, 1e-6),
        *kernel.backward(grad_q, grad_k, q, k, cos, sin, 1.2, 1e-6),
    ]
    theirs = plain(q, k, cos, sin, grad_q, grad_k, q.dtype)
    truth = plain(q, k, cos, sin, grad_q, grad_k, torch.float64)
    for what, mine, his, true in zip(("q", "k", "dq", "dk"), ours, theirs, truth, strict=True):
        no_worse(what, mine, his, true)
    assert all(torch.equal(x, y) for x, y in zip(before, (q, k, cos, sin), strict=True)), "an input was written to"


def example(backend, device):
    kernel = getattr(rotary_qk_norm_gpu, backend)

    def run(q, k, cos, sin, grad_q, grad_k):
        tables = (cos, sin, 1.2, 1e-6)
        return kernel.forward(q, k, *tables), kernel.backward(grad_q, grad_k, q, k, *tables)

    return run, inputs((2, 512, 6, 2, 128), torch.bfloat16, device)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_shapes_and_dtypes(backend, device, no_worse, shape, dtype):
    check(backend, no_worse, *inputs(shape, dtype, device))


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_slices_of_one_projection(backend, device, no_worse, dtype):
    """q and k as views of a joint (B, T, (H + 2G) D) projection, and gradients in (B, H, T, D) order."""
    batch, positions, heads, key_heads, size = 2, 5, 4, 2, 64
    _, _, cos, sin, grad_q, grad_k = inputs((batch, positions, heads, key_heads, size), dtype, device)
    joint, *_ = inputs((batch, positions, heads + 2 * key_heads, 1, size), dtype, device, seed=1)
    q, k = joint[:, :, :heads], joint[:, :, heads : heads + key_heads]
    grads = [g.transpose(1, 2).contiguous().transpose(1, 2) for g in (grad_q, grad_k)]
    check(backend, no_worse, q, k, cos, sin, *grads)


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_unaligned_and_strided(backend, device, no_worse, dtype):
    """Rows that begin off 16 bytes, channels two apart, an expanded gradient: nothing may load vectors here."""
    q, k, cos, sin, grad_q, _ = inputs((2, 3, 2, 1, 64), dtype, device)
    room = torch.zeros(q.numel() + 1, dtype=dtype, device=device)
    off = room[1:].view(q.shape).copy_(q)
    apart = torch.zeros(*k.shape[:3], 128, dtype=dtype, device=device)[..., ::2].copy_(k)
    same = torch.full((1, 1, 1, 1), 0.5, dtype=dtype, device=device).expand(k.shape)
    check(backend, no_worse, off, apart, cos, sin, grad_q, same)


def test_rows_at_different_positions(backend, device, no_worse):
    """cos and sin (B, T, D/2), cut from a longer table."""
    q, k, _, _, grad_q, grad_k = inputs((3, 2, 4, 2, 64), torch.float32, device)
    cos, sin = (t.to(device) for t in rotary_table(100, 64, 100_000.0))
    at = torch.tensor([[5, 6], [90, 91], [0, 1]], device=device)
    check(backend, no_worse, q, k, cos[at], sin[at], grad_q, grad_k)
    check(backend, no_worse, q, k, cos[7:9], sin[7:9], grad_q, grad_k)


def test_large_and_tiny_values(backend, device, no_worse):
    q, k, cos, sin, grad_q, grad_k = inputs((1, 4, 2, 2, 64), torch.float32, device)
    check(backend, no_worse, q * 1e4, k * 1e-2, cos, sin, grad_q, grad_k)
    zero = torch.zeros_like(q)
    assert torch.equal(getattr(rotary_qk_norm_gpu, backend).forward(zero, k, cos, sin, 1.0, 1e-6)[0], zero)


def test_no_tokens(backend, device):
    q, k, cos, sin, *_ = inputs((0, 4, 2, 1, 64), torch.float32, device)
    assert getattr(rotary_qk_norm_gpu, backend).forward(q, k, cos, sin, 1.0, 1e-6)[1].shape == k.shape


@pytest.mark.parametrize("through", ["autograd", "dispatcher"])
def test_public_op(backend, device, no_worse, monkeypatch, through):
    """The op itself, the backend forced: its gradient, and the operator that torch.compile sees."""
    monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)
    q, k, cos, sin, grad_q, grad_k = inputs((2, 3, 4, 2, 64), torch.bfloat16, device)
    op = rotary_qk_norm if through == "autograd" else torch.ops.pynanochat.rotary_qk_norm.default
    q, k = q.requires_grad_(), k.requires_grad_()
    out = op(q, k, cos, sin, 1.2, 1e-6)
    ours = [*out, *torch.autograd.grad(out, (q, k), (grad_q, grad_k))]
    theirs = plain(q, k, cos, sin, grad_q, grad_k, q.dtype)
    truth = plain(q, k, cos, sin, grad_q, grad_k, torch.float64)
    for what, mine, his, true in zip(("q", "k", "dq", "dk"), ours, theirs, truth, strict=True):
        no_worse(what, mine, his, true)


@pytest.mark.parametrize("layout", ["dense", "slice", "transposed"])
def test_operator_is_registered_right(backend, device, monkeypatch, layout):
    monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)
    q, k, cos, sin, *_ = inputs((2, 3, 4, 4, 8), torch.float32, device)
    if layout == "slice":
        q = torch.cat([q, k], dim=2)[:, :, :4]
    elif layout == "transposed":
        q = q.transpose(1, 2).contiguous().transpose(1, 2)
    q, k = q.requires_grad_(), k.requires_grad_()
    torch.library.opcheck(torch.ops.pynanochat.rotary_qk_norm.default, (q, k, cos, sin, 1.2, 1e-6))


@pytest.mark.gpu
def test_more_elements_than_32_bits_count(backend, no_worse):
    """The last of more than 2^31 elements, or of as many as the card holds."""
    room = torch.cuda.mem_get_info()[0] // 3 // 2  # elements of q in bf16: q, its result and something to spare
    positions = min(2**31 // (64 * 128) + 4, room // (64 * 128))
    q = torch.empty(1, positions, 64, 128, dtype=torch.bfloat16, device="cuda")
    q[:, -3:] = inputs((1, 3, 64, 1, 128), torch.bfloat16, "cuda")[0]
    cos, sin = (t.cuda() for t in rotary_table(3, 128, 10_000.0))
    tables = [torch.cat([t.new_zeros(positions - 3, 64), t]) for t in (cos, sin)]
    k = q[:, :, :1]
    ours = getattr(rotary_qk_norm_gpu, backend).forward(q, k, *tables, 1.2, 1e-6)[0][:, -3:]
    last = q[:, -3:]
    theirs = rotary_qk_norm_reference(last, last, cos, sin, 1.2, 1e-6)[0]
    truth = rotary_qk_norm_reference(last.double(), last.double(), cos.double(), sin.double(), 1.2, 1e-6)[0]
    no_worse("q", ours, theirs, truth)
