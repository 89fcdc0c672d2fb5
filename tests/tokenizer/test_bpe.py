"""The tokenizer against tiktoken, rustbpe and Hugging Face tokenizers, its files, and its errors."""

import gc
import json
import random
import threading
import time

import numpy as np
import pytest
import rustbpe
import tiktoken
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from pynanochat.errors import DataError, UsageError
from pynanochat.tokenizer import SPECIAL_TOKENS, StreamDecoder, Tokenizer
from tests.tokenizer.corpus import HOSTILE, REPEATED


def as_tiktoken(tokenizer: Tokenizer) -> tiktoken.Encoding:
    return tiktoken.Encoding(
        "ours",
        pat_str=tokenizer.pattern,
        mergeable_ranks=tokenizer.mergeable_ranks,
        special_tokens=tokenizer.special_tokens,
    )


@pytest.fixture(scope="module")
def reference(tokenizer):
    return as_tiktoken(tokenizer)


# --- training ---


def rustbpe_ranks(texts, vocab_size: int) -> dict[bytes, int]:
    peer = rustbpe.Tokenizer()
    peer.train_from_iterator(iter(texts), vocab_size, pattern=Tokenizer.pattern)
    return {bytes(token): rank for token, rank in peer.get_mergeable_ranks()}


TIES = {
    "every pair once": ["".join(chr(a) + chr(b) for a in range(97, 123) for b in range(97, 123))],
    "all words as often": ["ab ba ac ca bc cb abc cba bca", "aab abb bab aba bba"],
    "runs of one letter": ["a" * n for n in range(1, 60)] + ["b" * 64, "ab" * 40, "aba" * 30, "aabb" * 25],
    "soup of two letters": ["".join(random.Random(s).choices("ab", k=200)) for s in range(20)],
    "soup of words": [" ".join(random.Random(s).choices(["aa", "ab", "ba", "bb"], k=60)) for s in range(20)],
    "bytes of characters": [
        "".join(chr(c) for c in range(0x4E00, 0x4F00)) + " ".join(chr(c) for c in range(0x400, 0x480))
    ],
}


@pytest.mark.parametrize("name", TIES)
def test_ties_go_to_the_smaller_pair(name):
    tokenizer = Tokenizer.train(TIES[name], vocab_size=700)
    assert tokenizer.mergeable_ranks == rustbpe_ranks(TIES[name], 700 - len(SPECIAL_TOKENS))


def test_merges_equal_rustbpe(texts, tokenizer):
    assert len(tokenizer) == 2000
    texts = [text[:10_000] for text in texts]  # as much of each as training reads by default
    assert tokenizer.mergeable_ranks == rustbpe_ranks(texts, 2000 - len(SPECIAL_TOKENS))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(st.sampled_from("aab bcé'1\n中"), max_size=60), min_size=1, max_size=8))
def test_merges_equal_rustbpe_on_random_text(texts):
    if any(texts):
        ours = Tokenizer.train(texts, vocab_size=330)
        assert ours.mergeable_ranks == rustbpe_ranks(texts, 330 - len(SPECIAL_TOKENS))


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_training_does_not_depend_on_threads(texts, tokenizer, threads):
    assert Tokenizer.train(iter(texts), vocab_size=2000, threads=threads).hash() == tokenizer.hash()


def test_training_does_not_depend_on_batches(texts, tokenizer, monkeypatch):
    monkeypatch.setattr("pynanochat.tokenizer.bpe._BATCH_CHARACTERS", 1000)
    assert Tokenizer.train(iter(texts), vocab_size=2000).hash() == tokenizer.hash()


def test_training_limits():
    texts = ["abab" + "z" * 100, "cdcd", "efef" * 100]
    cut = Tokenizer.train(texts, 300, max_chars=8, max_chars_per_document=4).mergeable_ranks
    assert cut == rustbpe_ranks(["abab", "cdcd"], 300 - 9)
    drawn = []

    def endless():
        while True:
            drawn.append(1)
            yield "some text "

    Tokenizer.train(endless(), 270, max_chars=100)
    assert len(drawn) == 10


