"""sample_tokens on its GPU backends, against the CPU's. R rows, V vocabulary."""

import itertools

import pytest
import torch

from pynanochat.engine.sampling import Sampling
from pynanochat.ops import sample_tokens
from pynanochat.ops.backends import implementations
from tests.kernels.on_gpu import test_a_hundred_times, test_in_a_graph, test_on_a_stream_of_its_own  # noqa: F401

OP = "sample_tokens"
SETTINGS = [
    Sampling(0),
    Sampling(0.8, 0),
    Sampling(0.7, 5),
    Sampling(1.0, 1),
    Sampling(2.0, 0, 0.9),
    Sampling(1.0, 0, 1e-9),
    Sampling(1.5, 0, 1.0, 0.05),
    Sampling(1.0, 20, 0.5),
    Sampling(100.0, 7, 0.95, 0.01),
    Sampling(1e-300, 10_000, 0.3, 1.0),
]
LOGITS = {
    "random": lambda x: 3 * x,
    "peaked": lambda x: 60 * x,
    "tied": lambda x: x.round(),
    "equal": lambda x: 0 * x,
    "mostly impossible": lambda x: torch.where(x > 1, 3 * x, -torch.inf),
    "both zeros": lambda x: torch.where(x > 0, 0.0, -0.0),
    "far apart": lambda x: x * 1e37,
}


def columns_of(settings, numbers, device):
    """What the op takes behind the logits."""
    wide = [(s.temperature, s.top_p, s.min_p, number) for s, number in zip(settings, numbers, strict=True)]
    temperature, top_p, min_p, number = torch.tensor(wide, dtype=torch.float64).view(-1, 4).to(device).unbind(1)
    top_k = torch.tensor([s.top_k for s in settings], dtype=torch.int64, device=device)
    return temperature, top_k, top_p, min_p, number


def random(rows, vocabulary, seed=1):
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.rand(rows, generator=generator, dtype=torch.float64).tolist()
    return torch.randn(rows, vocabulary, generator=generator), numbers


def on_cpu(logits, settings, numbers) -> list[int]:
    return implementations(OP)["cpu"](logits.cpu(), *columns_of(settings, numbers, "cpu")).tolist()


def check(backend, device, logits, settings, numbers):
    ours = implementations(OP)[backend](logits.to(device), *columns_of(settings, numbers, device))
    assert ours.cpu().tolist() == on_cpu(logits, settings, numbers)


def example(backend, device):
    logits, numbers = random(len(SETTINGS), 32768)
    return implementations(OP)[backend], [logits.to(device), *columns_of(SETTINGS, numbers, device)]


@pytest.fixture
def small_blocks(backend, monkeypatch):
    """Several blocks to a row without many logits."""
    if backend == "triton":
        from pynanochat.kernels import sample_tokens as kernel

        monkeypatch.setattr(kernel, "BLOCK", 64)


@pytest.mark.parametrize("kind", LOGITS)
def test_the_tokens_of_the_cpu(backend, device, kind):
    logits, numbers = random(len(SETTINGS), 300)
    check(backend, device, LOGITS[kind](logits), SETTINGS, numbers)


def test_top_p_ends_between_zero_and_the_next_logit(backend, device):
    """The zeros of both signs are one value, whichever side of them the search ends on."""
    tiny = 2.0**-149
    rows = torch.tensor(
        [[0.0, -0.0, 1.0, 1.0], [-0.0, tiny, 0.0, -tiny], [-0.0, 0.0, -1.0, -1.0], [1.0, -0.0, 0.0, 0.0]]
    )
    settings = [Sampling(1.0, k, p) for _ in rows for k, p in ((0, 0.6), (2, 0.8))]
    check(backend, device, rows.repeat_interleave(2, dim=0), settings, [1 - 2.0**-53] * 8)


@pytest.mark.parametrize("number", [None, 0.0, 1 - 2.0**-53])
def test_several_blocks(backend, device, small_blocks, number):
    logits, numbers = random(len(SETTINGS), 201, seed=2)
    check(backend, device, 2 * logits, SETTINGS, numbers if number is None else [number] * len(SETTINGS))


