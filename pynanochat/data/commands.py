"""`pynanochat data list|show|toyworld|download`: look at, make or fetch pretraining data.

pynanochat data list --data FOLDER                  # splits, shards, documents, bytes
pynanochat data show --data toyworld --count 3      # some documents; --facts lists the toy world's facts
pynanochat data toyworld --out FOLDER --megabytes 20 --format parquet
pynanochat data download --name climbmix --shards 8
"""

import argparse
import gzip
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from pynanochat.data.hub import DEFAULT_NAME, DEFAULT_SHARDS, fetch
from pynanochat.data.sources import SPLITS, open_source
from pynanochat.data.toyworld import DEFAULT_ENTITIES
from pynanochat.data.toyworld_source import DEFAULT_MEGABYTES, ToyWorldSource
from pynanochat.errors import DataError, UsageError

FORMATS = ("parquet", "jsonl.gz")
SHARD_DOCUMENTS = 8192
SAMPLE = 2000  # documents read where a file does not say how many it has


def parser() -> argparse.ArgumentParser:
    """The command line of `pynanochat data`."""
    top = argparse.ArgumentParser("pynanochat data", description="Look at, make or fetch pretraining data.")
    commands = top.add_subparsers(dest="command", required=True)

    def command(name: str, what: str, source: bool = True):
        sub = commands.add_parser(name, help=what, description=what)
        sub.add_argument("--seed", type=int, default=0, help="seed of the toy world")
        sub.add_argument("--toyworld-entities", type=int, default=DEFAULT_ENTITIES, help="size of the toy world")
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        if source:
            sub.add_argument("--data", default="toyworld", help="toyworld, hub, hub:NAME or a folder")
            sub.add_argument("--toyworld-megabytes", type=float, default=DEFAULT_MEGABYTES, help="size of an epoch")
            sub.add_argument("--shards", type=int, help="training shards wanted from the Hub")
        return sub

    command("list", "Splits, shards, documents and bytes of some data.")
    show = command("show", "Print documents of some data.")
    show.add_argument("--split", choices=SPLITS, default="train")
    show.add_argument("--start", type=int, default=0, help="documents to pass over")
    show.add_argument("--count", type=int, default=5, help="documents to print")
    show.add_argument("--facts", action="store_true", help="print the facts of the toy world, one JSON object a line")
    make = command("toyworld", "Write the toy world's text as shards, to be used with --data FOLDER.", source=False)
    make.add_argument("--out", type=Path, required=True, help="folder; the shards go to FOLDER/pretrain")
    make.add_argument("--megabytes", type=float, default=DEFAULT_MEGABYTES, help="training text to write")
    make.add_argument("--format", choices=FORMATS, default="parquet")
    load = command("download", "Download shards from the Hugging Face Hub.", source=False)
    load.add_argument("--name", default=DEFAULT_NAME, help="climbmix, fineweb-edu or OWNER/NAME")
    load.add_argument(
        "--shards", type=int, default=DEFAULT_SHARDS, help="training shards; validation comes in addition"
    )
    load.add_argument("--cache-dir", type=Path, help="where files are kept (default $PYNANOCHAT_CACHE)")
    return top


def main(argv: list[str] | None = None) -> None:
    """Run one of the commands. Raises DataError or UsageError."""
    args = parser().parse_args(argv)
    {"list": list_data, "show": show_data, "toyworld": write_toyworld, "download": download}[args.command](args)


def source_of(args):
    return open_source(
        args.data,
        seed=args.seed,
        toyworld_megabytes=args.toyworld_megabytes,
        toyworld_entities=args.toyworld_entities,
        shards=args.shards,
    )


def list_data(args) -> None:
    """Print a table of the shards, or the toy world's measures."""
    source = source_of(args)
    print(f"{source.name}  data hash {source.hash()[:16]}")
    if isinstance(source, ToyWorldSource):
        world = source.world
        kinds = {"people": world.people, "towns": world.towns, "pets": world.pets, "goods": world.goods}
        kinds["foods"] = world.foods
        print(f"  {world.entities} entities: {', '.join(f'{len(items)} {kind}' for kind, items in kinds.items())}")
        print(f"  {len(world.facts()):,} facts")
        for split in SPLITS:
            count = source.counts[split]
            print(f"  {split:<5} {count:>9,} documents, about {count * mean_bytes(source, split) / 1e6:.1f} MB")
        return
    for split in SPLITS:
        for shard in source.shards(split):
            rows = f"{shard.rows:,} documents" if shard.rows is not None else "documents not counted"
            print(f"  {split:<5} {shard.name:<32} {shard.size / 1e6:>9.2f} MB  {rows}")
        print(f"  {split:<5} mean document {mean_bytes(source, split):,.0f} bytes (of the first {SAMPLE:,} at most)")
    if source.divided:
        print("  the only shard: every twentieth document is validation")


def mean_bytes(source, split: str) -> float:
    """The mean size of the first SAMPLE documents of a split."""
    sizes = [len(text.encode()) for text in islice(source.texts(split), SAMPLE)]
    if not sizes:
        raise DataError(f"{source.name}: the {split} split has no documents with text; add some")
    return sum(sizes) / len(sizes)


def show_data(args) -> None:
    """Print documents, or facts."""
    source = source_of(args)
    if args.facts:
        if not isinstance(source, ToyWorldSource):
            raise UsageError(f"--facts with --data {args.data}: only the toy world has facts; use --data toyworld")
        for fact in source.world.facts():
            print(json.dumps(vars(fact)))
        return
    for number, text in enumerate(islice(source.texts(args.split), args.start, args.start + args.count), args.start):
        print(f"--- {args.split} {number}: {len(text.encode()):,} bytes\n{text}\n")


def write_toyworld(args) -> None:
    """Write training shards and one validation shard, named so that a folder's rules find them."""
    source = ToyWorldSource(args.seed, args.megabytes, args.toyworld_entities)
    folder = args.out / "pretrain"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UsageError(f"--out {args.out}: {folder} is not empty; choose another folder or empty it")
        texts = source.texts("train")
        number = 0
        while batch := list(islice(texts, SHARD_DOCUMENTS)):
            report(write_shard(folder / f"shard_{number:05d}.{args.format}", batch), len(batch))
            number += 1
        batch = list(source.texts("val"))
        report(write_shard(folder / f"val.{args.format}", batch), len(batch))
    except OSError as error:
        raise UsageError(f"--out {args.out}: {error.strerror}; choose a folder that can be written") from None


def write_shard(path: Path, texts: list[str]) -> Path:
    """Write one shard in the format of its name; the same texts give the same bytes."""
    if path.name.endswith(".parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.table({"text": pa.array(texts, pa.string())})
        pq.write_table(table, path, compression="zstd", row_group_size=1024)
    else:
        with gzip.GzipFile(path, "wb", mtime=0) as file:
            for line in json_lines(texts):
                file.write(line)
    return path


def json_lines(texts: list[str]) -> Iterator[bytes]:
    return ((json.dumps({"text": text}, ensure_ascii=False) + "\n").encode() for text in texts)


def report(path: Path, documents: int) -> None:
    print(f"{path}: {documents:,} documents, {path.stat().st_size / 1e6:.2f} MB")


def download(args) -> None:
    """Fetch shards and say where they are."""
    source = fetch(args.name, shards=args.shards, cache_dir=args.cache_dir)
    size = sum(shard.size for split in SPLITS for shard in source.shards(split))
    where = source.shards("train")[0].path.parent
    print(f"{where}: {len(source.shards('train'))} training shards and validation, {size / 1e6:,.1f} MB, checked")
    print(f"use them with --data hub:{args.name}")
