"""value_gate on its GPU backends. B rows, T positions, G heads of D, C channels, K of them in the gate, V words."""

import pytest
import torch

from pynanochat.ops.backends import implementations
from pynanochat.ops.value_gate import value_gate, value_gate_reference
from tests.kernels.on_gpu import test_a_hundred_times, test_in_a_graph, test_on_a_stream_of_its_own  # noqa: F401

OP = "value_gate"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = {  # B, T, G, D, C, K, V
    "grouped": (2, 5, 2, 64, 48, 12, 20),
    "decode": (5, 1, 3, 16, 32, 12, 40),
    "odd": (3, 7, 3, 12, 17, 5, 11),
    "one": (1, 1, 1, 1, 1, 1, 1),
    "one word": (2, 17, 1, 8, 16, 12, 1),
    "many heads": (1, 3, 20, 128, 40, 40, 9),
    "more channels than are zeroed at once": (1, 2, 2, 8, 1100, 3, 5),
}
NAMES = ("out", "dv", "dx", "dtable", "dgate_weight")


def inputs(shape, dtype, device, weight_dtype=None, seed=0):
    """v, x, ids, table, gate_weight and dout."""
    batch, positions, heads, size, columns, channels, words = shape
    generator = torch.Generator().manual_seed(seed)
    make = lambda *size: torch.randn(*size, generator=generator).to(device, dtype)  # noqa: E731
    weights = [
        torch.randn(words, heads * size, generator=generator).to(device, weight_dtype or dtype),
        (torch.randn(heads, channels, generator=generator) / channels**0.5).to(device, weight_dtype or dtype),
    ]
    ids = torch.randint(0, words, (batch, positions), generator=generator).to(device)
    v, x, dout = (
        make(batch, positions, heads, size),
        make(batch, positions, columns),
        make(batch, positions, heads, size),
    )
    return v, x, ids, *weights, dout


def plain(v, x, ids, table, gate_weight, dout, dtype):
    """out and all gradients by plain torch, computed in `dtype`; a gradient has its input's dtype."""
    exact = dtype == torch.float64
    v, x = (t.detach().to(dtype).requires_grad_() for t in (v, x))
    table, gate_weight = (t.detach().to(dtype if exact else t.dtype).requires_grad_() for t in (table, gate_weight))
    out = value_gate_reference(v, x, ids, table, gate_weight)
    return out, *torch.autograd.grad(out, (v, x, table, gate_weight), dout.to(dtype))


def compare(no_worse, ours, v, x, ids, table, gate_weight, dout):
    given = (v, x, ids, table, gate_weight, dout)
    theirs, truth = plain(*given, v.dtype), plain(*given, torch.float64)
    embedded = torch.nn.functional.embedding(ids, table).view(dout.shape)
    # dots that cancel may be off by a rounding of what was summed
    dot = (dout.double() * embedded.double()).abs().sum(-1).max().item()
    for what, mine, his, true in zip(NAMES, ours, theirs, truth, strict=True):
        no_worse(what, mine, his, true, dot if what in ("dx", "dgate_weight") else 1.0)


def check(backend, no_worse, *given):
    kernel = implementations(OP)[backend]
    before = [t.clone() for t in given]
    *forward, dout = given
    ours = kernel.forward(*forward), dout, *kernel.backward(dout, *forward[1:])
    compare(no_worse, ours, *given)
    assert all(map(torch.equal, before, given)), "an input was written to"


