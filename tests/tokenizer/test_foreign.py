"""Vocabularies of others: .tiktoken files and Hugging Face tokenizer.json, against the libraries that they are for."""

import base64
import json
import random

import numpy as np
import pytest
import tiktoken
import tokenizers
from tokenizers import normalizers

from pynanochat import _C
from pynanochat.errors import DataError, UsageError
from pynanochat.tokenizer import Tokenizer, foreign
from pynanochat.tokenizer.files import _spell
from pynanochat.tokenizer.nfc import _LATER, nfc
from tests.tokenizer.corpus import HOSTILE, REPEATED
from tests.tokenizer.test_patterns import CLASSES, WORDS

TEXTS = [*HOSTILE.values(), *WORDS.values(), *("".join(random.Random(s).choices(CLASSES, k=300)) for s in range(50))]


def write_ranks(path, ranks: dict[bytes, int]):
    path.write_bytes(b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items()))
    return path


def theirs(tokenizer: Tokenizer, normalizer=None, every_cut: bool = False, **model) -> dict:
    """A tokenizer.json of Qwen's kind from the ranks of `tokenizer`. `every_cut`: every way to cut a token in two is
    a merge, as in files that were made from tiktoken's."""
    ranks = tokenizer.mergeable_ranks
    merges = []
    for token, id in ranks.items():
        cuts = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        cuts = [pair for pair in cuts if all(part in ranks for part in pair)]
        parts = tokenizer._core.parts()[id]
        merges += [pair for pair in cuts if every_cut or (ranks[pair[0]], ranks[pair[1]]) == parts]
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    end = {"id": len(ranks), "content": "<|endoftext|>", **flags}
    split = {"type": "Split", "pattern": {"Regex": foreign._FAMILY % r"\p{N}"}, "behavior": "Isolated", "invert": False}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [end, {**end, "id": len(ranks) + 3, "content": "<tool>", "special": False}],
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, level]},
        "post_processor": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {_spell(token): id for token, id in ranks.items()},
            "merges": [" ".join(map(_spell, pair)) for pair in merges],
            **model,
        },
    }


def put(folder, content: dict):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


def assert_same(ours: Tokenizer, path, texts=TEXTS):
    peer = tokenizers.Tokenizer.from_file(str(path))
    peer.encode_special_tokens = True
    for text in texts:
        expected = peer.encode(text, add_special_tokens=False).ids
        assert ours.encode(text) == expected
        assert ours.encode_array(text).tolist() == expected
    assert [ids.tolist() for ids in ours.encode_batch(texts[:5])] == [ours.encode(text) for text in texts[:5]]


# --- ranks ---


@pytest.mark.parametrize("pattern", _C.bpe_patterns)
def test_ranks(tokenizer, tmp_path, pattern):
    ours = Tokenizer.from_ranks(tokenizer.mergeable_ranks, pattern=pattern)
    peer = tiktoken.Encoding(
        "peer", pat_str=ours.pattern, mergeable_ranks=ours.mergeable_ranks, special_tokens=ours.special_tokens
    )
    assert all(ours.encode(text) == peer.encode_ordinary(text) for text in TEXTS)
    assert Tokenizer.from_ranks(tokenizer.mergeable_ranks, pattern=ours.pattern).hash() == ours.hash()
    assert (ours.hash() == tokenizer.hash()) == (pattern == "pynanochat")
    ours.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.hash() == ours.hash() and again.pattern == ours.pattern
    assert_same(again, tmp_path / "tokenizer.json")


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("gpt2", "gpt2"),
        ("r50k_base", "gpt2"),
        ("p50k_base", "gpt2"),
        ("cl100k_base", "cl100k"),
        ("o200k_base", "o200k"),
        ("Qwen", "qwen2"),
    ],
)
def test_tiktoken_file(tokenizer, tmp_path, name, pattern):
    path = write_ranks(tmp_path / f"{name}.tiktoken", tokenizer.mergeable_ranks)
    ours = Tokenizer.load(path, special_tokens={"<|endoftext|>": 5000})
    assert ours.pattern == _C.bpe_patterns[pattern] and ours.special_tokens == {"<|endoftext|>": 5000}
    assert ours.mergeable_ranks == tokenizer.mergeable_ranks
    assert Tokenizer.load(path, pattern="llama3").pattern == _C.bpe_patterns["llama3"]
    assert Tokenizer.load(path).bos_id == len(tokenizer.mergeable_ranks)


