"""Decoding steps as graphs, with a stand-in for a CUDA graph: what a replay computes, and what a capture may not do."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pynanochat.engine import graphs as graphs_module
from pynanochat.engine.graphs import WARM, DecodeGraphs, ladder, pay_off
from pynanochat.engine.paged_cache import PagedCache
from pynanochat.engine.requests import Request
from pynanochat.engine.sampling import Sampling
from pynanochat.engine.scheduler import Scheduler
from tests.engine.fakes import ByteTokenizer, small_model

OP = "decode_graphs"
ASKS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "is_nonzero", "equal")


class NothingAsked(TorchDispatchMode):
    """Refuses what would wait for a GPU or make a shape of values: the first breaks a capture, the second a replay."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in ASKS or name.startswith("unique"):
            raise AssertionError(f"{name} in a captured step")
        if name in ("index", "index_put", "index_put_") and any(
            x is not None and x.dtype in (torch.bool, torch.uint8) for x in args[1]
        ):
            raise AssertionError("a mask as an index in a captured step")
        return function(*args, **(kwargs or {}))


class FakeGraph:
    """Runs the function at its capture, watched, and at each replay again, into the same result."""

    made: list = []  # noqa: RUF012

    def __init__(self, device="cpu", beside=None):
        self.replays, self.beside = 0, beside
        FakeGraph.made.append(self)

    def capture(self, function):
        with NothingAsked():
            self.result = function()
        self.function = function
        return self.result

    def replay(self):
        self.replays += 1
        self.result.copy_(self.function())


@pytest.fixture(autouse=True)
def no_graphs_yet():
    FakeGraph.made.clear()


def cache_of(model, tokens=2048, page=4):
    cache = PagedCache(model.config, model.compute_dtype, torch.device("cpu"), tokens, page=page, windows=16)
    return cache


def prompts(count, length=7):
    generator = torch.Generator().manual_seed(4)
    return [torch.randint(0, 250, (length + i,), generator=generator).tolist() for i in range(count)]


def filled(model, cache, texts):
    """A sequence for each text with all but its last token in the cache."""
    sequences = []
    for text in texts:
        sequence = cache.open(text, share=False)
        assert cache.reserve(sequence, len(text))
        ids, part = cache.plan([(sequence, text, len(text) - 1)])
        model(ids, cache=part)
        cache.advance(sequence, text, len(text) - 1)
        sequences.append(sequence)
    return sequences