def test_training_reports_progress(texts):
    seen = []
    Tokenizer.train(texts, 2000, progress=lambda done, total: seen.append((done, total)))
    assert seen and seen[-1][1] == 2000 - 265 and seen == sorted(seen)
    with pytest.raises(KeyboardInterrupt):
        Tokenizer.train(texts, 2000, progress=lambda done, total: (_ for _ in ()).throw(KeyboardInterrupt))


def test_small_text_gives_a_small_vocabulary():
    tokenizer = Tokenizer.train(["ab"], 1000)
    assert len(tokenizer) == 266 and tokenizer.encode("ab") == [256] and tokenizer.bos_id == 257


# --- encoding ---


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_ids(tokenizer, reference, name):
    text = HOSTILE[name]
    ids = tokenizer.encode(text)
    assert ids == reference.encode_ordinary(text)
    assert tokenizer.decode_bytes(ids) == text.encode()
    assert tokenizer.decode(ids) == text
    assert not set(ids) & set(tokenizer.special_tokens.values())


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=300))
def test_random_ids(tokenizer, reference, text):
    ids = tokenizer.encode(text)
    assert ids == reference.encode_ordinary(text)
    assert tokenizer.decode_bytes(ids) == text.encode()


def test_ids_do_not_depend_on_the_cache(tokenizer, texts):
    """More distinct pieces than the cache holds, met twice, give what a fresh tokenizer gives."""
    rng = random.Random(3)
    text = " ".join("".join(rng.choices("abcdefghijklmnop", k=rng.randint(1, 20))) for _ in range(200_000))
    first = tokenizer.encode_array(text)
    assert np.array_equal(first, tokenizer.encode_array(text))
    assert np.array_equal(first, Tokenizer.from_ranks(tokenizer.mergeable_ranks).encode_array(text))
    assert first.tolist() == as_tiktoken(tokenizer).encode_ordinary(text)


@pytest.mark.parametrize("seed", range(6))
def test_any_table_of_ranks(seed):
    """Tables that no training gives, whose tokens may not be reachable from their parts, in any order."""
    rng = random.Random(seed)
    tokens = {"".join(rng.choices("abc", k=rng.randint(2, 6))).encode() for _ in range(60)}
    ranks = [bytes([b]) for b in range(256)] + sorted(tokens)
    rng.shuffle(ranks)
    table = {token: rank * 3 for rank, token in enumerate(ranks)}  # with gaps
    ours = Tokenizer.from_ranks(table)
    theirs = as_tiktoken(ours)
    for length in (1, 2, 5, 20, 63, 64, 65, 200, 1000):
        for _ in range(20):
            text = "".join(rng.choices("abcd", k=length))
            assert ours.encode(text) == theirs.encode_ordinary(text)


def test_long_words_take_the_same_merges_as_short_ones(tokenizer, reference):
    rng = random.Random(5)
    for length in (60, 64, 65, 100, 5000):
        text = "".join(rng.choices("etaoin", k=length))
        assert tokenizer.encode(text) == reference.encode_ordinary(text)


def test_batch(tokenizer, texts):
    expected = [tokenizer.encode(text) for text in texts]
    for threads in (1, 2, 5, None):
        batch = tokenizer.encode_batch(iter(texts), threads)
        assert all(ids.dtype == np.uint32 for ids in batch)
        assert [ids.tolist() for ids in batch] == expected
    assert tokenizer.encode_batch([]) == []
    assert tokenizer.encode_array("").shape == (0,)


def test_python_threads(tokenizer, texts):
    expected = [tokenizer.encode(text) for text in texts]
    results = {}

    def work(number):
        results[number] = [tokenizer.encode(text) for text in texts]

    workers = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(results[n] == expected for n in range(4))


def test_surrogates_as_in_tiktoken(tokenizer, reference):
    for text in ("\ud83d\ude00", "a\ud800b", "\udfff", "\udc00\ud800"):
        assert tokenizer.encode(text) == reference.encode_ordinary(text)
        assert tokenizer.encode_batch([text])[0].tolist() == reference.encode_ordinary(text)
    assert tokenizer.decode(tokenizer.encode("a\ud800b")) == "a\ufffdb"


