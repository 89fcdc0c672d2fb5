"""Mixtures: every item as often as asked for, in an order that a seed fixes."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynanochat.data.mixture import Mixture, Part, take


def conversations(name, n):
    return [{"messages": [{"role": "user", "content": f"{name} {i}"}]} for i in range(n)]


def said(sequence):
    return [item["messages"][0]["content"] for item in sequence]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 4)), max_size=5), st.integers(-(10**12), 10**12))
def test_every_item_comes_once_per_copy(shape, seed):
    parts = [(conversations(f"part {k}", n), copies) for k, (n, copies) in enumerate(shape)]
    mixture = Mixture(parts, seed)
    wanted = Counter({text: copies for part, copies in parts for text in said(part) if copies})
    assert len(mixture) == sum(wanted.values())
    assert Counter(said(mixture)) == wanted


def test_the_seed_fixes_the_order_for_ever():
    parts = [(conversations("a", 6), 1), (conversations("b", 2), 2)]
    first = said(Mixture(parts, seed=3))
    assert first == said(Mixture(parts, seed=3))
    assert first != said(Mixture(parts, seed=4))
    assert first == ["a 5", "a 4", "a 1", "a 2", "b 1", "b 0", "b 1", "a 0", "a 3", "b 0"]


def test_parts_are_mixed_not_chained():
    texts = said(Mixture([(conversations("a", 500), 1), (conversations("b", 500), 1)], seed=0))
    halves = [sum(text.startswith("a") for text in half) for half in (texts[:500], texts[500:])]
    assert min(halves) > 200


def test_indices_from_the_end_and_outside():
    mixture = Mixture([(conversations("a", 3), 2)])
    assert mixture[-1] == mixture[5]
    for index in (6, -7):
        with pytest.raises(IndexError, match="of a mixture of 6"):
            mixture[index]


def test_an_empty_mixture_is_empty():
    assert len(Mixture([])) == 0 and list(Mixture([([], 3)])) == []
    with pytest.raises(ValueError, match="negative"):
        Mixture([(conversations("a", 1), -1)])


def test_the_hash_changes_with_content_copies_and_seed_and_with_nothing_else():
    def build(name="a", copies=1, seed=0, n=3):
        return Mixture([(conversations(name, n), copies), (conversations("b", 2), 1)], seed).hash()

    others = [build(name="c"), build(copies=2), build(seed=1), build(n=4)]
    assert build() == build() and len({build(), *others}) == 5


def test_take_draws_different_items_in_a_fixed_way():
    many = conversations("a", 100)
    few = take(many, 10, seed=1)
    assert len(few) == len(set(said(few))) == 10 and set(said(few)) <= set(said(many))
    assert said(few) == said(take(many, 10, seed=1)) != said(take(many, 10, seed=2))
    assert take(many, 100, seed=1) is many


def test_a_part_is_its_items_and_its_hash_depends_on_them():
    many = conversations("a", 5)
    assert said(Part(many, [3, 0])) == ["a 3", "a 0"]
    assert len({Part(many, [3, 0]).hash(), Part(many, [0, 3]).hash(), Part(many[:4], [3, 0]).hash()}) == 3


def test_only_what_is_asked_for_is_read():
    class Watched(list):
        read = 0

        def __getitem__(self, index):
            self.read += 1
            return super().__getitem__(index)

    watched = Watched(conversations("a", 1000))
    Mixture([(watched, 2)])[7]
    assert watched.read == 1
