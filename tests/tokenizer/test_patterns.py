"""The split patterns of other vocabularies against tiktoken, by ids, and against Hugging Face tokenizers, by pieces."""

import random

import numpy as np
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, pre_tokenizers
from tokenizers.pre_tokenizers import ByteLevel, Split

from pynanochat import _C
from pynanochat.errors import DataError
from pynanochat.tokenizer import foreign
from tests.tokenizer.corpus import CONTEXTS, HOSTILE, REPEATED, code_points

OTHERS = [name for name in _C.bpe_patterns if name != "pynanochat"]  # ours: test_split.py
CLASSES = [
    *"aBsStTlLeEvVrRdDmM12 \n\r\t'./-",
    *"ſ\u01c5\u02b0\u4e2déÉ\u0660²ⅷª\u0301\u0903\u20dd\u00a0\u3000\u0085\u2028😀",
]
WORDS = {  # what o200k's pattern goes back and forth on, and white space at the end
    "upper then both": "AB中CD 中AB Ab中c ABC中 AB中c",
    "marks before letters": "\u0301ABC \u0301Abc \u0301\u0301A \u0301 .\u0301a .\u0301A a\u0301B",
    "title case and modifiers": "ǅa ǅA aʰB Aʰb ʰʰA ʰa ªA Aª",
    "contractions behind words": "I'LL we've x'ſ ABC's 中's A中B's \u0301's 's 'sa ''s 's's",
    "slashes": "a// ./\n/\r/ /a //\n \n/",
    "white space at the end": "a\n \n  ",
    "one newline at the end": "a \n",
    "blanks at the end": "a.\n\n  ",
    "newlines in between": "a \n\n  b\n  \n c",
}


@pytest.fixture(scope="module")
def ranks():
    """All pairs of bytes in a random order: a piece that ends elsewhere shows in the ids."""
    pairs = [bytes([a, b]) for a in range(256) for b in range(256)]
    random.Random(1).shuffle(pairs)
    return {token: rank for rank, token in enumerate([bytes([b]) for b in range(256)] + pairs)}


@pytest.fixture(scope="module", params=OTHERS)
def engines(request, ranks):
    """(name, our encoder, tiktoken's, Hugging Face's pre-tokenizer)."""
    regex = _C.bpe_patterns[request.param]
    theirs = tiktoken.Encoding(request.param, pat_str=regex, mergeable_ranks=ranks, special_tokens={})
    return request.param, _C.BpeEncoder(list(ranks), {}, request.param), theirs, Split(Regex(regex), "isolated")


def assert_same(engines, text, pieces=True):
    name, ours, theirs, split = engines
    assert np.array_equal(ours.encode_array(text), theirs.encode_to_numpy(text, disallowed_special=()))
    ends = _C.bpe_split(text, "window", name)
    assert np.array_equal(ends, _C.bpe_split(text, "portable", name))
    assert np.array_equal(ends, _C.bpe_split(text, "scalar", name))
    if pieces:
        bytes_before = np.cumsum([0] + [len(c.encode()) for c in text])
        assert [bytes_before[end] for _, (_, end) in split.pre_tokenize_str(text)] == ends.tolist()


@pytest.mark.parametrize("context", CONTEXTS)
def test_every_code_point(engines, context):
    planes = range(0x11) if context == "alone" else (0, 1)
    for plane in planes:
        text = code_points(CONTEXTS[context], plane << 16, (plane << 16) + 0xFFFF)
        assert_same(engines, text, pieces=plane < 2 and context in ("alone", "between letters"))


@pytest.mark.parametrize("name", [*HOSTILE, *WORDS])
def test_hostile(engines, name):
    text = HOSTILE.get(name, WORDS.get(name))
    assert_same(engines, text)
    for cut in range(min(len(text), 60)):  # every beginning, and every end
        assert_same(engines, text[cut : cut + 200])
        assert_same(engines, text[: len(text) - cut][-200:])


@settings(max_examples=400, deadline=None)
@given(
    text=st.one_of(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.sampled_from(CLASSES), max_size=80))
)
def test_random(engines, text):
    assert_same(engines, text)


def test_soup(engines):
    rng = random.Random(3)
    for length in (10, 70, 300, 5000):
        for _ in range(40):
            assert_same(engines, "".join(rng.choices(CLASSES, k=length)))


@pytest.mark.parametrize("unit", [*REPEATED, "A中", "\u0301A", "中A\u0301", "ʰ", "A", "/\n", "A中'"])
def test_repetition_is_not_quadratic(unit):
    for name in OTHERS:
        for text in (unit * 300_000, unit * 300_000 + "A" * 300_000, "A" * 300_000 + unit * 300_000 + "a"):
            assert _C.bpe_split(text, "window", name)[-1] == len(text.encode())
            assert _C.bpe_split(text, "scalar", name)[-1] == len(text.encode())


@pytest.mark.parametrize("spelling", [*foreign._SPELLINGS, foreign._TIKTOKEN_CL100K])
def test_spellings_mean_the_same(ranks, spelling):
    name = foreign.pattern_named(spelling)
    in_file = foreign._SPELLINGS.get(spelling)
    assert in_file in (name, None)
    ours = _C.BpeEncoder(list(ranks), {}, name)
    theirs = tiktoken.Encoding("other", pat_str=spelling, mergeable_ranks=ranks, special_tokens={})
    rng = random.Random(4)
    texts = [*HOSTILE.values(), *WORDS.values(), code_points(" {}a", 0, 0xFFFF)]
    for text in texts + ["".join(rng.choices(CLASSES, k=rng.randint(1, 60))) for _ in range(500)]:
        assert np.array_equal(ours.encode_array(text), theirs.encode_to_numpy(text, disallowed_special=()))
        if in_file:
            ends = np.cumsum([0] + [len(c.encode()) for c in text])
            theirs_ends = [ends[b] for _, (_, b) in Split(Regex(spelling), "isolated").pre_tokenize_str(text)]
            assert theirs_ends == _C.bpe_split(text, "window", name).tolist()


def test_byte_level_is_gpt2():
    for text in [*HOSTILE.values(), *WORDS.values()]:
        level = ByteLevel(add_prefix_space=False, use_regex=True)
        split = Split(Regex(_C.bpe_patterns["gpt2"]), "isolated")
        plain = pre_tokenizers.Sequence([split, ByteLevel(add_prefix_space=False, use_regex=False)])
        assert level.pre_tokenize_str(text) == plain.pre_tokenize_str(text)


def test_unknown_patterns():
    for wrong in (r"\w+", "", "gpt4", foreign._FAMILY % r"\p{N}{1,4}"):
        with pytest.raises(DataError, match="supported are those of pynanochat, cl100k, llama3, qwen2, gpt2, o200k"):
            foreign.pattern_named(wrong)
    with pytest.raises(ValueError):
        _C.bpe_split("a", "window", "gpt4")