@pytest.mark.parametrize("vocabulary", [1, 2, 3])
def test_tiny_vocabularies(backend, device, vocabulary):
    logits, numbers = random(len(SETTINGS), vocabulary)
    check(backend, device, logits, SETTINGS, numbers)


def test_rows_that_are_not_numbers(backend, device, small_blocks):
    logits, numbers = random(8, 100)
    logits[1, 7], logits[2], logits[3, 4], logits[6, 99] = torch.nan, -torch.inf, torch.inf, torch.nan
    check(backend, device, logits, [Sampling(1.0, 3)] * 4 + [Sampling(0)] * 4, numbers)


def test_strided_logits(backend, device):
    """A head's padding cut off, and columns two apart."""
    logits, numbers = random(4, 128)
    for view in (logits[:, :100], logits[:, ::2], logits.T[:4]):
        check(backend, device, view, [SETTINGS[i] for i in (0, 1, 2, 4)], numbers)


def test_a_uniform_number_lands_where_the_distribution_says(backend, device):
    """Not a statistic: three tokens of known probability, and the numbers around their boundaries."""
    logits = torch.tensor([0.25, 0.5, 0.25]).log().expand(6, 3).contiguous()
    numbers = [0.0, 0.2499999, 0.2500001, 0.7499999, 0.7500001, 1 - 2.0**-53]
    tokens = implementations(OP)[backend](logits.to(device), *columns_of([Sampling(1.0, 0)] * 6, numbers, device))
    assert tokens.tolist() == [0, 0, 1, 1, 2, 2]


def test_public_op_and_no_rows(backend, device, monkeypatch):
    monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)
    logits, numbers = random(2, 40)
    settings = [Sampling(0), Sampling(0.8, 5)]
    columns = columns_of(settings, numbers, device)
    assert sample_tokens(logits.to(device), *columns).tolist() == on_cpu(logits, settings, numbers)
    assert sample_tokens(logits[:0].to(device), *(x[:0] for x in columns)).shape == (0,)
    torch.library.opcheck(
        torch.ops.pynanochat.sample_tokens.default, (logits[:1].to(device), *(x[:1] for x in columns))
    )


def test_asks_no_tensor_for_its_value(backend, monkeypatch):
    """The launcher works on tensors that have no values."""
    if backend == "triton":
        from pynanochat.kernels import sample_tokens as kernel

        launched = []
        monkeypatch.setattr(kernel, "sample_kernel", {(9,): lambda *inputs, **constants: launched.append(inputs)})
        tokens = kernel.forward(torch.empty(9, 50, device="meta"), *columns_of([Sampling()] * 9, [0.5] * 9, "meta"))
        assert tokens.is_meta and len(launched) == 1


@pytest.mark.gpu
def test_a_real_vocabulary(backend):
    settings = [
        Sampling(t, k, p, m)
        for t, k, p, m in itertools.product((0, 0.6, 1.0, 3.0), (0, 1, 50, 4000), (0.5, 0.95, 1.0), (0.0, 0.01))
    ]
    for scale, vocabulary in ((3.0, 32759), (0.5, 50257), (12.0, 1000)):
        logits, numbers = random(len(settings), vocabulary)
        check(backend, "cuda", scale * logits, settings, numbers)


@pytest.mark.gpu
def test_a_cuda_graph_follows_the_settings(backend):
    run = implementations(OP)[backend]
    logits, numbers = random(len(SETTINGS), 32768)
    inputs = [logits.cuda(), *(x.clone() for x in columns_of(SETTINGS, numbers, "cuda"))]
    run(*inputs)  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        run(*inputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        tokens = run(*inputs)
    logits, numbers = random(len(SETTINGS), 32768, seed=3)
    settings = SETTINGS[::-1]
    for old, new in zip(inputs, (logits, *columns_of(settings, numbers, "cuda")), strict=True):
        old.copy_(new)
    graph.replay()
    assert tokens.tolist() == on_cpu(logits, settings, numbers)
