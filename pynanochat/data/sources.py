"""Where pretraining text comes from: the toy world, the Hub or a folder, behind one small interface.

    source = open_source("toyworld")                  # or "hub", "hub:NAME", or the path of a folder
    source.texts("train")                             # every document once, as strings
    source.documents("train", rank, world_size)       # (cursor, text) without end; the cursor resumes after it
    source.hash()                                     # identifies the data, saved with every checkpoint

A folder holds its shards in FOLDER/pretrain: *.parquet, *.jsonl, *.jsonl.gz, *.txt (readers.py says how each is read).
Shards whose name begins with `val` are validation; if there is none, the last by name is. A single shard is divided:
every twentieth document is validation.
Documents are dealt to ranks by their number in the epoch, whatever the number of shards, so that ranks see different
documents and all ranks together see every document. A cursor is a small dict of integers (JSON-able).
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pynanochat.data.readers import SUFFIXES, Rows, is_shard, open_parquet
from pynanochat.errors import DataError

HOLD_OUT = 20  # of a single shard every 20th document is validation
SPLITS = ("train", "val")


@dataclass(frozen=True)
class Shard:
    """One file of documents. `rows` is None where only a pass over the file can tell."""

    path: Path
    size: int
    rows: int | None = None

    @property
    def name(self) -> str:
        return self.path.name


def open_source(
    spec: str,
    *,
    seed: int = 0,
    toyworld_megabytes: float | None = None,
    toyworld_entities: int | None = None,
    cache_dir: str | Path | None = None,
    shards: int | None = None,
):
    """The source that `--data SPEC` names: `toyworld`, `hub`, `hub:NAME` or the path of a folder.

    seed, toyworld_megabytes and toyworld_entities shape the toy world; cache_dir and shards say where the Hub's files
    are kept and how many training shards are wanted. Raises DataError when the data cannot be had.
    """
    if spec == "toyworld":
        from pynanochat.data.toyworld_source import ToyWorldSource

        return ToyWorldSource(seed=seed, megabytes=toyworld_megabytes, entities=toyworld_entities)
    if spec == "hub" or spec.startswith("hub:"):
        from pynanochat.data.hub import fetch

        return fetch(spec[4:] or None, shards=shards, cache_dir=cache_dir)
    if not Path(spec).is_dir():
        raise DataError(f"--data {spec}: no such folder; use toyworld, hub, hub:NAME or a folder with pretrain/ in it")
    return FolderSource.open(spec)


def deal(cursor: dict | None, keys: tuple[str, ...]) -> dict:
    """A copy of `cursor` with exactly `keys`, all non-negative integers, or all zero for None. Raises DataError."""
    if cursor is None:
        return dict.fromkeys(keys, 0)
    if set(cursor) != set(keys) or not all(isinstance(cursor[key], int) and cursor[key] >= 0 for key in keys):
        raise DataError(f"data cursor {cursor}: it does not belong to this kind of data; resume with the same --data")
    return dict(cursor)


def check_split(split: str) -> None:
    if split not in SPLITS:
        raise ValueError(f"split {split!r}: one of {SPLITS}")


class FolderSource:
    """Shards on disk. `train` and `val` are lists of paths; equal lists of one file mean that it is divided."""

    def __init__(self, name: str, train: list[Path], val: list[Path], digests: dict[Path, str] | None = None):
        self.name = name
        self.divided = train == val
        self._digests = digests or {}
        looked_at = {path: look_at(path) for path in {*train, *val}}
        self._shards = {"train": [looked_at[path] for path in train], "val": [looked_at[path] for path in val]}
        self._hash: str | None = None
        if self.divided and next(self.documents("val", epochs=1), None) is None:
            raise DataError(
                f"{train[0]}: the only shard, with fewer than {HOLD_OUT} documents, so that none can be held out; "
                "add a validation shard named val*"
            )

    @classmethod
    def open(cls, folder: str | Path) -> "FolderSource":
        """The source of FOLDER/pretrain. Raises DataError where there are no shards or one of them is bad."""
        where = Path(folder) / "pretrain"
        if not where.is_dir():
            raise DataError(f"--data {folder}: it has no subfolder pretrain; put shards ({', '.join(SUFFIXES)}) in it")
        paths = sorted((path for path in where.iterdir() if is_shard(path)), key=lambda path: path.name)
        if not paths:
            raise DataError(f"{where}: no shards; put {', '.join('*' + suffix for suffix in SUFFIXES)} files there")
        return cls(str(folder), *split_by_name(paths))

    def shards(self, split: str) -> list[Shard]:
        """The shards of a split, in the order in which they are read."""
        check_split(split)
        return self._shards[split]

    def hash(self) -> str:
        """A SHA-256 over the names, sizes and contents of all shards (hex). Reads every file once, in parallel."""
        if self._hash is None:
            every = [(split, shard) for split in SPLITS for shard in self._shards[split]]
            with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
                digests = list(pool.map(lambda item: self._digests.get(item[1].path) or digest(item[1].path), every))
            lines = [f"{split} {s.name} {s.size} {d}\n" for (split, s), d in zip(every, digests, strict=True)]
            self._hash = hashlib.sha256("".join(lines).encode()).hexdigest()
        return self._hash

    def texts(self, split: str) -> Iterator[str]:
        """Every document of the split once."""
        return (text for _, text in self.documents(split, epochs=1))

    def documents(
        self, split: str, rank: int = 0, world_size: int = 1, cursor: dict | None = None, epochs: int | None = None
    ) -> Iterator[tuple[dict, str]]:
        """(cursor, text) of this rank's documents; without end for `epochs=None`, else that many passes in all."""
        check_split(split)
        at = deal(cursor, ("epoch", "shard", "row", "index"))
        shards = self._shards[split]
        kept, count = self._hold_out(split)
        while epochs is None or at["epoch"] < epochs:
            whole, found = at["shard"] == at["row"] == 0, False
            while at["shard"] < len(shards):
                base = at["index"] - count(at["row"])
                mine = lambda row, base=base: kept(row) and (base + count(row)) % world_size == rank  # noqa: E731
                rows = Rows(shards[at["shard"]].path, at["row"], mine)
                for row, text in rows:
                    found = True
                    at |= {"row": row + 1, "index": base + count(row + 1)}
                    yield dict(at), text
                at |= {"shard": at["shard"] + 1, "row": 0, "index": base + count(rows.count)}
            if whole and not found and epochs is None:
                raise DataError(
                    f"{self.name}: rank {rank} of {world_size} finds no {split} document with text; "
                    "add documents or use fewer ranks"
                )
            at = {"epoch": at["epoch"] + 1, "shard": 0, "row": 0, "index": 0}

    def _hold_out(self, split: str) -> tuple[Callable[[int], bool], Callable[[int], int]]:
        """Which rows of a shard belong to the split, and how many such rows come before a row."""
        if not self.divided:
            return lambda row: True, lambda row: row
        if split == "val":
            return lambda row: row % HOLD_OUT == HOLD_OUT - 1, lambda row: row // HOLD_OUT
        return lambda row: row % HOLD_OUT != HOLD_OUT - 1, lambda row: row - row // HOLD_OUT


def split_by_name(paths: list[Path]) -> tuple[list[Path], list[Path]]:
    """(train, val) of paths sorted by name: val* are validation, else the last one; a single one is given as both."""
    val = [path for path in paths if path.name.startswith("val")]
    train = [path for path in paths if path not in val]
    if not train:
        raise DataError(f"{paths[0].parent}: every shard is named val*; add a training shard with another name")
    if val or len(train) == 1:
        return train, val or train
    return train[:-1], train[-1:]


def look_at(path: Path) -> Shard:
    """The Shard of a file that is not empty and, for parquet, whose footer and column are right. Raises DataError."""
    size = path.stat().st_size
    if size == 0:
        raise DataError(f"{path}: the file is empty; delete it or copy it again")
    if not path.name.endswith(".parquet"):
        return Shard(path, size)
    with open_parquet(path) as file:
        rows = file.metadata.num_rows
    if rows == 0:
        raise DataError(f"{path}: the file has no rows; delete it or write it again")
    return Shard(path, size, rows)


def digest(path: Path) -> str:
    """The SHA-256 of a file (hex)."""
    sha = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                sha.update(block)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the file") from None
    return sha.hexdigest()