def test_tiktoken_file_of_no_known_name(tokenizer, tmp_path):
    path = write_ranks(tmp_path / "other.tiktoken", tokenizer.mergeable_ranks)
    with pytest.raises(DataError, match=r"other\.tiktoken.*give pattern, one of pynanochat"):
        Tokenizer.load(path)
    with pytest.raises(DataError, match="supported are"):
        Tokenizer.load(path, pattern=r"\w+")


DAMAGED = [
    *(b"", b"YQ==", b"YQ== 1 2\n", b"YQ== -1\n", b"YQ== x\n", b"Y! 1\n", b"YQ== 1\nYQ== 2\n", b" 1\n"),
    *(b"YQ== " + b"9" * 5000, b"\x00\xff\xfe", b"YQ== 99999999999\n", b"YQ== 1\n", b"YQ== 5\nYg== 5\n"),
]


@pytest.mark.parametrize("content", DAMAGED)
def test_damaged_tiktoken_file(tmp_path, content):
    path = tmp_path / "cl100k_base.tiktoken"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"cl100k_base\.tiktoken") as raised:
        Tokenizer.load(path)
    assert "\n" not in str(raised.value)
    with pytest.raises(DataError, match="cannot be read"):
        Tokenizer.load(tmp_path / "none.tiktoken")


# --- Hugging Face ---


@pytest.mark.parametrize("every_cut", [False, True])
@pytest.mark.parametrize("ignore_merges", [False, True])
def test_hugging_face(tokenizer, tmp_path, every_cut, ignore_merges):
    put(tmp_path, theirs(tokenizer, every_cut=every_cut, ignore_merges=ignore_merges))
    ours = Tokenizer.load(tmp_path)
    size = len(tokenizer.mergeable_ranks)
    assert ours.special_tokens == {"<|endoftext|>": size, "<tool>": size + 3} and len(ours) == size + 4
    assert_same(ours, tmp_path / "tokenizer.json")
    assert Tokenizer.load(tmp_path / "tokenizer.json").hash() == ours.hash()
    assert ours.decode([size]) == "<|endoftext|>"
    ours.save(tmp_path / "saved")
    assert Tokenizer.load(tmp_path / "saved").hash() == ours.hash()
    assert "chat_template" not in json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    with pytest.raises(UsageError, match="its own pattern"):
        Tokenizer.load(tmp_path, pattern="gpt2")


def test_gpt2_file(tokenizer, tmp_path):
    """A ByteLevel alone, and the special token in the vocabulary too."""
    content = theirs(tokenizer)
    content["pre_tokenizer"] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
    content["model"]["vocab"]["<|endoftext|>"] = content["added_tokens"][0]["id"]
    put(tmp_path, content)
    ours = Tokenizer.load(tmp_path)
    assert ours.pattern == _C.bpe_patterns["gpt2"]
    assert_same(ours, tmp_path / "tokenizer.json", [text for text in TEXTS if "<|endoftext|>" not in text])


def test_split_that_removes_what_is_between(tokenizer, tmp_path):
    content = theirs(tokenizer)
    content["pre_tokenizer"]["pretokenizers"][0].update(behavior="Removed", invert=True)
    assert_same(Tokenizer.load(put(tmp_path, content)), tmp_path / "tokenizer.json")


# --- composed form ---


def test_nfc_of_every_code_point():
    peer = normalizers.NFC()
    for context in ("{}", "a{}\u0301", "中\u0323{}", "中{}\u0334b", "\u1100{}\u11a8", "{}\U00011930\u0307"):
        for code in range(0x20000):
            if not 0xD800 <= code < 0xE000:
                text = context.format(chr(code))
                assert nfc(text) == peer.normalize_str(text), hex(code)


def test_nfc_of_random_marks():
    peer, rng = normalizers.NFC(), random.Random(1)
    marks = [chr(c) for c in range(0x300, 0x1F000) if _LATER.match(chr(c))]
    marks += [chr(c) for c in range(0x300, 0x370)] + list("aeo中가각あ\u1161\u11a8\u0bc6\u0bbe\u05b0\u3099") * 9
    for length in (3, 12, 99, 100, 101, 400):
        for _ in range(300):
            text = "a" + "".join(rng.choices(marks, k=length))
            assert nfc(text) == peer.normalize_str(text)
    assert len(nfc("a" + "\u0301\u0323" * 200_000)) > 1  # a quadratic path would not come back