def test_only_str_is_text(tokenizer):
    for wrong in (b"bytes", 5, None, ["a"]):
        with pytest.raises(TypeError):
            tokenizer.encode(wrong)
        with pytest.raises(TypeError):
            tokenizer.encode_batch([wrong])


@pytest.mark.parametrize("unit", REPEATED)
def test_repetition_is_not_quadratic(tokenizer, unit):
    """A quadratic path would need hours for these; the ids are checked on a part that tiktoken can do."""
    text = unit * 1_000_000
    started = time.perf_counter()
    ids = tokenizer.encode_array(text)
    assert time.perf_counter() - started < 10
    assert tokenizer.decode_bytes(ids) == text.encode()
    part = unit * 3000
    assert tokenizer.encode(part) == as_tiktoken(tokenizer).encode_ordinary(part)


# --- decoding ---


def test_decode(tokenizer):
    ids = tokenizer.encode("été 中文 😀")
    for form in (ids, tuple(ids), np.array(ids, dtype=np.uint32), np.array(ids)):
        assert tokenizer.decode(form) == "été 中文 😀"
    assert tokenizer.decode([]) == "" and tokenizer.decode_bytes([]) == b""
    assert tokenizer.decode([tokenizer.bos_id, *tokenizer.encode("a")]) == "<|bos|>a"
    assert tokenizer.decode([0xFF]) == "\ufffd" and tokenizer.decode_bytes([0xFF]) == b"\xff"
    for wrong in (-1, len(tokenizer), 1 << 40):
        with pytest.raises(UsageError, match=str(wrong)):
            tokenizer.decode([wrong])


def test_stream_decoder(tokenizer):
    text = "".join(HOSTILE.values())
    decoder = StreamDecoder(tokenizer)
    pieces = [decoder.feed(id) for id in tokenizer.encode(text)] + [decoder.flush()]
    assert "".join(pieces) == text
    assert "\ufffd" not in "".join(pieces).replace("\ufffd", "" if "\ufffd" in text else "\ufffd")
    letter = "😀".encode()
    assert [decoder.feed(byte) for byte in letter] == ["", "", "", "😀"]
    assert decoder.feed(letter[0]) == "" and decoder.flush() == "\ufffd"
    assert decoder.feed(ord("a")) == "a"


def test_token_lengths(tokenizer):
    lengths = tokenizer.token_lengths()
    assert lengths.shape == (2000,) and lengths.dtype == np.int64
    assert all(lengths[id] == len(tokenizer.token_bytes(id)) for id in range(2000 - 9))
    assert not lengths[-9:].any()
    assert lengths[0xFF] == 1  # the raw byte, not the replacement character it decodes to


# --- special tokens ---


def test_special_tokens(tokenizer):
    assert list(tokenizer.special_tokens) == list(SPECIAL_TOKENS)
    assert list(tokenizer.special_tokens.values()) == list(range(2000 - 9, 2000))
    assert tokenizer.special_id("<|bos|>") == tokenizer.bos_id == 1991
    with pytest.raises(UsageError, match="endoftext"):
        tokenizer.special_id("<|endoftext|>")


# --- files ---


def test_save_and_load(tokenizer, texts, tmp_path):
    tokenizer.save(tmp_path / "new" / "folder")
    again = Tokenizer.load(tmp_path / "new" / "folder")
    assert again.hash() == tokenizer.hash()
    assert again.mergeable_ranks == tokenizer.mergeable_ranks and again.special_tokens == tokenizer.special_tokens
    assert all(again.encode(text) == tokenizer.encode(text) for text in texts)
    lengths = json.loads((tmp_path / "new" / "folder" / "token_bytes.json").read_text())["lengths"]
    assert lengths == [len(tokenizer.token_bytes(id)) for id in range(1991)] + [0] * 9


