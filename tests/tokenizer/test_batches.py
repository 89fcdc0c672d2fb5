"""Many texts at once: flat arrays, columns of Arrow, decoding of batches."""

import numpy as np
import pyarrow as pa
import pytest

from pynanochat.errors import UsageError
from pynanochat.tokenizer import Tokenizer

TEXTS = ["Hello world", "", "caf\u00e9 \u4e2d\u6587 \U0001f600", "a" * 300, "short", "exactly 12 b"] * 7


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(TEXTS, 300)


def columns():
    yield pa.array(TEXTS)
    yield pa.array(TEXTS, pa.large_string())
    yield pa.array(TEXTS, pa.string_view())
    yield pa.array(["before", *TEXTS, "after"])[1:-1]
    yield pa.array([None, *TEXTS], pa.string_view())[1:]
    yield pa.chunked_array([TEXTS[:5], [], TEXTS[5:]])
    yield pa.chunked_array([TEXTS], pa.large_string())
    yield pa.table({"text": TEXTS})["text"]


@pytest.mark.parametrize("threads", [1, 3])
def test_columns_of_arrow_give_the_ids_of_their_strings(tokenizer, threads):
    expected = [tokenizer.encode(text) for text in TEXTS]
    for column in columns():
        assert [ids.tolist() for ids in tokenizer.encode_batch(column, threads)] == expected
    assert tokenizer.encode_batch(pa.array([], pa.string())) == []
    assert tokenizer.encode_batch(pa.chunked_array([], pa.string())) == []


def test_the_arrays_outlive_the_batch(tokenizer):
    column = pa.array(TEXTS)
    kept = tokenizer.encode_batch(column)[2]
    del column
    assert tokenizer.decode(kept) == TEXTS[2] and kept.dtype == np.uint32 and kept.flags.writeable


@pytest.mark.parametrize("threads", [1, 3])
def test_flat_is_the_batch_in_one_piece(tokenizer, threads):
    ids, offsets = tokenizer.encode_flat(TEXTS, threads)
    assert ids.dtype == np.uint32 and offsets.dtype == np.int64 and offsets[0] == 0 and offsets[-1] == len(ids)
    for i, text in enumerate(TEXTS):
        assert ids[offsets[i] : offsets[i + 1]].tolist() == tokenizer.encode(text)
    ids, offsets = tokenizer.encode_flat([])
    assert len(ids) == 0 and offsets.tolist() == [0]


def test_what_is_no_text_is_refused(tokenizer):
    with pytest.raises(UsageError, match="text 1 of a column is null"):
        tokenizer.encode_batch(pa.array(["a", None]))
    malformed = {b"ab\xffcd": 2, b"\xed\xa0\x80": 0, b"\xe0\x80\x80": 0, b"12345678\xf4\x90\x80\x80": 8, b"a\xc3": 1}
    for wrong, at in malformed.items():
        column = pa.Array.from_buffers(
            pa.string(), 2, [None, pa.py_buffer(np.array([0, 1, 1 + len(wrong)], np.int32)), pa.py_buffer(b"x" + wrong)]
        )
        with pytest.raises(UsageError, match=f"text 1 of a column is not UTF-8 at byte {at}"):
            tokenizer.encode_flat(column)
    for column in (pa.array([1, 2]), pa.array(["a", "b"]).dictionary_encode(), pa.array([b"a"])):
        with pytest.raises(TypeError, match="it must hold strings"):
            tokenizer.encode_batch(column)
    with pytest.raises(UsageError, match="one str"):
        tokenizer.encode_batch("text")


def test_decoding_takes_any_integers(tokenizer):
    batch = tokenizer.encode_batch(TEXTS)
    assert tokenizer.decode_batch(batch) == TEXTS
    for kind in (np.uint16, np.int32, np.uint32, np.int64, np.uint64):
        assert tokenizer.decode_batch([ids.astype(kind) for ids in batch]) == TEXTS
    assert tokenizer.decode(np.repeat(batch[0], 2)[::2]) == TEXTS[0]
    for wrong in ([-1], [1 << 40], np.array([len(tokenizer)], np.uint32), np.array([-1], np.int32)):
        with pytest.raises(UsageError, match="is not in the vocabulary"):
            tokenizer.decode(wrong)
