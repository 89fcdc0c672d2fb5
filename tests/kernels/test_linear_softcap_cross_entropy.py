"""linear_softcap_cross_entropy on its GPU backends. N tokens, C channels, V rows of the head."""

import pytest
import torch
import torch.nn.functional as F

from pynanochat.ops import linear_softcap_cross_entropy
from pynanochat.ops import linear_softcap_cross_entropy_gpu as gpu
from tests.kernels.on_gpu import test_a_hundred_times, test_in_a_graph, test_on_a_stream_of_its_own  # noqa: F401

OP = "linear_softcap_cross_entropy"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = {  # N, C, V, vocab_size
    "padded": (70, 96, 320, 300),
    "odd": (13, 33, 77, 77),
    "one token": (1, 16, 50, 50),
    "one word": (5, 8, 4, 1),
    "more words than a block": (3, 24, 2100, 2099),
}


def inputs(shape, dtype, device, weight_dtype=None):
    tokens, channels, rows, vocab_size = shape
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(tokens, channels, generator=generator).to(device, dtype)
    weight = (torch.randn(rows, channels, generator=generator) * 8 / channels**0.5).to(device, weight_dtype or dtype)
    targets = torch.randint(0, vocab_size, (tokens,), generator=generator)
    targets[::5] = -1
    targets[-1] = vocab_size - 1
    scale = torch.rand(tokens, generator=generator).to(device)
    return x, weight, targets.to(device), scale, vocab_size


def plain(x, weight, targets, scale, vocab_size, softcap, dtype):
    """losses, dx and dweight by plain torch with products in `dtype` and the softmax in fp32 or wider."""
    x, head = x.detach().to(dtype).requires_grad_(), weight.detach().requires_grad_()
    wide = torch.promote_types(dtype, torch.float32)
    if dtype == torch.float64:
        # the truth is about the weights that the products see, not about the rounding of a master copy
        head = weight.detach().to(torch.promote_types(x.dtype, weight.dtype)).requires_grad_()
    logits = softcap * torch.tanh((x @ head[:vocab_size].to(dtype).T).to(wide) / softcap)
    losses = F.cross_entropy(logits, targets, ignore_index=-1, reduction="none")
    return losses, *torch.autograd.grad((losses * scale.to(wide)).sum(), (x, head))


def check(backend, no_worse, x, weight, targets, scale, vocab_size, softcap=15.0):
    kernel = getattr(gpu, backend)
    losses = kernel.losses(x, weight, targets, vocab_size, softcap, -1)
    with_grads = kernel.losses_and_grads(x, weight, targets, scale, vocab_size, softcap, -1)
    theirs = plain(x, weight, targets, scale, vocab_size, softcap, x.dtype)
    truth = plain(x, weight.to(x.dtype), targets, scale, vocab_size, softcap, torch.float64)
    largest = softcap * torch.tanh((x.double() @ weight[:vocab_size].double().T) / softcap).abs().max().item()
    no_worse("losses alone", losses, theirs[0], truth[0], largest)
    no_worse("losses", with_grads[0], theirs[0], truth[0], largest)
    no_worse("dx", with_grads[1], theirs[1], truth[1], largest)
    no_worse("dweight", with_grads[2], theirs[2], truth[2], largest)
    assert not with_grads[2][vocab_size:].any(), "padding rows got a gradient"
    ignored = targets == -1
    assert not losses[ignored].any() and not with_grads[0][ignored].any() and not with_grads[1][ignored].any()


def example(backend, device):
    kernel = getattr(gpu, backend)
    *given, vocab_size = inputs((300, 256, 4096, 4090), torch.bfloat16, device)

    def run(x, weight, targets, scale):
        settings = (vocab_size, 15.0, -1)
        return (
            kernel.losses(x, weight, targets, *settings),
            kernel.losses_and_grads(x, weight, targets, scale, *settings),
        )

    return run, given


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_shapes_and_dtypes(backend, device, no_worse, shape, dtype):
    check(backend, no_worse, *inputs(shape, dtype, device))


def test_master_weights(backend, device, no_worse):
    """x in bf16, the head an fp32 master copy whose gradient stays fp32."""
    check(backend, no_worse, *inputs((40, 64, 128, 120), torch.bfloat16, device, torch.float32))


def test_many_chunks(backend, device, no_worse, monkeypatch):
    monkeypatch.setattr(gpu, "WORKSPACE", 10_000)
    check(backend, no_worse, *inputs((50, 32, 200, 200), torch.float32, device))


@pytest.mark.parametrize("softcap", [1.0, 5.0, 200.0])
def test_softcaps(backend, device, no_worse, softcap):
    x, *rest = inputs((20, 32, 100, 100), torch.float32, device)
    check(backend, no_worse, x * 10, *rest, softcap=softcap)