def test_hugging_face_loads_it(tokenizer, texts, tmp_path):
    tokenizer.save(tmp_path)
    peer = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    peer.encode_special_tokens = True  # read special tokens in text as text, as we always do
    assert peer.get_vocab_size() == len(tokenizer)
    for text in texts:
        ids = tokenizer.encode(text)
        assert peer.encode(text, add_special_tokens=False).ids == ids
        assert peer.decode(ids, skip_special_tokens=False) == text
    assert peer.token_to_id("<|bos|>") == tokenizer.bos_id


def test_ranks_of_another_order_save_and_load(tokenizer, tmp_path):
    ranks = {token: (255 - rank if rank < 256 else rank) for token, rank in tokenizer.mergeable_ranks.items()}
    other = Tokenizer.from_ranks(ranks)
    other.save(tmp_path)
    assert Tokenizer.load(tmp_path).hash() == other.hash() != tokenizer.hash()


def _damage(tmp_path, change):
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


DAMAGE = {
    "another pattern": lambda c: c["pre_tokenizer"]["pretokenizers"][0]["pattern"].update(Regex=r"\w+"),
    "a merge lost": lambda c: c["model"]["merges"].pop(50),
    "two ids exchanged": lambda c: c["model"]["vocab"].update({"a": 98, "b": 97}),
    "an id twice": lambda c: c["model"]["vocab"].update({"a": 98}),
    "a byte missing": lambda c: c["model"]["vocab"].pop("a"),
    "a huge id": lambda c: c["model"]["vocab"].update({"a": 1 << 60}),
    "an unknown letter": lambda c: c["model"]["vocab"].update({"\u4e2d": 5000}),
    "no model": lambda c: c.pop("model"),
    "no special tokens": lambda c: c["added_tokens"].clear(),
    "another kind": lambda c: c.update(model={"type": "WordPiece"}),
    "a special token over a word": lambda c: c["added_tokens"][0].update(id=300),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_file(tokenizer, tmp_path, name):
    tokenizer.save(tmp_path)
    _damage(tmp_path, DAMAGE[name])
    with pytest.raises(DataError) as raised:
        Tokenizer.load(tmp_path)
    assert "\n" not in str(raised.value)


def test_truncated_or_missing_file(tokenizer, tmp_path):
    with pytest.raises(DataError, match="pynanochat tokenizer train"):
        Tokenizer.load(tmp_path)
    tokenizer.save(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = path.read_bytes()
    for size in (0, 1, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(DataError, match=r"tokenizer\.json"):
            Tokenizer.load(tmp_path)
    path.write_bytes(b"\xff\xfe" + content)
    with pytest.raises(DataError):
        Tokenizer.load(tmp_path)


# --- errors ---


@pytest.mark.parametrize("size", [-1, 0, 100, 264])
def test_vocabulary_too_small(size):
    with pytest.raises(UsageError, match=f"vocab_size is {size}.*265.*--vocab-size"):
        Tokenizer.train(["text"], size)


def test_no_text():
    for texts in ([], [""], iter(["", ""])):
        with pytest.raises(DataError, match="no text"):
            Tokenizer.train(texts, 300)
    with pytest.raises(UsageError, match="iterable"):
        Tokenizer.train("text", 300)


def test_bad_ranks():
    full = {bytes([b]): b for b in range(256)}
    bad = {
        "byte 97": {token: rank for token, rank in full.items() if token != b"a"},
        "rank 5": {**full, b"ab": 5},
        "ranks go": {**full, b"ab": 1 << 40},
        "is used twice or for no": {**full, b"": 256},
    }
    for message, ranks in bad.items():
        with pytest.raises(DataError, match=message):
            Tokenizer.from_ranks(ranks)
    with pytest.raises(DataError, match="not free"):
        Tokenizer.from_ranks(full, {"<|bos|>": 97})
    with pytest.raises(DataError, match="same id"):
        Tokenizer.from_ranks(full, {"<|bos|>": 256, "<|b|>": 256})


def test_memory_of_repeated_calls(tokenizer):
    """The cache and the workspaces do not grow with the text."""
    import resource

    rng = random.Random(9)

    def work():
        for _ in range(20):
            tokenizer.encode_batch([" ".join(str(rng.random()) for _ in range(2000)) for _ in range(4)], 2)

    work()
    gc.collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    work()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30_000  # KiB
