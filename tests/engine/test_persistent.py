"""Decoding steps of one row as one launch: what the plan makes of a model and its cache, and when it is used."""

import pytest
import torch

from pynanochat.engine import persistent
from pynanochat.engine.paged_cache import PagedCache
from pynanochat.engine.persistent import NAME, PersistentSteps, pay_off
from pynanochat.engine.scheduler import Scheduler
from tests.engine.fakes import ByteTokenizer, small_model

WORDS = torch.randint(0, 250, (160,), generator=torch.Generator().manual_seed(6)).tolist()


def row(model, filled, words=WORDS):
    """A cache in which a sequence has the first `filled` tokens, and the sequence."""
    cache = PagedCache(model.config, model.compute_dtype, torch.device("cpu"), 512, page=4, windows=4)
    sequence = cache.open((), share=False)
    assert cache.reserve(sequence, filled)
    ids, part = cache.plan([(sequence, words, filled)])
    model(ids, cache=part)
    cache.advance(sequence, words, filled)
    return cache, sequence


def layout_of(cache, sequence, count=1):
    assert cache.reserve(sequence, count)
    return cache.layout([(sequence, WORDS, count)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("arch", "fields", "filled"),
    [
        ("2026", {}, 7),
        ("2026", {"sequence_len": 160, "window_pattern": "SL", "n_layer": 2}, 137),
        ("2025", {"n_kv_head": 4}, 1),
        ("2026", {"smear": False, "backout": False, "head_dim": 6, "n_embd": 20}, 3),
    ],
)
@torch.inference_mode()
def test_the_reference_equals_the_models_pass(arch, fields, filled, dtype):
    """Bit for bit, the cache too; the plan says all that the model's forward knows."""
    model = small_model(arch=arch, **fields)
    model.compute_dtype = dtype
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    (mine, my_sequence), (cache, sequence) = row(model, filled), row(model, filled)
    steps = PersistentSteps(model, mine)
    for _ in range(3):
        ids, part = cache.on_device(layout_of(cache, sequence))
        wanted = model(ids, cache=part)[:, 0]
        layout = layout_of(mine, my_sequence)
        assert steps.takes(layout)
        assert torch.equal(steps.run(layout), wanted)
        cache.advance(sequence, WORDS, 1)
        mine.advance(my_sequence, WORDS, 1)
    for ours, theirs in zip(mine.groups, cache.groups, strict=True):
        pages = [page for page in my_sequence.pages[mine.groups.index(ours)] if page >= 0]
        for layer, both in ours.storage.items():
            assert all(torch.equal(a[pages], b[pages]) for a, b in zip(both, theirs.storage[layer], strict=True))


@torch.inference_mode()
def test_an_id_below_zero_is_looked_up():
    model = small_model()
    (mine, my_sequence), (cache, sequence) = row(model, 5), row(model, 5)
    mine.drawn.put(torch.tensor([WORDS[5], 9]))
    layout = layout_of(mine, my_sequence)
    wanted = PersistentSteps(model, cache).run(layout_of(cache, sequence))
    layout.ids[0] = -2
    assert torch.equal(PersistentSteps(model, mine).run(layout), wanted)


@torch.inference_mode()
def test_takes_one_token_of_one_row_alone():
    model = small_model()
    cache, sequence = row(model, 5)
    steps = PersistentSteps(model, cache)
    assert not steps.takes(layout_of(cache, sequence, 2))
    other = cache.open((), share=False)
    assert cache.reserve(other, 1) and cache.reserve(sequence, 1)
    assert not steps.takes(cache.layout([(sequence, WORDS, 1), (other, WORDS, 1)]))
    assert steps.takes(cache.layout([(other, WORDS, 1)]))


def test_not_on_a_cpu():
    model = small_model()
    assert not pay_off(model) and Scheduler(model, ByteTokenizer()).persistent is None


@pytest.mark.parametrize(
    ("verified", "fields", "dtype", "wanted"),
    [
        (True, {}, torch.bfloat16, True),
        (False, {}, torch.bfloat16, False),
        (True, {"head_dim": 12}, torch.bfloat16, False),
        (True, {}, torch.float32, False),  # weights to cast at every step
    ],
)
def test_on_a_gpu_where_it_is_verified_and_takes_the_model(monkeypatch, verified, fields, dtype, wanted):
    class Weight:
        device = torch.device("cuda", 0)
        element_size = staticmethod(lambda: dtype.itemsize)
        size = staticmethod(lambda dimension: 64)

    class Head:
        weight = Weight()

    class Model:
        config, lm_head, compute_dtype = small_model(**fields).config, Head(), torch.bfloat16

    Weight.dtype = dtype
    passed = {(NAME, "cuda")} if verified else set()
    monkeypatch.setattr(persistent.backends, "architecture", lambda index: "sm_90")
    monkeypatch.setattr(persistent.backends, "verified", lambda architecture: passed)
    monkeypatch.setattr(persistent.backends, "missing", lambda backend: "")
    assert pay_off(Model()) is wanted
