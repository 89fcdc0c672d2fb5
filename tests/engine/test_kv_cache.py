"""The cache against a dict of lists, through any sequence of what a batch does to it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pynanochat.engine import kv_cache
from pynanochat.engine.kv_cache import KVCache
from pynanochat.model import GPTConfig

CONFIG = GPTConfig.from_depth(2, head_dim=2, n_kv_head=1, n_head=2, n_embd=4, vocab_size=9, sequence_len=400)


class Plain:
    """What a cache should hold: for each row the numbers written to it."""

    def __init__(self):
        self.rows = []

    def check(self, cache):
        assert cache.counts == [len(row) for row in self.rows] == cache.lengths.tolist()
        if not self.rows or not max(map(len, self.rows)):
            return
        for layer in range(2):
            for storage, sign in ((cache._keys, 1), (cache._values, -1)):
                for i, row in enumerate(self.rows):
                    held = storage[layer][i, : len(row), 0, 0]
                    assert held.tolist() == [sign * (number + layer) for number in row]
        assert cache.previous[:, 0].tolist() == [row[-1] for row in self.rows]


def write(cache, plain, columns):
    """One forward pass: `columns` new numbers a row."""
    for layer in range(2):
        k = torch.tensor(columns, dtype=torch.float32)[:, :, None, None].expand(-1, -1, 1, 2) + layer
        keys, values = cache.update(layer, k, -k)
        assert keys.shape == values.shape == (len(columns), max(cache.counts) + len(columns[0]), 1, 2)
        assert torch.isfinite(keys).all()
    cache.previous = torch.tensor(columns, dtype=torch.float32)[:, -1:]
    cache.advance(len(columns[0]))
    for row, new in zip(plain.rows, columns, strict=True):
        row += new


steps = st.lists(
    st.tuples(st.just("join"), st.integers(1, 9), st.integers(1, 3))
    | st.tuples(st.just("write"), st.integers(1, 4), st.just(0))
    | st.tuples(st.just("remove"), st.integers(0, 9), st.just(0)),
    max_size=14,
)


@settings(deadline=None, max_examples=60)
@given(steps)
def test_any_sequence_of_steps(steps):
    cache, plain, number = KVCache(CONFIG, torch.float32, "cpu"), Plain(), 0
    for what, a, b in steps:
        if what == "join":
            joining, row = KVCache(CONFIG, torch.float32, "cpu"), Plain()
            joining.open(1)
            row.rows = [[]]
            write(joining, row, [[number + i for i in range(a)]])
            cache.append(joining, times=b)
            plain.rows += [list(row.rows[0]) for _ in range(b)]
        elif what == "write" and plain.rows:
            write(cache, plain, [[number + 100 * r + i for i in range(a)] for r in range(len(plain.rows))])
        elif what == "remove" and plain.rows:
            row = a % len(plain.rows)
            cache.remove(row)
            plain.rows[row] = plain.rows[-1]
            plain.rows.pop()
        number += 1000
        plain.check(cache)


def test_storage_grows_in_steps(monkeypatch):
    monkeypatch.setattr(kv_cache, "SLOT_STEP", 4)
    cache, plain = KVCache(CONFIG, torch.float32, "cpu"), Plain()
    cache.open(1)
    plain.rows, sizes = [[]], []
    for i in range(60):
        write(cache, plain, [[float(i)]])
        sizes.append(cache._keys[0].size(1))
        plain.check(cache)
    assert sizes[-1] >= 60 and len(set(sizes)) < 12


def test_what_lies_past_a_row_is_not_seen():
    """A long row leaves; a short one in its place must not see its keys."""
    from pynanochat import ops

    cache = KVCache(CONFIG, torch.float32, "cpu")
    cache.open(2)
    big = torch.full((2, 6, 1, 2), 1e30)
    cache.update(0, big, big)
    cache.advance(6)
    cache.remove(1)
    cache.remove(0)
    cache.open(1)
    k = torch.ones(1, 2, 1, 2)
    keys, values = cache.update(0, k, k)
    out = ops.attention_with_cache(torch.ones(1, 2, 2, 2), keys, values, cache.lengths + 2)
    torch.testing.assert_close(out, torch.ones_like(out))


def test_removing_the_last_row_forgets_everything():
    cache, plain = KVCache(CONFIG, torch.float32, "cpu"), Plain()
    cache.open(1)
    plain.rows = [[]]
    write(cache, plain, [[1.0, 2.0]])
    cache.remove(0)
    assert cache.rows == 0 and cache.previous is None
    with pytest.raises(IndexError):
        cache.remove(0)
