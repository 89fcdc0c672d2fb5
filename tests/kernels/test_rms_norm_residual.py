"""rms_norm_residual on its GPU backends. C channels in the last dimension."""

import pytest
import torch

from pynanochat.ops.backends import implementations
from pynanochat.ops.rms_norm_residual import rms_norm_residual, rms_norm_residual_reference
from tests.kernels.on_gpu import test_a_hundred_times, test_in_a_graph, test_on_a_stream_of_its_own  # noqa: F401

OP = "rms_norm_residual"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = {
    "a block's": (2, 3, 192),
    "decode": (5, 1, 64),
    "odd": (3, 37),
    "one row": (768,),
    "wider than a tile": (3, 4097),
    "three tiles": (1, 9000),
}
NAMES = ("total", "normed", "dx", "dresidual")


def inputs(shape, dtype, device, seed=0):
    """x, residual and the gradients of both results."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(*shape, generator=generator).to(device, dtype) for _ in range(4)]


def plain(x, residual, dtotal, dnormed, dtype):
    x, residual = (t.detach().to(dtype).requires_grad_() for t in (x, residual))
    results = rms_norm_residual_reference(x, residual, 1e-6)
    return *results, *torch.autograd.grad(results, (x, residual), (dtotal.to(dtype), dnormed.to(dtype)))


def compare(no_worse, ours, *given):
    theirs, truth = plain(*given, given[0].dtype), plain(*given, torch.float64)
    for what, mine, his, true in zip(NAMES, ours, theirs, truth, strict=True):
        no_worse(what, mine, his, true)


def check(backend, no_worse, x, residual, dtotal, dnormed):
    kernel = implementations(OP)[backend]
    before = [t.clone() for t in (x, residual, dtotal, dnormed)]
    total, normed = kernel.forward(x, residual, 1e-6)
    gradient = kernel.backward(dtotal, dnormed, total, 1e-6)
    compare(no_worse, (total, normed, gradient, gradient), x, residual, dtotal, dnormed)
    assert all(map(torch.equal, before, (x, residual, dtotal, dnormed))), "an input was written to"


def example(backend, device):
    kernel = implementations(OP)[backend]

    def run(x, residual, dtotal, dnormed):
        total, normed = kernel.forward(x, residual, 1e-6)
        return total, normed, kernel.backward(dtotal, dnormed, total, 1e-6)

    return run, inputs((2, 512, 768), torch.bfloat16, device)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_shapes_and_dtypes(backend, device, no_worse, shape, dtype):
    check(backend, no_worse, *inputs(shape, dtype, device))


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_strided(backend, device, no_worse, dtype):
    x, residual, dtotal, dnormed = inputs((2, 5, 96), dtype, device)
    check(backend, no_worse, x[..., :40], residual[..., 8:48], dtotal[..., ::2][..., :40], dnormed[..., -40:])
    check(backend, no_worse, x[:, :-1], residual[:, 1:], dtotal[:, :1].expand(2, 4, 96), dnormed[:, 1:])


def test_no_rows(backend, device):
    x = torch.empty(0, 3, 8, device=device)
    kernel = implementations(OP)[backend]
    assert [y.shape for y in kernel.forward(x, x, 1e-6)] == [x.shape] * 2
    assert kernel.backward(x, x, x, 1e-6).shape == x.shape


@pytest.mark.parametrize("through", ["autograd", "dispatcher", "compiled"])
def test_public_op(backend, device, no_worse, monkeypatch, through):
    monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)
    x, residual, *grads = inputs((2, 3, 48), torch.bfloat16, device)
    op = torch.ops.pynanochat.rms_norm_residual.default if through == "dispatcher" else rms_norm_residual
    op = torch.compile(op, fullgraph=True, backend="aot_eager") if through == "compiled" else op
    x, residual = x.requires_grad_(), residual.requires_grad_()
    results = op(x, residual, 1e-6)
    compare(no_worse, (*results, *torch.autograd.grad(results, (x, residual), grads)), x, residual, *grads)


@pytest.mark.parametrize("used", [0, 1])
def test_one_result_unused(backend, device, no_worse, monkeypatch, used):
    """Its gradient is then zero, as the last block's norm has it."""
    monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)
    x, residual, *grads = inputs((2, 3, 48), torch.float32, device)
    grads[1 - used].zero_()
    x, residual = x.requires_grad_(), residual.requires_grad_()
    results = rms_norm_residual(x, residual)
    ours = torch.autograd.grad(results[used], (x, residual), grads[used])
    compare(no_worse, (*results, *ours), x, residual, *grads)


def test_operators_are_registered_right(backend, device, monkeypatch):
    monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)
    x, residual, dtotal, dnormed = inputs((2, 3, 16), torch.float32, device)
    given = x[..., :9].requires_grad_(), residual[..., 7:].requires_grad_(), 1e-6
    torch.library.opcheck(torch.ops.pynanochat.rms_norm_residual.default, given)
    torch.library.opcheck(torch.ops.pynanochat.rms_norm_residual_backward.default, (dtotal, dnormed, x, 1e-6))
