"""rms_norm on its GPU backends. R rows, C channels."""

import pytest
import torch

from pynanochat.ops.backends import implementations
from pynanochat.ops.rms_norm import backward_reference, rms_norm, rms_norm_reference
from tests.kernels.on_gpu import test_a_hundred_times, test_in_a_graph, test_on_a_stream_of_its_own  # noqa: F401

OP = "rms_norm"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = {
    "a block's": (2, 3, 192),
    "decode": (5, 1, 64),
    "one": (1, 1),
    "odd": (3, 37),
    "one row": (768,),
    "a tile": (2, 4096),
    "wider than a tile": (3, 4097),
    "three tiles": (1, 9000),
}


def inputs(shape, dtype, device, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator).to(device, dtype) for _ in range(2)]


def plain(x, dy, dtype, eps):
    """y and dx by plain torch, computed in `dtype`."""
    x = x.detach().to(dtype).requires_grad_()
    y = rms_norm_reference(x, eps)
    return y, *torch.autograd.grad(y, x, dy.to(dtype))


def check(backend, no_worse, x, dy, eps=1e-6):
    kernel = implementations(OP)[backend]
    before = x.clone(), dy.clone()
    ours = kernel.forward(x, eps), kernel.backward(dy, x, eps)
    theirs, truth = plain(x, dy, x.dtype, eps), plain(x, dy, torch.float64, eps)
    for what, mine, his, true in zip(("y", "dx"), ours, theirs, truth, strict=True):
        no_worse(what, mine, his, true)
    assert torch.equal(before[0], x) and torch.equal(before[1], dy), "an input was written to"


def example(backend, device):
    kernel = implementations(OP)[backend]
    run = lambda x, dy: (kernel.forward(x, 1e-6), kernel.backward(dy, x, 1e-6))  # noqa: E731
    return run, inputs((2, 512, 768), torch.bfloat16, device)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_shapes_and_dtypes(backend, device, no_worse, shape, dtype):
    check(backend, no_worse, *inputs(shape, dtype, device))


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_strided(backend, device, no_worse, dtype):
    """Slices of wider rows, all but the last position, channels two apart, an expanded gradient."""
    x, dy = inputs((2, 5, 96), dtype, device)
    check(backend, no_worse, x[..., :40], dy[..., 8:48])
    check(backend, no_worse, x[:, :-1], dy[:, 1:])
    check(backend, no_worse, x[:, -1:, ::2], dy[:, :1, 1::2])
    check(backend, no_worse, x.transpose(1, 2), torch.ones((), dtype=dtype, device=device).expand(2, 96, 5))


def test_large_tiny_and_zero(backend, device, no_worse):
    x, dy = inputs((4, 64), torch.float32, device)
    check(backend, no_worse, x * 1e8, dy)
    check(backend, no_worse, x * 1e-4, dy)
    check(backend, no_worse, x, dy, eps=0.5)
    zero = torch.zeros_like(x)
    assert torch.equal(implementations(OP)[backend].forward(zero, 1e-6), zero)


def test_no_rows(backend, device):
    x = torch.empty(0, 3, 8, device=device)
    kernel = implementations(OP)[backend]
    assert kernel.forward(x, 1e-6).shape == kernel.backward(x, x, 1e-6).shape == x.shape


@pytest.mark.parametrize("through", ["autograd", "dispatcher", "compiled"])
def test_public_op(backend, device, no_worse, monkeypatch, through):
    monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)
    x, dy = inputs((2, 3, 48), torch.bfloat16, device)
    op = torch.ops.pynanochat.rms_norm.default if through == "dispatcher" else rms_norm
    op = torch.compile(op, fullgraph=True, backend="aot_eager") if through == "compiled" else op
    x = x.requires_grad_()
    y = op(x, 1e-6)
    ours = y, *torch.autograd.grad(y, x, dy)
    theirs, truth = plain(x, dy, x.dtype, 1e-6), plain(x, dy, torch.float64, 1e-6)
    for what, mine, his, true in zip(("y", "dx"), ours, theirs, truth, strict=True):
        no_worse(what, mine, his, true)


def test_operators_are_registered_right(backend, device, monkeypatch):
    monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)
    x, dy = inputs((2, 3, 16), torch.float32, device)
    wide = torch.cat([x, x], dim=-1)[..., :16].requires_grad_()
    for given in (x.clone().requires_grad_(), wide):
        torch.library.opcheck(torch.ops.pynanochat.rms_norm.default, (given, 1e-6))
    torch.library.opcheck(torch.ops.pynanochat.rms_norm_backward.default, (dy, x, 1e-6))


@pytest.mark.gpu
def test_compiled_in_one_graph(backend, monkeypatch):
    monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)
    x, _ = inputs((4, 64, 768), torch.bfloat16, "cuda")
    f = lambda x: rms_norm(2 * x) + 1  # noqa: E731
    both = [torch.autograd.grad(g(x.requires_grad_()).square().sum(), x) for g in (torch.compile(f, fullgraph=True), f)]
    torch.testing.assert_close(*both)


@pytest.mark.gpu
def test_more_elements_than_32_bits_count(backend, no_worse):
    """The last rows of more than 2^31 elements, or of as many as the card holds."""
    rows = min(2**31 // 768 + 4, torch.cuda.mem_get_info()[0] // 3 // 2 // 768)
    x = torch.zeros(rows, 768, dtype=torch.bfloat16, device="cuda")
    last, _ = inputs((3, 768), torch.bfloat16, "cuda")
    x[-3:] = last
    y = implementations(OP)[backend].forward(x, 1e-6)[-3:]
    no_worse("y", y, rms_norm_reference(last, 1e-6), rms_norm_reference(last.double(), 1e-6))
    dx = implementations(OP)[backend].backward(x, x, 1e-6)[-3:]
    truth = backward_reference(last.double(), last.double(), 1e-6)
    no_worse("dx", dx, plain(last, last, torch.bfloat16, 1e-6)[1], truth)
