"""The toy world: determinism, size, agreement of text and facts, splits, speed of a cursor."""

import json
import subprocess
import sys
from itertools import chain, islice

import numpy as np
import pytest

from pynanochat.data import PackedLoader, ToyWorld, open_source
from pynanochat.data import toyworld_words as words
from pynanochat.errors import DataError, UsageError

from .fakes import ByteTokenizer


@pytest.fixture(scope="module")
def world():
    return ToyWorld()


def test_the_default_world_is_large_enough(world):
    facts = world.facts()
    assert len({fact.subject for fact in facts}) >= 120
    assert len(facts) == len({(fact.subject, fact.relation) for fact in facts}) >= 600


@pytest.mark.parametrize("entities", [60, 61, 500, 5000])
def test_the_world_has_as_many_entities_as_asked_all_with_different_names(entities):
    world = ToyWorld(3, entities)
    named = [*world.people, *world.towns, *world.pets, *world.goods, *world.foods]
    assert len(named) == entities == len({item.name for item in named})
    for index in range(50):
        assert world.document("train", index)


def test_a_wrong_size_is_refused():
    with pytest.raises(UsageError, match="--toyworld-entities 3"):
        ToyWorld(entities=3)
    with pytest.raises(UsageError, match="--toyworld-megabytes 0"):
        open_source("toyworld", toyworld_megabytes=0)


def test_people_are_consistent(world):
    for p in world.people:
        assert p.friend is not p and p.friend is not p.spouse
        if p.spouse:
            assert p.spouse.spouse is p and p.spouse.town is p.town
        for child in p.children:
            assert p in (child.mother, child.father) and child.age + 18 <= p.age and child.town is p.town
        assert p.pet is None or p.pet.owner is p
    assert not {w.lower() for w in words.WOMEN} & {m.lower() for m in words.MEN}


def test_documents_depend_only_on_seed_split_and_index():
    code = (
        "import hashlib; from pynanochat.data.toyworld import ToyWorld; w = ToyWorld(7);"
        "text = ''.join(w.document(s, i) for s in ('train', 'val') for i in range(200));"
        "print(hashlib.sha256(text.encode()).hexdigest())"
    )
    runs = {
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": h}
        ).stdout
        for h in ("1", "2")
    }
    assert len(runs) == 1
    assert ToyWorld(7).document("train", 5) != ToyWorld(8).document("train", 5)


def test_no_document_occurs_twice_and_none_in_both_splits(world):
    train = [text for _, text in world.documents("train", 0, 8000)]
    val = [text for _, text in world.documents("val", 0, 500)]
    assert len(set(val)) == len(val)
    assert len(set(train)) > 0.995 * len(train)
    assert not set(train) & set(val)


def test_the_source_holds_the_megabytes_asked_for():
    source = open_source("toyworld", toyworld_megabytes=1)
    assert abs(sum(len(text.encode()) for text in source.texts("train")) / 1e6 - 1) < 0.05


def test_cursor_ranks_and_hash():
    source = open_source("toyworld", seed=1, toyworld_megabytes=0.05)
    count = source.counts["train"]
    whole = list(islice(source.documents("train"), count * 2 + 7))
    for stop in (0, 3, count - 1, count, count + 4):
        cursor = json.loads(json.dumps(whole[stop][0]))
        assert list(islice(source.documents("train", cursor=cursor), 6)) == whole[stop + 1 : stop + 7]
    parts = [[t for _, t in source.documents("train", rank, 3, epochs=1)] for rank in range(3)]
    assert sorted(chain(*parts)) == sorted(source.texts("train"))
    hashes = {open_source("toyworld", seed=s, toyworld_megabytes=m).hash() for s in (0, 1) for m in (1, 2)}
    assert len(hashes) == 4
    with pytest.raises(DataError, match="toy world"):
        next(source.documents("train", cursor={"epoch": 0, "shard": 0, "row": 0, "index": 0}))


def test_the_loader_resumes_bit_equal_on_the_toy_world():
    source = open_source("toyworld", toyworld_megabytes=0.1)
    make = lambda: PackedLoader(source, ByteTokenizer(), batch_size=4, seq_len=256, buffer_documents=50)  # noqa: E731
    straight, resumed = make(), make()
    list(islice(straight, 70))
    resumed.load_state_dict(straight.state_dict())
    for _ in range(80):
        assert np.array_equal(next(straight), next(resumed))
