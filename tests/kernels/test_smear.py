"""smear on its GPU backends. B rows, T positions, C channels, K channels of the gate."""

import pytest
import torch

from pynanochat.ops.backends import implementations
from pynanochat.ops.smear import smear, smear_reference
from tests.kernels.on_gpu import test_a_hundred_times, test_in_a_graph, test_on_a_stream_of_its_own  # noqa: F401

OP = "smear"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = {  # B, T, C, K
    "a block's": (2, 5, 192, 24),
    "decode": (5, 1, 64, 24),
    "odd": (3, 4, 37, 7),
    "gate of all": (2, 3, 8, 8),
    "one": (1, 1, 1, 1),
    "wider than a tile": (2, 2, 2100, 24),
    "gate wider than a tile's part": (1, 3, 4100, 33),
}


def inputs(shape, dtype, device, weight_dtype=None):
    """x, weight, scale, previous and dy."""
    batch, _, columns, channels = shape
    generator = torch.Generator().manual_seed(0)
    make = lambda *size: torch.randn(*size, generator=generator).to(device, dtype)  # noqa: E731
    weight = (torch.randn(1, channels, generator=generator) / channels**0.5).to(device, weight_dtype or dtype)
    scale = torch.tensor([0.7]).to(device, weight_dtype or dtype)
    return make(*shape[:3]), weight, scale, make(batch, columns), make(*shape[:3])


def plain(x, weight, scale, previous, dy, dtype):
    """y and all gradients by plain torch, computed in `dtype`; a gradient has its input's dtype."""
    exact = dtype == torch.float64
    x = x.detach().to(dtype).requires_grad_()
    weight, scale = (p.detach().to(dtype if exact else p.dtype).requires_grad_() for p in (weight, scale))
    given = [x, weight, scale]
    if previous is not None:
        previous = previous.detach().to(dtype).requires_grad_()
        given.append(previous)
    y = smear_reference(x, weight, scale, previous)
    return y, *torch.autograd.grad(y, given, dy.to(dtype))


def compare(no_worse, ours, x, weight, scale, previous, dy):
    theirs = plain(x, weight, scale, previous, dy, x.dtype)
    truth = plain(x, weight, scale, previous, dy, torch.float64)
    names = ("y", "dx", "dweight", "dscale", "dprevious")[: len(truth)]
    before = torch.cat([torch.zeros_like(x[:, :1]) if previous is None else previous[:, None], x[:, :-1]], dim=1)
    largest_logit = torch.nn.functional.linear(x[..., : weight.size(1)].double(), weight.double()).abs().max().item()
    largest_dot = (dy.double() * before.double()).abs().sum(-1).max().item()
    for what, mine, his, true in zip(names, ours, theirs, truth, strict=True):
        # gradients of few numbers, sums of dots that cancel: they may be off by a rounding of what was summed
        allowed = largest_dot / max(1.0, true.abs().max().item()) if what in ("dweight", "dscale") else largest_logit
        no_worse(what, mine, his, true, allowed)


def check(backend, no_worse, x, weight, scale, previous, dy):
    kernel = implementations(OP)[backend]
    given = [t for t in (x, weight, scale, previous, dy) if t is not None]
    before = [t.clone() for t in given]
    gradients = kernel.backward(dy, x, weight, scale, previous)
    if previous is None:
        assert gradients[3].numel() == 0
        gradients = gradients[:3]
    compare(no_worse, (kernel.forward(x, weight, scale, previous), *gradients), x, weight, scale, previous, dy)
    assert all(map(torch.equal, before, given)), "an input was written to"


def example(backend, device):
    kernel = implementations(OP)[backend]

    def run(x, weight, scale, previous, dy):
        gates = (x, weight, scale, previous)
        return kernel.forward(*gates), kernel.backward(dy, *gates)

    return run, inputs((2, 512, 768, 24), torch.bfloat16, device, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_shapes_and_dtypes(backend, device, no_worse, shape, dtype):
    x, weight, scale, previous, dy = inputs(shape, dtype, device)
    check(backend, no_worse, x, weight, scale, previous, dy)
    check(backend, no_worse, x, weight, scale, None, dy)


def test_master_weights(backend, device, no_worse):
    """Activations in bf16, gate and scale fp32."""
    check(backend, no_worse, *inputs((2, 7, 96, 24), torch.bfloat16, device, torch.float32))


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_strided(backend, device, no_worse, dtype):
    x, weight, scale, previous, dy = inputs((4, 6, 96, 24), dtype, device)
    check(backend, no_worse, x[..., :40], weight[:, ::2], scale, previous[:, 8:48], dy[..., 8:48])
    check(backend, no_worse, x[::2, :-1], weight, scale, previous[::2], dy[1::2, 1:])
    thin = torch.ones((), dtype=dtype, device=device).expand(4, 96, 6)
    check(backend, no_worse, x.transpose(1, 2), weight[:, :5], scale, previous[:, :12:2], thin)


def test_no_rows(backend, device):
    x, weight, scale, previous, _ = inputs((2, 3, 16, 4), torch.float32, device)
    kernel = implementations(OP)[backend]
    assert kernel.forward(x[:0], weight, scale, previous[:0]).shape == (0, 3, 16)
    dx, dweight, dscale, _ = kernel.backward(x[:0], x[:0], weight, scale, None)
    assert dx.shape == (0, 3, 16) and not dweight.any() and not dscale.any()


def test_decoding_gives_the_sequence_again(backend, device):
    """Token by token with `previous`, as with the whole at once."""
    x, weight, scale, *_ = inputs((2, 5, 64, 24), torch.float32, device)
    kernel = implementations(OP)[backend]
    whole = kernel.forward(x, weight, scale, None)
    for t in range(1, 5):
        alone = kernel.forward(x[:, t : t + 1], weight, scale, x[:, t - 1])
        torch.testing.assert_close(alone, whole[:, t : t + 1])


@pytest.mark.parametrize("with_previous", [True, False])
@pytest.mark.parametrize("through", ["autograd", "dispatcher", "compiled"])
def test_public_op(backend, device, no_worse, monkeypatch, through, with_previous):
    monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)
    x, weight, scale, previous, dy = inputs((2, 3, 48, 24), torch.bfloat16, device)
    op = torch.ops.pynanochat.smear.default if through == "dispatcher" else smear
    op = torch.compile(op, fullgraph=True, backend="aot_eager") if through == "compiled" else op
    given = [t.requires_grad_() for t in (x, weight, scale, previous)[: 3 + with_previous]]
    previous = previous if with_previous else None
    y = op(x, weight, scale, previous)
    compare(no_worse, (y, *torch.autograd.grad(y, given, dy)), x, weight, scale, previous, dy)


@pytest.mark.parametrize("with_previous", [True, False])
def test_operators_are_registered_right(backend, device, monkeypatch, with_previous):
    monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)
    x, weight, scale, previous, dy = inputs((2, 3, 16, 4), torch.float32, device)
    previous = previous if with_previous else None
    given = [x[..., :9], weight, scale, None if previous is None else previous[:, 7:]]
    torch.library.opcheck(torch.ops.pynanochat.smear_backward.default, (dy[..., :9], *given))
    given = [t if t is None else t.requires_grad_() for t in given]
    torch.library.opcheck(torch.ops.pynanochat.smear.default, tuple(given))