def example(backend, device):
    kernel = implementations(OP)[backend]

    def run(*given):
        *forward, dout = given
        return kernel.forward(*forward), kernel.backward(dout, *forward[1:])

    return run, inputs((2, 512, 6, 128, 768, 12, 1000), torch.bfloat16, device, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_shapes_and_dtypes(backend, device, no_worse, shape, dtype):
    check(backend, no_worse, *inputs(shape, dtype, device))


def test_master_weights(backend, device, no_worse):
    """Activations in bf16, table and gate fp32."""
    check(backend, no_worse, *inputs((2, 7, 2, 64, 48, 12, 20), torch.bfloat16, device, torch.float32))


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_strided(backend, device, no_worse, dtype):
    """v a slice of a joint projection, x of wider rows, a table of wider rows, an expanded gradient."""
    v, x, ids, table, gate_weight, dout = inputs((2, 5, 4, 16, 48, 24, 12), dtype, device)
    check(backend, no_worse, v[:, :, :2], x[..., ::2], ids, table[:, 8:40], gate_weight[:2, ::2], dout[:, :, 2:])
    check(backend, no_worse, v[:, :-1], x[:, 1:], ids[:, :4], table, gate_weight, dout[:1, :1].expand(2, 4, 4, 16))
    turned = dout.transpose(1, 2).contiguous().transpose(1, 2)
    check(backend, no_worse, v, x, ids.T.contiguous().T, table.T.contiguous().T, gate_weight, turned)


RUNS = {  # how often each word follows itself, sorted, where a chunk is four tokens
    "to a chunk's end": [4, 4],
    "over a border": [3, 3, 3],
    "over many chunks": [1, 19, 2],
    "from the first to the last": [17],
    "to a chunk's end and on": [3, 1, 1, 11, 4, 2],
    "each its own": [1] * 9,
}


@pytest.mark.parametrize("runs", RUNS.values(), ids=RUNS.keys())
def test_table_gradient_of_runs(backend, device, no_worse, monkeypatch, runs):
    """The sums of ids by their places in the sorted order."""
    if backend == "triton":
        monkeypatch.setattr("pynanochat.kernels.value_gate.CHUNK", 4)
    words = torch.arange(len(runs)).repeat_interleave(torch.tensor(runs))
    shuffled = words[torch.randperm(len(words), generator=torch.Generator().manual_seed(1))]
    v, x, _, table, gate_weight, dout = inputs((1, len(words), 1, 4, 8, 3, len(runs) + 2), torch.float32, device)
    check(backend, no_worse, v, x, shuffled[None].to(device), table, gate_weight, dout)


def test_same_bits_twice(backend, device):
    _, *given, dout = inputs((2, 20, 2, 8, 16, 4, 3), torch.float32, device)
    kernel = implementations(OP)[backend]
    assert all(map(torch.equal, kernel.backward(dout, *given), kernel.backward(dout, *given)))


def test_ids_outside_the_table_are_nan(backend, device):
    """A GPU cannot raise in time; it must not read or write out of bounds, nor hide the mistake."""
    v, x, ids, table, gate_weight, dout = inputs((1, 6, 1, 4, 8, 3, 5), torch.float32, device)
    kernel = implementations(OP)[backend]
    ids[0, 1], ids[0, 2], ids[0, 5] = 5, -1, -2
    bad = [False, True, True, False, False, True]
    assert kernel.forward(v, x, ids, table, gate_weight).isnan().any((2, 3))[0].tolist() == bad
    dx, dtable, _ = kernel.backward(dout, x, ids, table, gate_weight)
    assert dx.isnan().any(2)[0].tolist() == bad
    good = torch.tensor([not b for b in bad], device=device)
    _, expected, _ = kernel.backward(dout[:, good], x[:, good], ids[:, good], table, gate_weight)
    torch.testing.assert_close(dtable, expected)


def test_a_frozen_table(backend, device, monkeypatch):
    """Adapters train with the table at rest: its gradient is then not made."""
    monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)
    v, x, ids, table, gate_weight, dout = inputs((2, 3, 2, 8, 16, 4, 5), torch.float32, device)
    kernel = implementations(OP)[backend]
    assert kernel.backward(dout, x, ids, table, gate_weight, False)[1] is None
    expected, _, _ = kernel.backward(dout, x, ids, table, gate_weight)
    (dx,) = torch.autograd.grad(value_gate(v, x.requires_grad_(), ids, table, gate_weight), x, dout)
    assert torch.equal(dx, expected)


def test_no_tokens(backend, device):
    v, x, ids, table, gate_weight, dout = inputs((2, 3, 2, 8, 16, 4, 5), torch.float32, device)
    kernel = implementations(OP)[backend]
    assert kernel.forward(v[:0], x[:0], ids[:0], table, gate_weight).shape == (0, 3, 2, 8)
    dx, dtable, dgate_weight = kernel.backward(dout[:0], x[:0], ids[:0], table, gate_weight)
    assert dx.shape == (0, 3, 16) and not dtable.any() and not dgate_weight.any()


@pytest.mark.parametrize("through", ["autograd", "dispatcher", "compiled"])
def test_public_op(backend, device, no_worse, monkeypatch, through):
    monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)
    v, x, ids, table, gate_weight, dout = inputs((2, 5, 2, 16, 32, 12, 7), torch.bfloat16, device, torch.float32)
    op = torch.ops.pynanochat.value_gate.default if through == "dispatcher" else value_gate
    op = torch.compile(op, fullgraph=True, backend="aot_eager") if through == "compiled" else op
    given = [t.requires_grad_() for t in (v, x, table, gate_weight)]
    out = op(v, x, ids, table, gate_weight)
    compare(no_worse, (out, *torch.autograd.grad(out, given, dout)), v, x, ids, table, gate_weight, dout)


def test_operators_are_registered_right(backend, device, monkeypatch):
    monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)
    v, x, ids, table, gate_weight, dout = inputs((2, 3, 2, 4, 16, 4, 5), torch.float32, device)
    torch.library.opcheck(torch.ops.pynanochat.value_gate_backward.default, (dout, x, ids, table, gate_weight))
    given = (
        v.requires_grad_(),
        x[..., ::2].requires_grad_(),
        ids,
        table.requires_grad_(),
        gate_weight.requires_grad_(),
    )
    torch.library.opcheck(torch.ops.pynanochat.value_gate.default, given)


@pytest.mark.gpu
def test_a_real_table(backend, no_worse):
    check(backend, no_worse, *inputs((4, 2048, 6, 128, 768, 12, 32768), torch.bfloat16, "cuda", torch.float32))
