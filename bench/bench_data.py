"""The data loader: packing against a plain scan of the buffer, reading against pyarrow alone, text of the toy world.

    python -m pynanochat.bench.bench_data [--data FOLDER] [--seq-len 512] [--seconds 4]
    pytest bench/bench_data.py --benchmark-enable

Packing is first shown to give the rows of a loop that looks at every document of the buffer for each piece, as loaders
of this family do. `loader` is everything: reading, tokenizing (vocabulary 32,768, one thread) and packing.
"""

import argparse
import functools
from itertools import cycle, islice

import numpy as np
import pytest

from pynanochat import _C
from pynanochat.bench.harness import interleave, race, report, speedup
from pynanochat.data import PackedLoader, open_source
from pynanochat.data.packing import REFILL, DocumentBuffer
from pynanochat.data.readers import BATCH_ROWS
from pynanochat.tokenizer import Tokenizer

BUFFER = 1000
ROWS = 2000


class ScanBuffer:
    """What DocumentBuffer does, by looking at every document each time."""

    def __init__(self):
        self.documents = []

    def __len__(self):
        return len(self.documents)

    def add(self, tokens):
        self.documents.append(tokens)

    def take(self, room):
        best = -1
        for i, tokens in enumerate(self.documents):
            if len(tokens) <= room and (best < 0 or len(tokens) > len(self.documents[best])):
                best = i
        if best < 0:
            shortest = min(len(tokens) for tokens in self.documents)
            best = max(i for i, tokens in enumerate(self.documents) if len(tokens) == shortest)
        return self.documents.pop(best)


def pack(buffer, documents, seq_len, rows):
    """`rows` rows from `documents`, an endless cycle of token arrays, with any buffer."""
    out = np.empty((rows, seq_len + 1), np.int32)
    source = cycle(documents)
    for row in out:
        at = 0
        while at < len(row):
            while len(buffer) < BUFFER:
                for document in islice(source, REFILL):
                    buffer.add(document)
            piece = buffer.take(len(row) - at)[: len(row) - at]
            row[at : at + len(piece)] = piece
            at += len(piece)
    return out


def learn(source, seq_len):
    """A tokenizer of some of the source's text, and that text as ids to pack."""
    texts = list(islice(source.texts("train"), 4000))
    tokenizer = Tokenizer.train(texts, vocab_size=32768)
    return tokenizer, tokenizer.encode_batch(texts)


def pack_in_c(bare, seq_len, rows):
    """What `pack` does, by the loader's own packer, which puts bos (here 0) before each document itself."""
    packer, out, at = _C.Packer(seq_len + 1), np.empty((rows, seq_len + 1), np.int32), 0
    source = cycle(bare)
    while at < out.size:
        while len(packer) < BUFFER:
            packer.add(0, islice(source, REFILL))
        at = packer.fill(out, at, BUFFER)
    return out


def packing_contest(bare, seq_len) -> dict:
    """engine -> packing of ROWS rows; first, the rows of all must be equal."""
    documents = [np.array([0, *ids[:seq_len]], np.int32) for ids in bare]
    ours = pack_in_c(bare, seq_len, 300)
    for buffer in (DocumentBuffer, ScanBuffer):
        assert np.array_equal(ours, pack(buffer(), documents, seq_len, 300))
    return {
        "packer": lambda: pack_in_c(bare, seq_len, ROWS),
        "bisection": lambda: pack(DocumentBuffer(), documents, seq_len, ROWS),
        "scan": lambda: pack(ScanBuffer(), documents, seq_len, ROWS),
    }


@functools.lru_cache(maxsize=1)
def contest(seq_len: int) -> dict:
    """Packing, and the whole loader (as many rows), on text of the toy world."""
    source = open_source("toyworld")
    tokenizer, documents = learn(source, seq_len)
    loader = PackedLoader(source, tokenizer, batch_size=ROWS, seq_len=seq_len)
    return {**packing_contest(documents, seq_len), "loader": lambda: next(loader)}


@pytest.mark.parametrize("engine", ("packer", "bisection", "scan", "loader"))
def test_data(benchmark, engine):
    race(benchmark, contest, engine, 512)


def packing(documents, seq_len, seconds) -> dict:
    """Proof of equal rows, then the times of all."""
    times = interleave(packing_contest(documents, seq_len), seconds)
    tokens = ROWS * (seq_len + 1)
    return {
        "case": "packing alone",
        "M tokens/s": tokens / times["packer"][0] / 1e6,
        "times a bisection in Python": speedup(times, "packer", "bisection"),
        "times a scan in Python": speedup(times, "packer", "scan"),
    }


def loading(name, source, tokenizer, seq_len, seconds) -> dict:
    """Tokens a second of the whole loader on one thread: reading, tokenizing with a warm cache, packing."""
    loader = PackedLoader(source, tokenizer, batch_size=16, seq_len=seq_len, threads=1)
    next(loader)
    texts = list(islice(source.texts("train"), 2000))
    tokens = sum(len(ids) + 1 for ids in tokenizer.encode_batch(texts))
    batches = max(1, tokens // (16 * (seq_len + 1)))
    times = interleave({"loader": lambda: [next(loader) for _ in range(batches)]}, seconds)
    return {
        "case": f"loader, {name}",
        "M tokens/s": batches * 16 * (seq_len + 1) / times["loader"][0] / 1e6,
        "cropped": loader.cropped_tokens / max(1, loader.cropped_tokens + loader.given_tokens),
    }


def reading(source, seconds) -> dict:
    """Our reader of a parquet shard against pyarrow's own batches as Python strings."""
    import pyarrow.parquet as pq

    shard = source.shards("train")[0]

    def plain():
        with pq.ParquetFile(shard.path) as file:
            batches = file.iter_batches(BATCH_ROWS, columns=["text"])
            return sum(len(text) for batch in batches for text in batch.column(0).to_pylist())

    def ours():
        documents = source.documents("train", epochs=1)
        return sum(len(text) for _, text in islice(documents, shard.rows))

    assert ours() == plain()
    times = interleave({"ours": ours, "pyarrow": plain}, seconds)
    return {
        "case": "reading parquet",
        "M characters/s": plain() / times["ours"][0] / 1e6,
        "times pyarrow alone": speedup(times, "ours", "pyarrow"),
    }


def writing(source, seconds) -> dict:
    """The speed at which the toy world writes itself."""
    size = sum(len(text.encode()) for _, text in source.world.documents("train", 0, 2000))
    write = {"write": lambda: sum(len(text) for _, text in source.world.documents("train", 0, 2000))}
    return {"case": "toy world text", "MB/s": size / interleave(write, seconds)["write"][0] / 1e6}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("--data", help="a folder with parquet shards, to measure real text as well")
    p.add_argument("--seq-len", type=int, default=512)
    p.add_argument("--seconds", type=float, default=4.0, help="for each line of the table")
    args = p.parse_args()
    toy = open_source("toyworld")
    sources = {"toy world": toy} | ({"folder": open_source(args.data)} if args.data else {})
    table = [writing(toy, args.seconds)]
    for name, source in sources.items():
        tokenizer, documents = learn(source, args.seq_len)
        table.append(packing(documents, args.seq_len, args.seconds) | {"text": name})
        table.append(loading(name, source, tokenizer, args.seq_len, args.seconds))
        if name == "folder":
            table.append(reading(source, args.seconds))
    report("data", table)


if __name__ == "__main__":
    main()
