"""relu2_mlp on its GPU backends. N tokens, C channels, M units."""

import pytest
import torch

from pynanochat.ops import relu2_mlp, relu2_mlp_gpu
from pynanochat.ops.relu2_mlp import relu2_mlp_reference
from tests.kernels.on_gpu import test_a_hundred_times, test_in_a_graph, test_on_a_stream_of_its_own  # noqa: F401

OP = "relu2_mlp"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = {"plain": (48, 32, 80), "odd": (67, 33, 65), "long": (130, 20, 24), "one token": (1, 7, 5)}  # N, C, M


def inputs(shape, dtype, device, weight_dtype=None):
    """x, the gradient of the result, w_fc, w_proj."""
    tokens, channels, units = shape
    generator = torch.Generator().manual_seed(3)
    draw = lambda *s: torch.randn(s, generator=generator).to(device)  # noqa: E731
    x, dy = draw(tokens, channels).to(dtype), draw(tokens, channels).to(dtype)
    weights = draw(units, channels) / channels**0.5, draw(channels, units) / units**0.5
    return x, dy, *(w.to(weight_dtype or dtype) for w in weights)


def plain(x, dy, w_fc, w_proj, dtype):
    """y and the gradients of x, w_fc and w_proj by plain torch in `dtype`."""
    if dtype == torch.float64:
        w_fc, w_proj = w_fc.to(x.dtype).double(), w_proj.to(x.dtype).double()  # what the products see of a master copy
    leaves = [t.detach().to(dtype if t is x else t.dtype).requires_grad_() for t in (x, w_fc, w_proj)]
    y = relu2_mlp_reference(*leaves)
    return y, *torch.autograd.grad(y, leaves, dy.to(dtype))


def check(backend, no_worse, x, dy, w_fc, w_proj):
    kernel = getattr(relu2_mlp_gpu, backend)
    y, h = kernel.forward(x, w_fc, w_proj)
    ours = [y, *kernel.backward(dy, x, h, w_fc, w_proj)]
    theirs, truth = (plain(x, dy, w_fc, w_proj, dtype) for dtype in (x.dtype, torch.float64))
    for what, mine, his, true in zip(("y", "dx", "dw_fc", "dw_proj"), ours, theirs, truth, strict=True):
        no_worse(what, mine, his, true)


def example(backend, device):
    kernel = getattr(relu2_mlp_gpu, backend)

    def run(x, dy, *weights):
        y, h = kernel.forward(x, *weights)
        return y, kernel.backward(dy, x, h, *weights)

    return run, inputs((300, 256, 1000), torch.bfloat16, device)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_shapes_and_dtypes(backend, device, no_worse, shape, dtype):
    check(backend, no_worse, *inputs(shape, dtype, device))


def test_master_weights(backend, device, no_worse):
    """x in bf16, the weights fp32 master copies whose gradients stay fp32."""
    check(backend, no_worse, *inputs((40, 32, 48), torch.bfloat16, device, torch.float32))


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_strided(backend, device, no_worse, dtype):
    """x every second row of a slice, its gradient transposed and one that is expanded, weights by columns."""
    x, dy, w_fc, w_proj = inputs((40, 32, 48), dtype, device)
    across = [w.T.contiguous().T for w in (w_fc[:, 8:], w_proj[8:])]
    check(backend, no_worse, x[::2, 8:], dy[:20, 8:].T.contiguous().T, *across)
    check(backend, no_worse, x[:, 8:], dy[:1, 8:].expand(40, 24), *across)


def test_dead_units_get_no_gradient(backend, device):
    x, dy, w_fc, w_proj = inputs((20, 16, 24), torch.float32, device)
    kernel = getattr(relu2_mlp_gpu, backend)
    y, h = kernel.forward(x.abs(), -w_fc.abs(), w_proj)
    dx, dw_fc, dw_proj = kernel.backward(dy, x.abs(), h, -w_fc.abs(), w_proj)
    assert not any(t.any() for t in (y, h, dx, dw_fc, dw_proj))


def test_what_is_not_a_number_stays_one(backend, device):
    """relu must not hide a NaN: the loop's check for them looks at the loss."""
    x, _, w_fc, w_proj = inputs((20, 16, 24), torch.float32, device)
    x[3, 5] = float("nan")
    y, _ = getattr(relu2_mlp_gpu, backend).forward(x, w_fc, w_proj)
    assert y.isnan().any(1).tolist() == [row == 3 for row in range(20)]


def test_no_tokens(backend, device):
    x, dy, w_fc, w_proj = inputs((0, 16, 24), torch.float32, device)
    kernel = getattr(relu2_mlp_gpu, backend)
    y, h = kernel.forward(x, w_fc, w_proj)
    dx, dw_fc, _ = kernel.backward(dy, x, h, w_fc, w_proj)
    assert y.shape == dx.shape == (0, 16) and not dw_fc.any()


def test_public_op(backend, device, no_worse, monkeypatch):
    monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)
    x, dy, w_fc, w_proj = inputs((30, 16, 24), torch.bfloat16, device, torch.float32)
    leaves = [t.requires_grad_() for t in (x, w_fc, w_proj)]
    y = relu2_mlp(x.view(2, 15, 16), w_fc, w_proj)
    ours = [y.view(30, 16), *torch.autograd.grad(y, leaves, dy.view(2, 15, 16))]
    theirs, truth = (plain(x, dy, w_fc, w_proj, dtype) for dtype in (torch.bfloat16, torch.float64))
    for what, mine, his, true in zip(("y", "dx", "dw_fc", "dw_proj"), ours, theirs, truth, strict=True):
        no_worse(what, mine, his, true)


def test_operator_is_registered_right(backend, device, monkeypatch):
    monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)
    x, _, w_fc, w_proj = inputs((9, 8, 6), torch.float32, device)
    torch.library.opcheck(torch.ops.pynanochat.relu2_mlp.default, tuple(t.requires_grad_() for t in (x, w_fc, w_proj)))


@pytest.mark.gpu
def test_compiled_by_torch(backend, monkeypatch):
    monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)
    x, _, w_fc, w_proj = inputs((512, 64, 256), torch.bfloat16, "cuda", torch.float32)
    compiled = torch.compile(lambda *t: relu2_mlp(*t) * 2, fullgraph=True)
    torch.testing.assert_close(compiled(x, w_fc, w_proj), relu2_mlp(x, w_fc, w_proj) * 2)


@pytest.mark.gpu
def test_a_real_layer(backend, no_worse):
    for dtype in DTYPES[1:]:
        check(backend, no_worse, *inputs((8192, 768, 3072), dtype, "cuda", torch.float32))
