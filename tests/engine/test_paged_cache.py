"""The paged cache against lists of tokens, through anything that a scheduler does to it."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pynanochat.engine.page_pool import PagePool
from pynanochat.engine.paged_cache import PagedCache
from pynanochat.errors import EngineError

WINDOWS = (5, -1, 5)  # of the layers
PAGE = 4


def new(tokens=96, **settings):
    config = SimpleNamespace(
        n_layer=3, n_kv_head=1, head_dim=2, sequence_len=64, window=WINDOWS.__getitem__, vocab_size=64
    )
    return PagedCache(config, torch.float32, "cpu", tokens, page=PAGE, **settings)


def key(tokens, layer):
    """What a layer keeps of the last of `tokens`: it depends on all of them."""
    return float(hash((layer, tuple(tokens))) % 1_000_003)


def run(cache, parts):
    """One forward pass."""
    ids, part = cache.plan(parts)
    assert ids[:, 0].tolist() == [t for s, tokens, n in parts for t in tokens[s.length : s.length + n]]
    positions = [i for s, _, n in parts for i in range(s.length, s.length + n)]
    assert part.positions.tolist() == positions
    texts = [tokens[: i + 1] for s, tokens, n in parts for i in range(s.length, s.length + n)]
    assert part.previous.tolist() == [text[-2] if len(text) > 1 else -1 for text in texts]
    for layer in range(3):
        k = torch.tensor([[[key(text, layer)] * 2] for text in texts])
        part.update(layer, k, -k)
    for sequence, tokens, count in parts:
        cache.advance(sequence, tokens, count)


def extend(cache, sequence, tokens, count):
    if not cache.reserve(sequence, count):
        return False
    run(cache, [(sequence, tokens, count)])
    return True


def check(cache, texts):
    """Everything that a next query of each sequence would see is what was written."""
    cache.check_integrity()
    for sequence, tokens in texts.items():
        for group in cache.groups:
            first = 0 if group.window < 0 else max(0, sequence.length - group.window)
            for layer, (keys, values) in group.storage.items():
                for i in range(first, sequence.length):
                    page, place = group.tables[sequence.slot, i // PAGE], i % PAGE
                    assert keys[page, place, 0, 0] == key(tokens[: i + 1], layer) == -values[page, place, 0, 1]


operations = st.lists(
    st.tuples(st.just("open"), st.integers(0, 3), st.integers(1, 60))
    | st.tuples(st.just("extend"), st.integers(0, 9), st.integers(1, 9))
    | st.tuples(st.just("fork"), st.integers(0, 9), st.integers(0, 3))
    | st.tuples(st.just("close"), st.integers(0, 9), st.just(0)),
    max_size=30,
)


@given(operations, st.integers(8, 120))
@settings(max_examples=80, deadline=None)
def test_any_sequence_of_operations(operations, tokens):
    cache, texts = new(tokens, windows=2, burst=8), {}
    for what, a, b in operations:
        live = list(texts)
        if what == "open":
            text = [a] * (b // 2) + list(range(b - b // 2))  # many begin alike
            texts[cache.open(text)] = text
        elif not live:
            continue
        elif what == "extend":
            sequence = live[a % len(live)]
            count = min(b, len(texts[sequence]) - sequence.length)
            if count:
                before = [list(pages) for pages in sequence.pages]
                assert extend(cache, sequence, texts[sequence], count) or sequence.pages == before
        elif what == "fork":
            sequence = live[a % len(live)]
            twin = cache.fork(sequence)
            if twin is not None:
                texts[twin] = texts[sequence][: sequence.length] + [100 + b] * 9
        else:
            cache.close(live[a % len(live)])
            del texts[live[a % len(live)]]
        check(cache, texts)
    for sequence in list(texts):
        cache.close(sequence)
    cache.check_integrity()
    assert cache.used == 0


def test_a_beginning_is_found_again():
    cache, text = new(), list(range(30))
    first = cache.open(text)
    assert first.length == 0 and extend(cache, first, text, 30)
    second = cache.open([*text[:18], 99, 98])
    assert second.length == 16  # whole pages
    assert [p for p in second.pages[1] if p >= 0] == first.pages[1][:4]
    check(cache, {first: text, second: text})


def test_a_beginning_whose_window_is_gone_is_not_found():
    cache, text = new(tokens=64, windows=1, burst=4), list(range(40))
    first = cache.open(text)
    for _ in range(10):
        assert extend(cache, first, text, 4)
    assert [sum(page >= 0 for page in pages) for pages in first.pages] == [2, 10]
    cache.close(first)
    again = cache.open(text)
    assert again.length == 36  # the end of the text still has its window
    cache.close(again)
    middle = cache.open(text[:14])
    assert middle.length == 0  # the pages of layers without a window alone do not help
    check(cache, {middle: text})


def test_the_last_token_is_always_computed():
    cache, text = new(), list(range(16))
    first = cache.open(text)
    extend(cache, first, text, 16)
    assert cache.open(text).length == 12


def test_idle_pages_go_the_longest_idle_first():
    cache = new(tokens=32)  # 8 pages
    texts = [[n] * 9 for n in range(4)]
    for text in texts[:3]:
        sequence = cache.open(text)
        assert extend(cache, sequence, text, 9)
        cache.close(sequence)
    cache.close(cache.open(texts[0]))  # taken up once more
    sequence = cache.open(texts[3])
    assert extend(cache, sequence, texts[3], 9)
    found = [cache.open(text).length for text in texts]
    assert found == [8, 0, 8, 8]
    more = cache.open([9] * 12)
    assert not extend(cache, more, [9] * 12, 12)  # too many are in use now
    check(cache, {})


def test_windows_need_no_more_memory_for_longer_texts():
    cache, text = new(tokens=64, windows=1, burst=4), list(range(60))
    assert [group.pool.size for group in cache.groups] == [5, 16]
    sequence = cache.open(text)
    for _ in range(60):
        assert extend(cache, sequence, text, 1)
    assert cache.groups[0].pool.used <= 3 and cache.groups[1].pool.used == 15
    assert cache.holds(64, 4) and not cache.holds(65, 4)
    check(cache, {sequence: text})


def test_storage_grows_with_need_alone():
    cache, text = new(tokens=4096), list(range(50))
    sequence = cache.open(text)
    assert extend(cache, sequence, text, 50)
    assert all(13 <= group.room <= 16 for group in cache.groups)


def broken(cache, sequence):
    """Ways to break a cache, by what the checker must say."""
    pool = cache.groups[1].pool
    return {
        "counted as used": lambda: pool.share(sequence.pages[1][0]),
        "has 12 pages of 4|still seen|used by others": lambda: sequence.pages[1].append(3),
        "does not name": lambda: cache.groups[0].tables.__setitem__((sequence.slot, 9), 1),
        "free, used or idle": lambda: pool._free.append(sequence.pages[1][0]),
        "no name": lambda: pool._idle.__setitem__(pool._free.pop(), None),
        "do not belong": lambda: pool._page_of.popitem(),
        "of 99 tokens": lambda: setattr(sequence, "length", 99),
        "held twice": lambda: cache._slots.append(0),
        "no storage": lambda: cache.groups[0].storage.__setitem__(0, (torch.zeros(1), torch.zeros(1))),
    }


@pytest.mark.parametrize("message", broken(new(), SimpleNamespace(pages=[[], [0]], slot=0)))
def test_the_checker_sees_what_is_broken(message):
    cache = new()
    sequence, other = cache.open([1] * 40), cache.open([2] * 9)
    assert extend(cache, sequence, [1] * 40, 40) and extend(cache, other, [2] * 9, 9)
    cache.close(other)
    cache.check_integrity()
    broken(cache, sequence)[message]()
    with pytest.raises(EngineError, match=message):
        cache.check_integrity()


def test_a_pool_counts():
    pool = PagePool(2)
    a, b = pool.take(), pool.take()
    pool.name(a, b"x")
    pool.share(a)
    pool.give_back(a)
    assert (pool.used, pool.idle, pool.available) == (2, 0, 0)
    pool.give_back(a)
    pool.give_back(b)
    assert (pool.used, pool.idle, pool.available) == (0, 1, 2) and pool.find(b"x") == a
    assert {pool.take(), pool.take()} == {a, b} and pool.find(b"x") is None
    pool.check(Counter([a, b]))
    with pytest.raises(KeyError):
        pool.take()
