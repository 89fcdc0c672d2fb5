"""The splitter against tiktoken, over every code point and hostile texts.

tiktoken does not tell where it splits, so the vocabularies here hold all 65,536 pairs of bytes in a random order: a
boundary at another place then shows in the ids.
"""

import random

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from pynanochat import _C
from tests.tokenizer.corpus import CONTEXTS, HOSTILE, code_points


def _pair_ranks(seed: int) -> dict[bytes, int]:
    pairs = [bytes([a, b]) for a in range(256) for b in range(256)]
    random.Random(seed).shuffle(pairs)
    return {token: rank for rank, token in enumerate([bytes([b]) for b in range(256)] + pairs)}


@pytest.fixture(scope="module")
def engines():
    """[(ours, tiktoken's)] on the same ranks, whose ids betray where the pieces end."""
    result = []
    for seed in (1, 2):
        ranks = _pair_ranks(seed)
        theirs = tiktoken.Encoding(
            "pairs", pat_str=_C.bpe_patterns["pynanochat"], mergeable_ranks=ranks, special_tokens={}
        )
        result.append((_C.BpeEncoder(list(ranks), {}), theirs))
    return result


def assert_same(engines, text):
    for ours, theirs in engines:
        expected = theirs.encode_to_numpy(text, disallowed_special=())
        assert np.array_equal(ours.encode_array(text), expected)
    ends = _C.bpe_split(text)
    assert np.array_equal(ends, _C.bpe_split(text, "portable"))
    assert np.array_equal(ends, _C.bpe_split(text, "scalar"))


@pytest.mark.parametrize("context", CONTEXTS)
def test_every_code_point(engines, context):
    # "alone" settles the class of all 1,112,064; beyond the planes below they differ in nothing else.
    planes = range(0x11) if context == "alone" else (0, 1, 2, 14)
    for plane in planes:
        assert_same(engines[:1], code_points(CONTEXTS[context], plane << 16, (plane << 16) + 0xFFFF))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile(engines, name):
    text = HOSTILE[name]
    assert_same(engines, text)
    for cut in range(1, min(len(text), 150)):  # every alignment of the text to the windows
        assert_same(engines[:1], text[cut : cut + 300])


_CLASSES = st.sampled_from([*"aB1 \n\r\t'.sStTlLeEvVrRdDmM", "\u017f", "é", "中", "\u00a0", "\u0660", "😀", "\u0301"])


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.text(max_size=200), st.text(_CLASSES, max_size=200)))
def test_random(engines, text):
    assert_same(engines, text)


def test_pieces_tile_the_text():
    text = HOSTILE["soup"]
    ends = _C.bpe_split(text)
    assert ends[-1] == len(text.encode())
    assert (np.diff(ends, prepend=0) > 0).all()
    assert len(_C.bpe_split("")) == 0
