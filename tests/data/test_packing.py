"""The packed loader: what rows look like, best fit, exact resume."""

import json
from itertools import islice, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pynanochat import _C
from pynanochat.data import PackedLoader, ValidationLoader, open_source
from pynanochat.data.packing import DocumentBuffer
from pynanochat.errors import DataError

from .fakes import ByteTokenizer

BOS = ByteTokenizer.bos_id


class ListSource:
    """Documents from a list."""

    name = "list"

    def __init__(self, texts):
        self.texts = texts

    def documents(self, split, rank=0, world_size=1, cursor=None, epochs=None):
        at = (cursor or {"index": rank})["index"]
        mine = range(rank, len(self.texts), world_size)
        while epochs is None or at < epochs * len(self.texts):
            if at % len(self.texts) in mine or epochs is None:
                yield {"index": at + world_size}, self.texts[at % len(self.texts)]
            at += world_size


def loader(texts, **changes):
    options = {"batch_size": 3, "seq_len": 31, "buffer_documents": 8} | changes
    return PackedLoader(ListSource(texts), ByteTokenizer(), **options)


def pieces(row):
    """The documents of a row, without bos, as strings."""
    starts = [*np.flatnonzero(row == BOS), len(row)]
    return [bytes(row[a + 1 : b].astype(np.uint8)).decode() for a, b in pairwise(starts)]


def words(count, low=1, high=60):
    draw = np.random.default_rng(0)
    return [f"{i}:".ljust(int(draw.integers(low, high)), chr(97 + i % 26)) for i in range(count)]


@given(st.lists(st.text("ab", max_size=70), min_size=1, max_size=40), st.integers(1, 12), st.integers(2, 40))
@settings(max_examples=60, deadline=None)
def test_rows_are_full_begin_with_bos_and_hold_prefixes_of_documents(texts, buffer, seq_len):
    batches = list(islice(loader(texts, buffer_documents=buffer, seq_len=seq_len), 4))
    for batch in batches:
        assert batch.shape == (3, seq_len + 1) and batch.dtype == np.int32
        assert (batch[:, 0] == BOS).all()
        for row in batch:
            found = pieces(row)
            for piece in found[:-1]:
                assert piece in texts  # only the last document of a row may be cropped
            assert any(text.startswith(found[-1]) for text in texts)


def test_the_longest_that_fits_is_taken_and_the_shortest_is_cropped():
    buffer = DocumentBuffer()
    for length in (7, 3, 5, 9, 5):
        buffer.add(np.full(length, length * 10 + len(buffer), np.int32))
    assert buffer.take(6).tolist() == [52] * 5  # of two with 5 the one that came first
    assert buffer.take(100).tolist() == [93] * 9
    assert buffer.take(2).tolist() == [31] * 3  # none fits: the shortest, to be cropped
    assert buffer.take(5).tolist() == [54] * 5
    assert len(buffer) == 1


@given(st.lists(st.integers(0, 70), max_size=60), st.integers(2, 130), st.integers(1, 9), st.integers(0, 2**32))
@settings(max_examples=200, deadline=None)
def test_the_packer_packs_as_the_buffer_does(lengths, row_size, least, seed):
    draw = np.random.default_rng(seed)
    documents = [draw.integers(0, 1000, length).astype(np.uint32) for length in lengths]
    buffer, packer = DocumentBuffer(), _C.Packer(row_size)
    rows, expected = np.full((4, row_size), -1, np.int32), np.full(4 * row_size, -1, np.int32)
    at = place = 0
    for start in range(0, len(documents), 5):
        some = documents[start : start + 5]
        packer.add(7, some)
        for document in some:
            buffer.add(np.array([7, *document], np.int32)[:row_size])
        at = packer.fill(rows, at, least)
        while place < len(expected) and len(buffer) >= least:
            room = row_size - place % row_size
            piece = buffer.take(room)[:room]
            expected[place : place + len(piece)] = piece
            place += len(piece)
        assert at == place and len(packer) == len(buffer)
        assert np.array_equal(rows.ravel(), expected)
    lengths, tokens = packer.snapshot().arrays()
    kept = buffer.in_order()
    assert lengths.tolist() == [len(piece) for piece in kept]
    assert tokens.tolist() == [token for piece in kept for token in piece.tolist()]


def test_a_snapshot_says_how_things_stood():
    straight = loader(words(217))
    next(straight)
    snapshot, state = straight.snapshot(), straight.state_dict()
    list(islice(straight, 9))
    later = snapshot()
    assert later.keys() == state.keys()
    assert all(np.array_equal(later[key], state[key]) for key in state)


