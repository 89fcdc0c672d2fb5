"""decode_step on its GPU backend against the model's own pass over a cache of its own: logits, pages, whole answers.

A case is the architecture, fields of the config, and the tokens of the prompt; its steps cross pages and windows.
"""

import copy

import pytest
import torch

from pynanochat.engine.paged_cache import PagedCache
from pynanochat.engine.persistent import PersistentSteps
from pynanochat.engine.requests import Request
from pynanochat.engine.sampling import Sampling
from pynanochat.engine.scheduler import Scheduler
from pynanochat.model import GPTConfig
from pynanochat.ops import decode_step_gpu
from tests.engine.fakes import ByteTokenizer, small_model

OP = "decode_step"
DTYPES = [torch.float32, torch.bfloat16]
PAGE = 4
SMALL = {"vocab_size": 265, "sequence_len": 160, "n_layer": 2, "n_head": 2, "n_kv_head": 2, "n_embd": 32}
CASES = {
    "2026, grouped": ("2026", {"n_layer": 3, "n_head": 4, "n_embd": 48}, 6),
    "beyond a window, in parts": ("2026", {"window_pattern": "SL", "n_embd": 64}, 133),
    "2025": ("2025", {}, 3),
    "first token": ("2026", {"backout": False}, 0),
    "odd width, wide heads": (
        "2026",
        {"n_embd": 40, "head_dim": 64, "n_head": 3, "n_kv_head": 1, "vocab_size": 101},
        9,
    ),
    "neither scalars nor smear": ("2026", {"residual_scalars": False, "smear": False, "n_layer": 1}, 5),
}
STEPS = 3


def make(arch, fields, dtype, device="cpu"):
    return twin(small_model(arch=arch, **{**SMALL, **fields}).to(device), dtype)


def twin(model, dtype):
    """The same model, computed in another dtype."""
    other = copy.deepcopy(model)
    other.compute_dtype = dtype
    for parameter in other.parameters():
        parameter.data = parameter.data.to(dtype)
    return other


def text(count, most=101):
    return torch.randint(0, most, (count,), generator=torch.Generator().manual_seed(count)).tolist()


class Row:
    """One sequence of a model and its cache, of which `filled` tokens have been through the model."""

    def __init__(self, model, words, filled):
        self.model, self.words = model, words
        self.cache = PagedCache(model.config, model.compute_dtype, model.lm_head.weight.device, 1024, page=PAGE)
        self.sequence = self.cache.open((), share=False)
        if filled:
            ids, part = self.cache.on_device(self.layout(filled))
            self.model(ids, cache=part)
            self.cache.advance(self.sequence, words, filled)

    def layout(self, count=1):
        assert self.cache.reserve(self.sequence, count)
        return self.cache.layout([(self.sequence, self.words, count)])

    def plain(self):
        ids, part = self.cache.on_device(self.layout())
        return self.after(self.model(ids, cache=part)[:, 0])

    def after(self, logits):
        self.cache.advance(self.sequence, self.words, 1)
        return logits

    def pages(self):
        """What each layer has cached of the sequence, (tokens, G, D), as far as it is kept."""
        kept = []
        for group, pages in zip(self.cache.groups, self.sequence.pages, strict=True):
            for both in group.storage.values():
                kept += [x[[page for page in pages if page >= 0]].flatten(0, 1) for x in both]
        return kept


@pytest.fixture
def use(monkeypatch):
    return lambda backend: monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)


def check_steps(backend, no_worse, use, model, filled, count):
    """Several steps behind a prompt that all have run in the plain way: no worse than the model's own pass."""
    use("reference")
    words = text(filled + count)
    ours, plain, truth = (Row(m, words, filled) for m in (model, model, twin(model, torch.float64)))
    steps = PersistentSteps(model, ours.cache)
    for _ in range(count):
        use(backend)
        logits = ours.after(steps.run(ours.layout()).clone())
        use("reference")
        no_worse("logits", logits, plain.plain(), truth.plain(), model.config.softcap)
    for mine, theirs, exact in zip(ours.pages(), plain.pages(), truth.pages(), strict=True):
        no_worse("cache", mine, theirs, exact)
    ours.cache.check_integrity()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@torch.inference_mode()
def test_steps(backend, device, no_worse, use, case, dtype):
    arch, fields, filled = case
    check_steps(backend, no_worse, use, make(arch, fields, dtype, device), filled, STEPS)


@torch.inference_mode()
def test_blocks_of_a_full_gpu(backend, device, no_worse, use, monkeypatch):
    """As of a model large enough that every multiprocessor has a block, which then is a large one."""
    monkeypatch.setattr(decode_step_gpu, "multiprocessors", lambda device: 3)
    model = make("2026", {"n_embd": 48, "head_dim": 128, "n_layer": 1}, torch.bfloat16, device)
    check_steps(backend, no_worse, use, model, 145, 1)


@torch.inference_mode()
def one_step(backend, device, use, dtype=torch.float32):
    """(steps, row, its layout, the logits of the plain pass): a row that is about to take one step."""
    use("reference")
    model, words = make("2026", {}, dtype, device), text(8)
    row, plain = Row(model, words, 7), Row(model, words, 7)
    wanted = plain.plain()
    use(backend)
    return PersistentSteps(model, row.cache), row, row.layout(), wanted


