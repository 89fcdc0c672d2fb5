"""The tokenizer against tiktoken, rustbpe and Hugging Face tokenizers, on the same text in the same run.

    [PYNANOCHAT_DATA=FOLDER] python -m pynanochat.bench.bench_bpe [--megabytes 4] [--vocab-size 32768] [--seconds 4]
    [PYNANOCHAT_DATA=FOLDER] pytest bench/bench_bpe.py --benchmark-enable

Three corpora: English (validation text of the data folder, or of the toy world), code (Python's own library), and
words of many scripts, generated. First merges must equal rustbpe's, and on every corpus ids those of the peers. Then
engines take turns: training on all three together; encoding document by document on one thread, with a cache that has
seen the text (warm) and with a fresh encoder (cold); a batch on all threads; decoding.
"""

import argparse
import functools
import os
import random
import sysconfig
import tempfile
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import rustbpe
import tiktoken
import tokenizers

from pynanochat.bench.harness import interleave, race, report, speedup
from pynanochat.data.sources import open_source
from pynanochat.runtime import cpu_threads
from pynanochat.tokenizer import SPECIAL_TOKENS, Tokenizer

SCRIPTS = {  # first and last code points, longest word
    "chinese": (0x4E00, 0x5200, 3),
    "korean": (0xAC00, 0xAE00, 4),
    "arabic": (0x0627, 0x064A, 8),
    "hindi": (0x0905, 0x0939, 7),
    "russian": (0x0430, 0x044F, 9),
    "emoji": (0x1F600, 0x1F64F, 2),
}


def take(texts, size: int) -> list[str]:
    """The first texts, `size` bytes together."""
    result, total = [], 0
    for text in texts:
        if total >= size:
            break
        result.append(text)
        total += len(text.encode())
    return result


def code() -> list[str]:
    folder = Path(sysconfig.get_paths()["stdlib"])
    return [path.read_text(encoding="utf-8", errors="replace") for path in sorted(folder.glob("*.py"))]


def many_scripts(size: int, seed: int = 0) -> list[str]:
    """Documents of one script each, their words as unevenly common as in a language."""
    rng = random.Random(seed)
    result, total = [], 0
    lists = {}
    for name, (first, last, longest) in SCRIPTS.items():
        letters = [chr(c) for c in range(first, last + 1)]
        rng.shuffle(letters)
        common = [1 / (rank + 1) for rank in range(len(letters))]
        lists[name] = ["".join(rng.choices(letters, common, k=rng.randint(1, longest))) for _ in range(8000)]
    weights = [1 / (rank + 1) for rank in range(8000)]
    while total < size:
        name = rng.choice(list(SCRIPTS))
        space = "" if name in ("chinese", "emoji") else " "
        sentences = [space.join(rng.choices(lists[name], weights, k=12)) for _ in range(20)]
        result.append("。".join(sentences) if name == "chinese" else ". ".join(sentences))
        total += len(result[-1].encode())
    return result


def corpora(size: int) -> dict[str, list[str]]:
    english = open_source(os.environ.get("PYNANOCHAT_DATA", "toyworld"))
    return {
        "english": take(english.texts("val"), size) or take(english.texts("train"), size),
        "code": take(code(), size),
        "many scripts": many_scripts(size),
    }


class Peers:
    """The other engines, on the ranks of `ours`."""

    def __init__(self, ours: Tokenizer):
        self.tiktoken = tiktoken.Encoding(
            "peer", pat_str=ours.pattern, mergeable_ranks=ours.mergeable_ranks, special_tokens={}
        )
        with tempfile.TemporaryDirectory() as folder:
            ours.save(folder)
            self.tokenizers = tokenizers.Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
        self.tokenizers.encode_special_tokens = True


def rustbpe_train(texts: list[str], vocab_size: int):
    peer = rustbpe.Tokenizer()
    peer.train_from_iterator(iter(texts), vocab_size - len(SPECIAL_TOKENS), pattern=Tokenizer.pattern)
    return peer


@functools.lru_cache(maxsize=1)
def trained(megabytes: float, vocab_size: int):
    """The corpora, our tokenizer of all of them and rustbpe's, whose merges are equal."""
    texts = corpora(int(megabytes * 1e6))
    together = [text for part in texts.values() for text in part]
    ours = Tokenizer.train(together, vocab_size, max_chars_per_document=1 << 40)
    theirs = rustbpe_train(together, vocab_size)
    assert ours.mergeable_ranks == {bytes(token): rank for token, rank in theirs.get_mergeable_ranks()}, "merges"
    return texts, together, ours, theirs


@functools.lru_cache(maxsize=1)
def contest(what: str, corpus: str) -> dict:
    """engine -> training on all corpora, or encoding of one on one thread; merges and ids are equal."""
    texts, together, ours, rust = trained(1.0, 8192)
    if what == "train":
        return {
            "ours": lambda: Tokenizer.train(together, 8192, max_chars_per_document=1 << 40),
            "rustbpe": lambda: rustbpe_train(together, 8192),
        }
    peers, part = Peers(ours), texts[corpus]
    engines = {
        "ours": lambda: ours.encode_batch(part, threads=1),
        "tiktoken": lambda: [peers.tiktoken.encode_ordinary(text) for text in part],
        "tokenizers": lambda: [peers.tokenizers.encode(text, add_special_tokens=False).ids for text in part],
        "rustbpe": lambda: [rust.encode(text) for text in part],
    }
    expected = engines["tiktoken"]()
    assert all([list(ids) for ids in encode()] == expected for encode in engines.values()), "ids"
    return engines


