"""The tokenizer against every other that can be had, on the same text in the same run.

    [PYNANOCHAT_DATA=FOLDER] python -m pynanochat.bench.bench_bpe [--megabytes 4] [--vocab-size 32768] [--seconds 4]
    [PYNANOCHAT_DATA=FOLDER] pytest bench/bench_bpe.py --benchmark-enable

Three corpora: English (validation text of the data folder, or of the toy world), code (Python's own library), and
words of many scripts, generated. First merges must equal rustbpe's, and on every corpus ids those of all engines. Then
engines take turns: training on all corpora together, and on the whole data folder; encoding document by document
on one thread, with a cache that has seen the text (warm) and with a fresh encoder (cold); on all threads; decoding.

gigatoken, tokie and bpe-openai take part where they are installed. They do not know our split pattern: the first two
run beside us on the same merges with Qwen 2's pattern, bpe-openai on its own cl100k_base.
"""

import argparse
import functools
import json
import os
import random
import sysconfig
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
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

# Qwen 2's pattern as its own tokenizer.json spells it; gigatoken knows patterns by their letters.
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"
    r"|\s+(?!\S)|\s"
)
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


def rustbpe_train(texts: list[str], vocab_size: int):
    peer = rustbpe.Tokenizer()
    peer.train_from_iterator(iter(texts), vocab_size - len(SPECIAL_TOKENS), pattern=Tokenizer.pattern)
    return peer


def train(texts: list[str], vocab_size: int) -> Tokenizer:
    return Tokenizer.train(texts, vocab_size, max_chars_per_document=1 << 40)


@functools.lru_cache(maxsize=1)
def trained(megabytes: float, vocab_size: int):
    """The corpora, our tokenizer of all of them and rustbpe's, whose merges are equal."""
    texts = corpora(int(megabytes * 1e6))
    together = [text for part in texts.values() for text in part]
    ours, theirs = train(together, vocab_size), rustbpe_train(together, vocab_size)
    assert ours.mergeable_ranks == {bytes(token): rank for token, rank in theirs.get_mergeable_ranks()}, "merges"
    return texts, together, ours, theirs


@dataclass
class Engine:
    """How one tokenizer is called. Each function takes all documents: strings, or for `decode` their ids."""

    encode: Callable  # on one thread
    threads: Callable | None = None  # on all
    decode: Callable | None = None
    fresh: Callable | None = None  # another `encode` with empty caches


def our_engine(make) -> Engine:
    ours = make()

    def fresh():
        new = make()
        return lambda texts: new.encode_batch(texts, threads=1)

    return Engine(lambda texts: ours.encode_batch(texts, threads=1), ours.encode_batch, ours.decode_batch, fresh)