@torch.inference_mode()
def test_an_id_that_only_the_device_knows(backend, device, use):
    steps, row, layout, wanted = one_step(backend, device, use)
    row.cache.drawn.put(torch.tensor([layout.ids[0], 5], device=device))
    layout.ids[0] = -2
    torch.testing.assert_close(steps.run(layout), wanted, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_a_launch_that_was_broken_off_leaves_nothing_behind(backend, device, use):
    """Whatever the workspace holds, the counter of the barriers with it, the next step is right, and the one after."""
    steps, _, layout, wanted = one_step(backend, device, use)
    for _ in range(2):
        torch.testing.assert_close(steps.run(layout), wanted, rtol=1e-4, atol=1e-4)
        steps.plan.kernel.workspace.fill_(float("nan"))


@torch.inference_mode()
def test_a_page_that_does_not_exist_gives_nan(backend, device, use):
    """And nothing is read or written out of bounds."""
    steps, row, layout, wanted = one_step(backend, device, use)
    for wrong in (-1, 2**40):
        layout.tables[1][0, 0] = wrong
        assert steps.run(layout).isnan().all()
    layout.tables[1][0, 0] = row.sequence.pages[1][0]
    layout.slots[0][0] = layout.slots[1][0] = 2**40
    torch.testing.assert_close(steps.run(layout), wanted, rtol=1e-4, atol=1e-4)  # its own token is not read back


def test_refuses(backend, device, use):
    use(backend)
    for fields, dtype, message in (
        ({"n_embd": 36}, torch.bfloat16, "width 36"),
        ({"head_dim": 10, "n_head": 4, "n_kv_head": 4}, torch.float32, "head_dim 10"),
        ({}, torch.float16, "float16"),
    ):
        row = Row(make("2026", fields, dtype, device), text(2), 0)
        with pytest.raises(ValueError, match=message):
            PersistentSteps(row.model, row.cache).run(row.layout())


def test_blocks_that_would_wait_for_ever_are_not_launched(backend, device, use, monkeypatch):
    """More blocks than the GPU has room for at once, as of a plan that was made for a larger one."""
    monkeypatch.setattr(decode_step_gpu, "multiprocessors", lambda device: 10_000)
    row = Row(make("2026", {"n_embd": 1024, "n_layer": 1}, torch.float32, device), text(2), 0)
    use(backend)
    with pytest.raises(RuntimeError, match="would not all be resident"), torch.inference_mode():
        PersistentSteps(row.model, row.cache).run(row.layout())


def test_a_scheduler_says_the_same(backend, device, use):
    """Greedy answers to several prompts, alone and two at a time, a step launched before the last is read."""
    model = make("2026", {"n_layer": 2, "sequence_len": 64}, torch.float32, device)
    said = []
    for persistent in (False, True):
        use("reference")
        scheduler = Scheduler(model, ByteTokenizer(), cache_tokens=512, page=PAGE, most_rows=2, ahead=persistent)
        if persistent:
            scheduler.persistent = Counted(model, scheduler.cache, lambda: use(backend), lambda: use("reference"))
        requests = [Request(tuple(text(5 + i)), max_tokens=3 + 4 * i, sampling=Sampling(0.0)) for i in range(3)]
        made = {scheduler.submit(request): [] for request in requests}
        while scheduler.busy:
            for ticket, token in scheduler.step():
                made[ticket].append((token.row, token.id, token.finish))
            scheduler.check_integrity()
        said.append(list(made.values()))
    assert said[0] == said[1]
    assert scheduler.persistent.steps > 3


class Counted(PersistentSteps):
    """Counts its steps, each between `before` and `after`."""

    def __init__(self, model, cache, before, after):
        super().__init__(model, cache)
        self.before, self.after, self.steps = before, after, 0

    def run(self, layout):
        self.steps += 1
        self.before()
        logits = super().run(layout)
        self.after()
        return logits


@pytest.mark.gpu
@torch.inference_mode()
def test_stream(backend, use):
    """On a stream of its own, behind work that is still running there."""
    steps, _, layout, wanted = one_step(backend, "cuda", use)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        logits = steps.run(layout)
    stream.synchronize()
    torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@torch.inference_mode()
def test_in_a_cuda_graph(backend, use):
    """Captured once, replayed with other integers."""
    steps, _, layout, wanted = one_step(backend, "cuda", use)
    steps.run(layout)
    numbers, graph = torch.from_numpy(steps.numbers(layout)).cuda(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = steps.plan.kernel.launch(numbers, steps.cache.drawn.table)
    for id in (3, int(layout.ids[0])):
        numbers[0] = id
        graph.replay()
    torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("depth", [12, 24])
@torch.inference_mode()
def test_steps_of_large_models(backend, no_worse, use, depth):
    """A block on every multiprocessor, many splits, at the sizes of d12 and d24."""
    model = small_model(**GPTConfig.from_depth(depth, vocab_size=5000).to_dict()).to("cuda")
    for name, weight in model.named_parameters():
        if name.endswith(("c_fc.weight", "c_proj.weight")):  # so that attention counts beside the MLP, in every layer
            weight.normal_(0, weight.size(1) ** -0.5)
    check_steps(backend, no_worse, use, twin(model, torch.bfloat16), 700, 2)