def test_the_packer_refuses_rows_of_another_size():
    with pytest.raises(ValueError, match="rows must be int32"):
        _C.Packer(8).fill(np.zeros((2, 9), np.int32), 0, 1)


def test_one_pass_gives_every_short_document_at_most_once_and_little_is_dropped():
    texts = words(500, 1, 20)
    found = [piece for batch in loader(texts, epochs=1, buffer_documents=100) for row in batch for piece in pieces(row)]
    whole = [piece for piece in found if piece in set(texts)]
    assert len(set(whole)) == len(whole) > 450


@pytest.mark.parametrize("stop", [0, 1, 2, 7, 20, 41])
@pytest.mark.parametrize("buffer", [1, 8, 300])
def test_resume_is_bit_equal(stop, buffer):
    texts = words(217)
    straight = loader(texts, buffer_documents=buffer)
    first = list(islice(straight, stop))
    state = straight.state_dict()
    arrays = {key: value for key, value in state.items() if isinstance(value, np.ndarray)}
    rest = json.loads(json.dumps({key: value for key, value in state.items() if key not in arrays}))
    expected = list(islice(straight, 30))
    resumed = loader(texts, buffer_documents=buffer)
    list(islice(resumed, 3))  # a loader that has already given batches forgets them
    resumed.load_state_dict(rest | arrays)
    for a, b in zip(expected, islice(resumed, 30), strict=True):
        assert np.array_equal(a, b)
    assert len(first) == stop


def test_what_is_cropped_is_counted():
    some = loader(["x" * 100, "y" * 3], batch_size=1, seq_len=9, buffer_documents=2)
    assert "".join(map(chr, next(some)[0, 1:])) == "x" * 9
    assert some.given_tokens == 10 and some.cropped_tokens >= 91


def test_resume_near_the_end_of_a_pass():
    straight = loader(words(60), epochs=1)
    list(islice(straight, 8))
    resumed = loader(words(60), epochs=1)
    resumed.load_state_dict(straight.state_dict())
    assert np.array_equal(np.concatenate(list(straight)), np.concatenate(list(resumed)))


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "jsonl.gz", "txt"])
@pytest.mark.parametrize("shards", ["abc", "a"], ids=["shards", "divided"])
def test_resume_on_files_and_ranks(folder, kind, shards):
    source = open_source(str(folder({f"{name}.{kind}": words(90 + i) for i, name in enumerate(shards)})))
    for rank, stop in ((0, 0), (0, 3), (1, 17), (2, 40)):
        options = {"batch_size": 2, "seq_len": 50, "rank": rank, "world_size": 3, "buffer_documents": 9}
        straight, resumed = (PackedLoader(source, ByteTokenizer(), **options) for _ in range(2))
        list(islice(straight, stop))
        resumed.load_state_dict(straight.state_dict())
        for _ in range(60):  # over the end of an epoch
            assert np.array_equal(next(straight), next(resumed))


def test_a_state_of_another_rank_or_length_is_refused():
    state = loader(words(50)).state_dict()
    with pytest.raises(DataError, match="seq_len 31, this run has 15"):
        loader(words(50), seq_len=15).load_state_dict(state)
    with pytest.raises(DataError, match="world_size 1, this run has 2"):
        loader(words(50), world_size=2).load_state_dict(state)


def test_too_little_text_is_an_error():
    with pytest.raises(DataError, match="do not fill one row of 32 tokens"):
        next(loader(["a", "b"], epochs=1))


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="batch_size 0"):
        loader(["a"], batch_size=0)


def test_validation_is_the_same_on_every_pass_and_stops_at_its_tokens():
    options = {"batch_size": 4, "seq_len": 31, "buffer_documents": 16}
    some = ValidationLoader(ListSource(words(300)), ByteTokenizer(), max_tokens=300, **options)
    first, second = list(some), list(some)
    assert len(first) == 3 and all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    everything = ValidationLoader(ListSource(words(300)), ByteTokenizer(), **options)
    assert all(np.array_equal(a, b) for a, b in zip(first, everything, strict=False))
    assert len(list(everything)) == len(list(everything)) > 10


def test_validation_ranks_share_the_tokens():
    batches = [
        list(
            ValidationLoader(
                ListSource(words(400)),
                ByteTokenizer(),
                batch_size=2,
                seq_len=31,
                max_tokens=620,
                rank=rank,
                world_size=2,
                buffer_documents=16,
            )
        )
        for rank in (0, 1)
    ]
    assert [len(part) for part in batches] == [5, 5]
    assert not np.array_equal(batches[0][0], batches[1][0])