@torch.inference_mode()
@pytest.mark.parametrize("arch", ["2025", "2026"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_replay_equals_the_eager_pass_bit_for_bit_at_mixed_sizes(arch, dtype):
    """Step after step, with other rows each time: one graph of a size serves them all."""
    model = small_model(arch=arch, n_kv_head=2)
    model.compute_dtype = dtype
    texts = prompts(8)
    eager, replayed = cache_of(model), cache_of(model)
    runs = [(cache, [list(t) for t in texts], filled(model, cache, texts)) for cache in (eager, replayed)]
    graphs = DecodeGraphs(model, replayed, 8, FakeGraph)
    for step, rows in enumerate([8, 4, 8, 2, 1, 4, 8, 1]):  # whole sizes: eager products have as many rows
        logits = []
        for cache, written, sequences in runs:
            chosen = [(step * 3 + i) % 8 for i in range(rows)]
            parts = [(sequences[i], written[i], 1) for i in chosen]
            assert all(cache.reserve(sequences[i], 1) for i in chosen)
            layout = cache.layout(parts)
            if cache is replayed:
                logits.append(graphs.run(layout).clone())
            else:
                ids, part = cache.on_device(layout)
                logits.append(model(ids, cache=part, at=torch.arange(rows)))
            for i in chosen:
                cache.advance(sequences[i], written[i], 1)
        assert torch.equal(*logits)
        for i, token in zip(chosen, logits[0].argmax(dim=-1).tolist(), strict=True):
            for _, written, _ in runs:
                written[i].append(token)
    assert len(FakeGraph.made) == 4 and sum(graph.replays for graph in FakeGraph.made) == 8
    first, *others = FakeGraph.made
    assert first.beside is None and all(graph.beside is first for graph in others), "they share memory"
    replayed.check_integrity()


@torch.inference_mode()
@pytest.mark.parametrize(("rows", "backend"), [(3, ""), (5, ""), (7, ""), (5, "reference")])
def test_padding_rows_change_nothing(monkeypatch, rows, backend):
    """Neither the logits of the others nor any page that a sequence has; on our ops and on torch's."""
    monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)
    model, texts = small_model(), prompts(rows)
    results, pages = [], []
    for padded in (False, True):
        cache = cache_of(model)
        sequences = filled(model, cache, texts)
        spare = cache.take_all_room()
        layout = cache.layout([(s, t, 1) for s, t in zip(sequences, texts, strict=True)])
        if padded:
            results.append(DecodeGraphs(model, cache, 8, FakeGraph).run(layout).clone())
        else:
            ids, part = cache.on_device(layout)
            results.append(model(ids, cache=part, at=torch.arange(rows)))
        pages.append([x[:page].clone() for g, page in zip(cache.groups, spare, strict=True) for x in _storages(g)])
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)
    for one, other in zip(*pages, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    assert results[1].shape == (rows, model.config.vocab_size)


def _storages(group):
    return [x for both in group.storage.values() for x in both]


@torch.inference_mode()
def test_the_host_fills_one_buffer_while_the_other_may_be_on_its_way(monkeypatch):
    """And the one that it fills only when it has arrived."""
    log = []
    for name in ("wait", "send"):
        plain = getattr(graphs_module._Host, name)
        watch = lambda host, *args, plain=plain, name=name: (log.append((name, host)), plain(host, *args))  # noqa: E731
        monkeypatch.setattr(graphs_module._Host, name, watch)
    model, texts = small_model(), prompts(2)
    cache = cache_of(model)
    layout = cache.layout([(s, t, 1) for s, t in zip(filled(model, cache, texts), texts, strict=True)])
    graphs = DecodeGraphs(model, cache, 2, FakeGraph)
    logits = [graphs.run(layout).clone() for _ in range(4)]
    assert all(torch.equal(one, logits[0]) for one in logits)
    assert [name for name, _ in log] == ["wait", "send"] * 5  # once more for the capture
    hosts = [host for _, host in log]
    assert hosts[::2] == hosts[1::2] and hosts[:-4:2] == hosts[4::2] and hosts[0] is not hosts[2]


def test_the_spare_page_is_nobodys_and_addresses_stay():
    model = small_model()
    cache = cache_of(model, tokens=64)
    spare = cache.take_all_room()
    before = [x.data_ptr() for group in cache.groups for x in _storages(group)]
    texts = prompts(3, length=12)
    sequences = filled(model, cache, texts)
    for group, page in zip(cache.groups, spare, strict=True):
        assert page == group.pool.size and all(x.size(0) == page + 1 for x in _storages(group))
        assert not any(page in sequence.pages[cache.groups.index(group)] for sequence in sequences)
    assert before == [x.data_ptr() for group in cache.groups for x in _storages(group)]
    cache.check_integrity()


def answers(model, graphs, ahead, requests):
    """The tokens of each request from a scheduler with graphs or without, a step ahead or not."""
    scheduler = Scheduler(model, ByteTokenizer(), cache_tokens=1024, page=4, most_rows=6, chunk=16, ahead=ahead)
    if graphs:
        scheduler.graphs = DecodeGraphs(model, scheduler.cache, 6, FakeGraph)
    made = {scheduler.submit(request): [] for request in requests}
    while scheduler.busy:
        for ticket, token in scheduler.step():
            made[ticket].append((token.row, token.id, token.finish))
        scheduler.check_integrity()
    return [sorted(tokens, key=lambda token: token[0]) for tokens in made.values()]


def test_a_scheduler_says_the_same_with_graphs():
    """Prompts, forks, tools, ends and new rows all the while; greedy and drawn."""
    model = small_model(seed=3)
    requests = [
        Request(tuple(prompt), samples=1 + i % 3, max_tokens=12 + 5 * i, sampling=sampling, seed=i, tools=True)
        for i, (prompt, sampling) in enumerate(
            zip(prompts(5, length=9), [Sampling(0.0), Sampling(0.9, 20), Sampling(1.0)] * 2, strict=False)
        )
    ]
    wanted = answers(model, False, False, requests)
    for ahead in (False, True):
        FakeGraph.made.clear()
        assert answers(model, True, ahead, requests) == wanted
        assert FakeGraph.made and sum(graph.replays for graph in FakeGraph.made) > 10


def test_only_whole_decoding_steps_are_taken_and_only_once_warm():
    model, texts = small_model(), prompts(3)
    cache = cache_of(model)
    sequences = filled(model, cache, texts)
    graphs = DecodeGraphs(model, cache, 2, FakeGraph)
    one = cache.layout([(sequences[0], texts[0], 1)])
    assert [graphs.takes(one) for _ in range(WARM + 2)] == [False] * WARM + [True] * 2
    for _ in range(WARM + 1):
        assert not graphs.takes(cache.layout([(s, t, 1) for s, t in zip(sequences, texts, strict=True)]))  # too many
    whole = cache.open(texts[0], share=False)
    assert cache.reserve(whole, 5)
    assert not any(graphs.takes(cache.layout([(whole, texts[0], 5)])) for _ in range(WARM + 1))  # a prompt
    assert not FakeGraph.made


def test_sizes():
    assert [ladder(most) for most in (1, 2, 3, 64)] == [[1], [1, 2], [1, 2, 4], [1, 2, 4, 8, 16, 32, 64]]
    assert ladder(100)[-1] == 128


def test_no_graphs_on_a_cpu():
    model = small_model()
    assert not pay_off(model) and Scheduler(model, ByteTokenizer()).graphs is None


@pytest.mark.parametrize(
    ("backend", "verified", "wanted"),
    [("reference", True, False), ("triton", True, True), ("triton", False, False)],
)
def test_on_a_gpu_where_they_are_verified_with_an_attention_that_reads_what_is_there(
    monkeypatch, backend, verified, wanted
):
    class Weight:
        device = torch.device("cuda", 0)

    class Head:
        weight = Weight()

    class Model:
        lm_head = Head()

    passed = {(OP, "cuda")} if verified else set()
    monkeypatch.setattr(graphs_module.backends, "choose", lambda op, tensor: backend)
    monkeypatch.setattr(graphs_module.backends, "architecture", lambda index: "sm_90")
    monkeypatch.setattr(graphs_module.backends, "verified", lambda architecture: passed)
    assert pay_off(Model()) is wanted


@pytest.mark.gpu
@pytest.mark.parametrize("again", [1, 2])  # the memory of graphs that are gone must not be asked for
@pytest.mark.parametrize("backend", ["reference", "triton", "cuda"])
@torch.inference_mode()
def test_a_cuda_graph_equals_the_eager_pass(record_property, monkeypatch, backend, again):
    """With CudaGraph itself."""
    if not torch.cuda.is_available() or graphs_module.backends.missing(backend):
        pytest.skip(graphs_module.backends.missing(backend) or "no GPU here")
    record_property("op", OP)
    record_property("backend", "cuda")
    monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)
    model = small_model().to("cuda")
    texts, device = prompts(4), torch.device("cuda", torch.cuda.current_device())
    caches = [
        PagedCache(model.config, model.compute_dtype, device, 2048, page=4, windows=16) for _ in ("eager", "replayed")
    ]
    runs = [(cache, [list(t) for t in texts], filled(model, cache, texts)) for cache in caches]
    graphs = DecodeGraphs(model, caches[1], 4)
    for rows in (4, 2, 4, 3, 1, 3, 4):
        logits = []
        for cache, written, sequences in runs:
            assert all(cache.reserve(sequence, 1) for sequence in sequences[:rows])
            layout = cache.layout([(sequences[i], written[i], 1) for i in range(rows)])
            if cache is caches[1]:
                logits.append(graphs.run(layout).clone())
            else:
                ids, part = cache.on_device(layout)
                logits.append(model(ids, cache=part, at=torch.arange(rows, device=device)))
            for i in range(rows):
                cache.advance(sequences[i], written[i], 1)
        torch.testing.assert_close(*logits, rtol=1e-4, atol=1e-4)
        for i, token in enumerate(logits[0].argmax(dim=-1).tolist()):
            for _, written, _ in runs:
                written[i].append(token)


def test_the_watch_would_see_a_question():
    def asks():
        return torch.zeros(int(torch.ones(())))

    def masks():
        return torch.arange(4)[torch.arange(4) > 2]

    for function in (asks, masks, lambda: torch.arange(3).nonzero()):
        with pytest.raises(AssertionError, match="in a captured step"):
            FakeGraph().capture(function)
