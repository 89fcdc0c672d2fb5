"""`pynanochat tokenizer train|eval|show`.

pynanochat tokenizer train --data FOLDER --out FOLDER [--vocab-size 32768]
pynanochat tokenizer eval --tokenizer FOLDER [--data FOLDER] [--reference tokenizer.json ...]
pynanochat tokenizer show --tokenizer FOLDER ["some text" | < file]
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pynanochat.data.sources import open_source
from pynanochat.errors import DataError
from pynanochat.tokenizer.bpe import Tokenizer
from pynanochat.tokenizer.passages import PASSAGES
from pynanochat.tokenizer.references import references

_COLOURS = ("black on light_sky_blue1", "black on light_goldenrod1", "black on pale_green1", "black on plum2")
_SAMPLE_DOCUMENTS = 1000  # of each split, for eval


def parser() -> argparse.ArgumentParser:
    """The command line of `pynanochat tokenizer`."""
    top = argparse.ArgumentParser("pynanochat tokenizer", description="Train, measure or look at a tokenizer.")
    commands = top.add_subparsers(dest="command", required=True)

    def command(name: str, what: str):
        sub = commands.add_parser(name, help=what, description=what)
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        return sub

    train = command("train", "Train a tokenizer on some data.")
    train.add_argument("--data", default="toyworld", help="toyworld, hub, hub:NAME or a folder")
    train.add_argument("--out", type=Path, required=True, help="folder for tokenizer.json and its companions")
    train.add_argument("--vocab-size", type=int, default=32768, help="tokens, the nine special ones included")
    train.add_argument("--max-chars", type=int, default=2_000_000_000, help="characters read at most")
    train.add_argument("--max-chars-per-document", type=int, default=10_000, help="characters of each text at most")
    train.add_argument("--threads", type=int, help="default: every processor")
    measure = command("eval", "Bytes per token on several kinds of text, beside other vocabularies on this disk.")
    measure.add_argument("--tokenizer", type=Path, required=True, help="folder with tokenizer.json")
    measure.add_argument("--data", help="also measure on this data: toyworld, hub, hub:NAME or a folder")
    measure.add_argument("--reference", action="append", default=[], help="a tokenizer.json or .tiktoken file")
    measure.add_argument("--json", action="store_true", help="print one JSON line and no table")
    show = command("show", "Print a text with its tokens in colour, and their ids.")
    show.add_argument("--tokenizer", type=Path, required=True, help="folder with tokenizer.json")
    show.add_argument("text", nargs="?", help="the text; without it, standard input")
    show.add_argument("--ids", action="store_true", help="print the ids too")
    return top


def main(argv: list[str]) -> None:
    """Run `pynanochat tokenizer ARGV`."""
    args = parser().parse_args(argv)
    console = Console(highlight=False)
    if args.command == "train":
        _train(args, console)
    elif args.command == "eval":
        _eval(args, console)
    else:
        _show(args, console)


def _train(args, console: Console) -> None:
    read = 0

    def counted(texts: Iterable[str]):
        nonlocal read
        for text in texts:
            read += min(len(text), args.max_chars_per_document)
            yield text

    started = time.perf_counter()
    tokenizer = Tokenizer.train(
        counted(open_source(args.data).texts("train")),
        vocab_size=args.vocab_size,
        threads=args.threads,
        max_chars=args.max_chars,
        max_chars_per_document=args.max_chars_per_document,
    )
    seconds = time.perf_counter() - started
    tokenizer.save(args.out)
    console.print(
        f"{len(tokenizer):,} tokens from {min(read, args.max_chars):,} characters in {seconds:.1f} s -> {args.out}"
    )
    if len(tokenizer) < args.vocab_size:
        console.print(f"the text has no more pairs to merge, so there are fewer than {args.vocab_size:,} tokens")


def _eval(args, console: Console) -> None:
    tokenizer = Tokenizer.load(args.tokenizer)
    counters: dict[str, Callable[[str], int]] = {"ours": lambda text: len(tokenizer.encode_array(text))}
    counters |= references(args.reference)
    texts = {name: [passage] for name, passage in PASSAGES.items()}
    if args.data:
        source = open_source(args.data)
        texts |= {split: list(islice(source.texts(split), _SAMPLE_DOCUMENTS)) for split in ("train", "val")}
    rows = {kind: compression(sample, counters) for kind, sample in texts.items()}
    if args.json:
        print(json.dumps({"vocab_size": len(tokenizer), "bytes_per_token": rows}))
        return
    table = Table("text", "bytes", *counters, title="bytes per token (more is better)")
    for kind, row in rows.items():
        size = sum(len(text.encode("utf-8", "replace")) for text in texts[kind])
        best = max(row.values())
        cells = [f"[bold]{value:.3f}[/]" if value == best else f"{value:.3f}" for value in row.values()]
        table.add_row(kind, f"{size:,}", *cells)
    console.print(table)
    if len(counters) == 1:
        console.print(
            "no other vocabulary was found on this disk: give --reference FILE, or fill tiktoken's cache with "
            "tiktoken.get_encoding('gpt2') and ('cl100k_base') where there is a network"
        )


def compression(texts: list[str], counters: dict[str, Callable[[str], int]]) -> dict[str, float]:
    """UTF-8 bytes per token of `texts` together, by each counter of tokens."""
    size = sum(len(text.encode("utf-8", "replace")) for text in texts)
    return {name: round(size / max(1, sum(map(count, texts))), 4) for name, count in counters.items()}


def _show(args, console: Console) -> None:
    tokenizer = Tokenizer.load(args.tokenizer)
    try:
        text = args.text if args.text is not None else sys.stdin.read()
    except UnicodeDecodeError as error:
        raise DataError(
            f"standard input is not UTF-8 ({error.reason} at byte {error.start}); convert it first"
        ) from None
    ids = tokenizer.encode(text)
    console.print(coloured(tokenizer, ids))
    size = len(text.encode("utf-8", "replace"))
    console.print(f"{len(ids):,} tokens, {size:,} bytes, {size / max(1, len(ids)):.2f} bytes a token")
    if args.ids:
        console.print(" ".join(map(str, ids)))


def coloured(tokenizer, ids: list[int]) -> Text:
    """The text of `ids`, neighbouring tokens on different colours; line ends show as `↵`, broken characters in hex."""
    result = Text()
    for number, id in enumerate(ids):
        token = tokenizer.token_bytes(id)
        try:
            piece = token.decode("utf-8")
        except UnicodeDecodeError:
            piece = "".join(f"<{byte:02X}>" for byte in token)
        lines = piece.replace("\r", "\\r").split("\n")
        for line, text in enumerate(lines):
            last = line == len(lines) - 1
            result.append(text if last else text + "↵", style=_COLOURS[number % len(_COLOURS)])
            if not last:
                result.append("\n")
    return result