def tiktoken_engine(ranks, pattern) -> Engine:
    peer = tiktoken.Encoding("peer", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return Engine(
        lambda texts: [peer.encode_ordinary(text) for text in texts],
        lambda texts: peer.encode_ordinary_batch(texts, num_threads=cpu_threads()),
        lambda batch: [peer.decode(ids) for ids in batch],
    )


def tokenizers_engine(path: str) -> Engine:
    peer = tokenizers.Tokenizer.from_file(path)
    peer.encode_special_tokens = True
    return Engine(
        lambda texts: [peer.encode(text, add_special_tokens=False).ids for text in texts],
        lambda texts: [found.ids for found in peer.encode_batch(texts, add_special_tokens=False)],
        lambda batch: [peer.decode(ids) for ids in batch],
    )


def gigatoken_engine(path: str) -> Engine:
    def encode(peer):
        return lambda texts: [peer.encode(text) for text in texts]

    make = import_module("gigatoken").Tokenizer
    peer = make(path)
    return Engine(encode(peer), peer.encode_batch, None, lambda: encode(make(path)))


def tokie_engine(path: str) -> Engine:
    def encode(peer):
        return lambda texts: [peer.encode(text, add_special_tokens=False).ids for text in texts]

    make = import_module("tokie").Tokenizer.from_json
    peer = make(path)
    return Engine(
        encode(peer),
        lambda texts: [found.ids for found in peer.encode_batch(texts, add_special_tokens=False)],
        lambda batch: [peer.decode(ids) for ids in batch],
        lambda: encode(make(path)),
    )


def field_of_ours(ours: Tokenizer, rust) -> dict[str, Engine]:
    """Those that run our pattern."""
    ranks = ours.mergeable_ranks
    with tempfile.TemporaryDirectory() as folder:
        ours.save(folder)
        hugging_face = tokenizers_engine(str(Path(folder) / "tokenizer.json"))
    return {
        "ours": our_engine(lambda: Tokenizer.from_ranks(ranks)),
        "tiktoken": tiktoken_engine(ranks, ours.pattern),
        "tokenizers": hugging_face,
        "rustbpe": Engine(lambda texts: [rust.encode(text) for text in texts]),
    }


def field_of_qwen(ours: Tokenizer) -> dict[str, Engine]:
    """Those that run Qwen 2's pattern, on our merges."""
    ranks = ours.mergeable_ranks
    engines = {
        "ours": our_engine(lambda: Tokenizer.from_ranks(ranks, pattern="qwen2")),
        "tiktoken": tiktoken_engine(ranks, QWEN2),
    }
    with tempfile.TemporaryDirectory() as folder:
        Tokenizer.from_ranks(ranks, pattern="qwen2").save(folder)
        path = Path(folder) / "tokenizer.json"
        content = json.loads(path.read_text(encoding="utf-8"))
        content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = QWEN2
        path = Path(tempfile.mkdtemp()) / "tokenizer.json"  # stays: fresh engines read it
        path.write_text(json.dumps(content), encoding="utf-8")
    for name, make in (("gigatoken", gigatoken_engine), ("tokie", tokie_engine)):
        if find_spec(name):
            engines[name] = make(str(path))
    return engines


def field_of_cl100k() -> dict[str, Engine]:
    """Those that run GPT-4's vocabulary, which comes with bpe-openai; none without it."""
    if not find_spec("bpe_openai"):
        return {}
    peer = import_module("bpe_openai").get_encoding("cl100k_base")
    ranks = {peer.decode_single_token_bytes(id): id for id in range(100_256)}
    return {
        "ours": our_engine(lambda: Tokenizer.from_ranks(ranks, pattern="cl100k")),
        "tiktoken": tiktoken_engine(ranks, CL100K),
        "bpe-openai": Engine(
            lambda texts: [peer.encode_ordinary(text) for text in texts],
            None,
            lambda batch: [peer.decode(ids) for ids in batch],
        ),
    }


def check(engines: dict[str, Engine], texts: list[str]) -> tuple[list[list[int]], dict[str, int]]:
    """The ids of each text as tiktoken has them, which must be ours, and in how many texts a peer has others."""
    expected = engines["tiktoken"].encode(texts)
    differing = {}
    for name, engine in engines.items():
        for encode in filter(None, (engine.encode, engine.threads)):
            found = encode(texts)
            differing[name] = sum(list(a) != b for a, b in zip(found, expected, strict=True))
            assert not differing[name] or name != "ours", "our ids differ from tiktoken's"
        if engine.decode:
            assert engine.decode(expected) == texts, f"{name} decodes otherwise"
    return expected, differing


def rows_of(field: str, corpus: str, engines: dict[str, Engine], texts: list[str], seconds: float) -> list[dict]:
    """A row for each engine: MB/s of each kind of work, and of warm encoding how many times faster ours is."""
    ids, differing = check(engines, texts)
    arrays = [np.array(one, np.uint32) for one in ids]
    rounds = 5
    fresh = {name: [e.fresh() for _ in range(rounds + 1)] for name, e in engines.items() if e.fresh}
    jobs = {
        "warm": {name: functools.partial(e.encode, texts) for name, e in engines.items()},
        "cold": {name: lambda name=name: fresh[name].pop()(texts) for name in fresh},
        "threads": {name: functools.partial(e.threads, texts) for name, e in engines.items() if e.threads},
        "decode": {
            name: functools.partial(e.decode, arrays if name == "ours" else ids)
            for name, e in engines.items()
            if e.decode
        },
    }
    for engine in engines.values():
        for _ in range(4 if engine.threads else 0):  # each thread's cache has then seen all texts
            engine.threads(texts)
    size = sum(len(text.encode()) for text in texts)
    rows = {name: {"field": field, "corpus": corpus, "engine": name} for name in engines}
    for what, functions in jobs.items():
        times = interleave(functions, seconds, rounds)
        for name in functions:
            rows[name][f"{what} MB/s"] = size / times[name][0] / 1e6
            if name != "ours":
                rows[name][f"ours {what}"] = f"{speedup(times, 'ours', name):.3g}x"
        if what == "cold" and "tiktoken" in engines:  # it keeps nothing, so that its warm is its cold
            rows["ours"]["cold / tiktoken"] = rows["ours"]["cold MB/s"] / rows["tiktoken"]["warm MB/s"]
    for name, count in differing.items():
        if count:
            rows[name]["ids"] = f"differ in {count} of {len(texts)} texts"
    return list(rows.values())


def training(name: str, texts: list[str], vocab_size: int, seconds: float) -> dict:
    """Ours against rustbpe, both on every thread; merges are equal."""
    ours, theirs = train(texts, vocab_size), rustbpe_train(texts, vocab_size)
    assert ours.mergeable_ranks == {bytes(token): rank for token, rank in theirs.get_mergeable_ranks()}, "merges"
    functions = {"ours": lambda: train(texts, vocab_size), "rustbpe": lambda: rustbpe_train(texts, vocab_size)}
    times = interleave(functions, seconds, rounds=5)
    size = sum(len(text.encode()) for text in texts)
    return {
        "train": name,
        "MB": size / 1e6,
        "vocabulary": vocab_size,
        "ours MB/s": size / times["ours"][0] / 1e6,
        "rustbpe MB/s": size / times["rustbpe"][0] / 1e6,
        "ours": f"{speedup(times, 'ours', 'rustbpe'):.3g}x",
    }


@functools.lru_cache(maxsize=1)
def contest(what: str, corpus: str) -> dict:
    """engine -> training on all corpora, or encoding of one on one thread; merges and ids are equal."""
    texts, together, ours, rust = trained(1.0, 8192)
    if what == "train":
        return {"ours": lambda: train(together, 8192), "rustbpe": lambda: rustbpe_train(together, 8192)}
    engines, part = field_of_ours(ours, rust), texts[corpus]
    check(engines, part)
    return {name: functools.partial(engine.encode, part) for name, engine in engines.items()}


@pytest.mark.parametrize("engine", ("ours", "rustbpe"))
def test_train(benchmark, engine):
    race(benchmark, contest, engine, "train", "all")


@pytest.mark.parametrize("engine", ("ours", "tiktoken", "tokenizers", "rustbpe"))
@pytest.mark.parametrize("corpus", ("english", "code", "many scripts"))
def test_encode(benchmark, corpus, engine):
    race(benchmark, contest, engine, "encode", corpus)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=float, default=4.0, help="of each corpus")
    parser.add_argument("--vocab-size", type=int, default=32768)
    parser.add_argument("--seconds", type=float, default=4.0, help="for each comparison")
    args = parser.parse_args()
    texts, together, ours, rust = trained(args.megabytes, args.vocab_size)
    rows = []
    fields = {"ours": field_of_ours(ours, rust), "qwen2": field_of_qwen(ours), "cl100k_base": field_of_cl100k()}
    for field, engines in fields.items():
        for corpus, part in texts.items():
            rows += rows_of(field, corpus, engines, part, args.seconds) if engines else []
    rows.append(training("the corpora", together, args.vocab_size, args.seconds))
    if "PYNANOCHAT_DATA" in os.environ:
        everything = list(open_source(os.environ["PYNANOCHAT_DATA"]).texts("train"))
        rows.append(training("the data folder", everything, args.vocab_size, args.seconds))
    report("bpe", rows)


if __name__ == "__main__":
    main()