@pytest.mark.parametrize("engine", ("ours", "rustbpe"))
def test_train(benchmark, engine):
    race(benchmark, contest, engine, "train", "all")


@pytest.mark.parametrize("engine", ("ours", "tiktoken", "tokenizers", "rustbpe"))
@pytest.mark.parametrize("corpus", ("english", "code", "many scripts"))
def test_encode(benchmark, corpus, engine):
    race(benchmark, contest, engine, "encode", corpus)


def row(what: str, corpus: str, size: int, times: dict, ours: str, peer: str) -> dict:
    return {
        "what": what,
        "corpus": corpus,
        "ours MB/s": size / times[ours][0] / 1e6,
        "peer": peer,
        "peer MB/s": size / times[peer][0] / 1e6,
        "ratio": speedup(times, ours, peer),
    }


def training(texts: list[str], vocab_size: int, seconds: float) -> dict:
    """The row of ours against rustbpe, both on every thread."""
    times = interleave(
        {
            "ours": lambda: Tokenizer.train(texts, vocab_size, max_chars_per_document=1 << 40),
            "rustbpe": lambda: rustbpe_train(texts, vocab_size),
        },
        seconds,
        rounds=3,
    )
    size = sum(len(text.encode()) for text in texts)
    return row("train", "all", size, times, "ours", "rustbpe")


def encoding(name: str, texts: list[str], ours: Tokenizer, peers: Peers, rust, seconds: float) -> list[dict]:
    size = sum(len(text.encode()) for text in texts)
    expected = [peers.tiktoken.encode_ordinary(text) for text in texts]
    assert [ids.tolist() for ids in ours.encode_batch(texts)] == expected, f"ids of {name} differ from tiktoken's"
    assert ours.encode(texts[0]) == expected[0]
    some = list(islice(texts, max(1, len(texts) // 4)))  # for the slower peers
    some_size = sum(len(text.encode()) for text in some)
    assert [peers.tokenizers.encode(text, add_special_tokens=False).ids for text in some] == expected[: len(some)]
    assert [rust.encode(text) for text in some] == expected[: len(some)]

    fresh = []  # encoders that have seen no text, made before the clock starts
    ranks = ours.mergeable_ranks
    rounds = 4
    while len(fresh) <= rounds:
        fresh.append(Tokenizer.from_ranks(ranks))
    times = interleave(
        {
            "warm": lambda: ours.encode_batch(texts, threads=1),
            "lists": lambda: [ours.encode(text) for text in texts],
            "cold": lambda: fresh.pop().encode_batch(texts, threads=1),
            "tiktoken": lambda: [peers.tiktoken.encode_ordinary(text) for text in texts],
            "threads": lambda: ours.encode_batch(texts),
            "tiktoken threads": lambda: peers.tiktoken.encode_ordinary_batch(texts, num_threads=cpu_threads()),
        },
        seconds,
        rounds,
    )
    rows = [
        row("encode warm", name, size, times, "warm", "tiktoken"),
        row("encode warm to lists", name, size, times, "lists", "tiktoken"),
        row("encode cold", name, size, times, "cold", "tiktoken"),
        row(f"encode {cpu_threads()} threads", name, size, times, "threads", "tiktoken threads"),
    ]
    times = interleave(
        {
            "ours": lambda: ours.encode_batch(some, threads=1),
            "tokenizers": lambda: [peers.tokenizers.encode(text, add_special_tokens=False) for text in some],
            "rustbpe": lambda: [rust.encode(text) for text in some],
        },
        seconds,
        rounds,
    )
    rows += [row("encode warm", name, some_size, times, "ours", peer) for peer in ("tokenizers", "rustbpe")]
    arrays = [np.array(ids, dtype=np.uint32) for ids in expected]
    assert all(ours.decode(ids) == text for ids, text in zip(arrays, texts, strict=True))
    times = interleave(
        {
            "ours": lambda: [ours.decode(ids) for ids in arrays],
            "tiktoken": lambda: [peers.tiktoken.decode(ids) for ids in expected],
        },
        seconds,
        rounds,
    )
    return [*rows, row("decode", name, size, times, "ours", "tiktoken")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=4.0, help="of each corpus")
    parser.add_argument("--vocab-size", type=int, default=32768)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each comparison")
    args = parser.parse_args()
    texts, together, ours, rust = trained(args.megabytes, args.vocab_size)
    rows = [training(together, args.vocab_size, args.seconds)]
    peers = Peers(ours)
    for name, part in texts.items():
        rows += encoding(name, part, ours, peers, rust, args.seconds)
    report("bpe", rows)


if __name__ == "__main__":
    main()