@pytest.mark.parametrize("normalizer", [{"type": "NFC"}, {"type": "Sequence", "normalizers": [{"type": "NFC"}]}])
def test_composing_tokenizer(tokenizer, tmp_path, normalizer):
    ours = Tokenizer.load(put(tmp_path, theirs(tokenizer, normalizer)))
    texts = [*TEXTS, "e\u0301 \u1100\u1161\u11a8 \u212b \u0344 \u0958", *(unit * 200 for unit in REPEATED)]
    assert_same(ours, tmp_path / "tokenizer.json", texts)
    plain = Tokenizer.load(put(tmp_path / "plain", theirs(tokenizer)))
    assert ours.encode("e\u0301") == plain.encode("é") != plain.encode("e\u0301")
    assert ours.hash() != plain.hash()
    ours.save(tmp_path / "saved")
    again = Tokenizer.load(tmp_path / "saved")
    assert again.hash() == ours.hash() and np.array_equal(again.encode_array("e\u0301"), ours.encode_array("é"))
    for wrong in (5, None, b"a"):
        with pytest.raises(TypeError):
            ours.encode(wrong)


# --- refusals ---

SPLIT, LEVEL = (lambda c: c["pre_tokenizer"]["pretokenizers"][0]), (lambda c: c["pre_tokenizer"]["pretokenizers"][1])
REFUSED = {
    "another pattern": (lambda c: SPLIT(c)["pattern"].update(Regex=r"\w+"), r"\\w\+.*supported are"),
    "tiktoken's cl100k": (lambda c: SPLIT(c)["pattern"].update(Regex=foreign._TIKTOKEN_CL100K), "another pattern"),
    "a string for a pattern": (lambda c: SPLIT(c).update(pattern={"String": " "}), "another pattern"),
    "pieces merged": (lambda c: SPLIT(c).update(behavior="MergedWithNext"), "MergedWithNext"),
    "a prefix space": (lambda c: LEVEL(c).update(add_prefix_space=True), "add_prefix_space"),
    "two regexes": (lambda c: LEVEL(c).update(use_regex=True), "Split and ByteLevel"),
    "no splitting": (lambda c: c.update(pre_tokenizer=None), "by nothing"),
    "Metaspace": (lambda c: c.update(pre_tokenizer={"type": "Metaspace"}), "Metaspace"),
    "NFKC": (lambda c: c.update(normalizer={"type": "NFKC"}), "NFKC"),
    "lower case": (
        lambda c: c.update(normalizer={"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Lowercase"}]}),
        "NFC, Lowercase",
    ),
    "WordPiece": (lambda c: c["model"].update(type="WordPiece"), "WordPiece"),
    "dropout": (lambda c: c["model"].update(dropout=0.1), "dropout"),
    "a suffix": (lambda c: c["model"].update(end_of_word_suffix="</w>"), "end_of_word_suffix"),
    "added white space": (lambda c: c["added_tokens"][1].update(content="    "), "out of ordinary text"),
    "merges in another order": (lambda c: c["model"]["merges"].reverse(), "do not agree"),
    "a merge lost": (lambda c: c["model"]["merges"].pop(9), "do not agree"),
    "a merge twice": (lambda c: c["model"]["merges"].append(c["model"]["merges"][0]), "do not agree"),
    "a token that does not merge": (lambda c: c["model"]["vocab"].update({"zqzq": 9000}), "do not agree"),
    "a merge into no token": (lambda c: c["model"]["merges"].append("z q"), "no token"),
    "a merge of three": (lambda c: c["model"]["merges"].append("a b c"), "tokenizer.json"),
    "an id that is a fraction": (lambda c: c["model"]["vocab"].update(a=97.0), "id 97.0"),
    "a negative id": (lambda c: c["model"]["vocab"].update(a=-1), "id -1"),
    "a huge id": (lambda c: c["added_tokens"][0].update(id=1 << 60), "id 1152"),
    "no vocabulary": (lambda c: c["model"].update(vocab={}), "tokenizer.json"),
    "a list for a model": (lambda c: c.update(model=[]), "tokenizer.json"),
    "a number for a step": (lambda c: c.update(pre_tokenizer=5), "tokenizer.json"),
    "a special token that is a word": (lambda c: c["added_tokens"][0].update(id=300), "not free"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tokenizer, tmp_path, name):
    content = theirs(tokenizer)
    change, message = REFUSED[name]
    change(content)
    put(tmp_path, content)
    with pytest.raises(DataError, match=message) as raised:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(raised.value) and "tokenizer.json" in str(raised.value)


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "5", "null", '{"model": 5}', "\ufeff{}", ""])
def test_hostile_json(tmp_path, text):
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(DataError, match=r"tokenizer\.json") as raised:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(raised.value)