def test_strided(backend, device, no_worse):
    """x and weight as slices of wider tensors, targets every second, one scale for all tokens."""
    x, weight, targets, _, vocab_size = inputs((16, 64, 100, 100), torch.float32, device)
    scale = torch.tensor(0.25, device=device).expand(8)
    check(backend, no_worse, x[::2, :32], weight[:, 32:], targets[::2], scale, vocab_size)


def test_all_ignored_and_none(backend, device):
    x, weight, targets, scale, vocab_size = inputs((6, 16, 40, 40), torch.float32, device)
    losses, dx, dweight = getattr(gpu, backend).losses_and_grads(
        x, weight, torch.full_like(targets, -1), scale, vocab_size, 15.0, -1
    )
    assert not losses.any() and not dx.any() and not dweight.any()
    assert getattr(gpu, backend).losses(x[:0], weight, targets[:0], vocab_size, 15.0, -1).shape == (0,)


def test_target_outside_the_vocabulary_is_nan(backend, device):
    """A GPU cannot raise in time; it must not read or write out of bounds, nor hide the mistake."""
    x, weight, targets, scale, vocab_size = inputs((6, 16, 40, 38), torch.float32, device)
    targets[1], targets[2] = 39, -7
    losses, dx, _ = getattr(gpu, backend).losses_and_grads(x, weight, targets, scale, vocab_size, 15.0, -1)
    assert losses.isnan().tolist() == dx.isnan().any(1).tolist() == [False, True, True, False, False, False]
    alone = getattr(gpu, backend).losses(x, weight, targets, vocab_size, 15.0, -1)
    assert alone.isnan().tolist() == [False, True, True, False, False, False]


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_public_op(backend, device, no_worse, monkeypatch, reduction):
    monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)
    x, weight, targets, scale, vocab_size = inputs((40, 48, 128, 120), torch.float32, device)
    factor = {"mean": 1 / (targets != -1).sum().double(), "sum": 1.0, "none": scale.double()}[reduction]
    x, weight = x.requires_grad_(), weight.requires_grad_()
    loss = linear_softcap_cross_entropy(x, weight, targets, reduction=reduction, vocab_size=vocab_size)
    dx, dweight = torch.autograd.grad((loss * scale).sum() if reduction == "none" else loss, (x, weight))
    each = torch.ones_like(scale) * factor
    theirs = plain(x, weight, targets, each.float(), vocab_size, 15.0, torch.float32)
    truth = plain(x, weight, targets, each, vocab_size, 15.0, torch.float64)
    no_worse("dx", dx, theirs[1], truth[1], 15.0)
    no_worse("dweight", dweight, theirs[2], truth[2], 15.0)
    total = truth[0] if reduction == "none" else (truth[0] * factor).sum()
    torch.testing.assert_close(loss.double(), total, rtol=3e-6, atol=3e-6)


def test_operators_are_registered_right(backend, device, monkeypatch):
    monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)
    x, weight, targets, scale, vocab_size = inputs((6, 8, 20, 18), torch.float32, device)
    settings = (vocab_size, 15.0, -1)
    losses = torch.ops.pynanochat.linear_softcap_cross_entropy_losses.default
    torch.library.opcheck(losses, (x.requires_grad_(), weight.requires_grad_(), targets, *settings))
    both = torch.ops.pynanochat.linear_softcap_cross_entropy_losses_and_grads.default
    torch.library.opcheck(both, (x.detach()[:, ::2], weight.detach()[:, ::2], targets, scale, *settings))


@pytest.mark.gpu
def test_a_real_vocabulary(backend, no_worse):
    check(backend, no_worse, *inputs((4096, 768, 32768, 32759), torch.bfloat16, "cuda"))


@pytest.mark.gpu
def test_more_products_than_32_bits_count(backend, no_worse, monkeypatch):
    """One chunk of more than 2^31 products, or of as many as the card holds; its last tokens must be right."""
    columns = 65536
    tokens = min(2**31 // columns + 100, torch.cuda.mem_get_info()[0] // 3 // 2 // columns)
    monkeypatch.setattr(gpu, "WORKSPACE", 2**40)
    x, weight, targets, scale, vocab_size = inputs((tokens, 16, columns, columns), torch.bfloat16, "cuda")
    kernel = getattr(gpu, backend)
    settings = (vocab_size, 15.0, -1)
    last = slice(tokens - 50, tokens)
    losses, dx, _ = kernel.losses_and_grads(x, weight, targets, scale, *settings)
    theirs = plain(x[last], weight, targets[last], scale[last], vocab_size, 15.0, torch.bfloat16)
    truth = plain(x[last], weight, targets[last], scale[last], vocab_size, 15.0, torch.float64)
    no_worse("losses", losses[last], theirs[0], truth[0], 15.0)
    no_worse("losses alone", kernel.losses(x, weight, targets, *settings)[last], theirs[0], truth[0], 15.0)
    no_worse("dx", dx[last], theirs[1], truth[1], 15.0)
