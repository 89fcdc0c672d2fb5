"""Time and memory of the tokenizer on hostile input: time(2n) / time(n), which is 2 where the time is linear.

    python -m pynanochat.bench.bench_bpe_hostile [--repetitions 1000000] [--rounds 3]

Each text of n units is split, encoded by an encoder that has seen no text, and trained on, all on one thread; the
hostile vocabularies encode the text that is worst for them. Each time is the best of some rounds, more where they are
short. "MB" is the memory that the call of 2n units had at its height, less what there was before.
"""

import argparse
import functools
import random
import string
import time
from pathlib import Path

from pynanochat import _C
from pynanochat.bench.harness import report
from pynanochat.tokenizer import Tokenizer

REPEATED = (
    "^",
    "0",
    "a",
    "'s",
    " ",
    "\n",
    "\u0301",
    "\U0010ffff",
    "ab",
    " a",
    "a\n",
    " \n",
    "\n ",
    "^\n",
    "'",
    "中",
    "é ",
)


def letters(size: int, seed: int = 0) -> str:
    return "".join(random.Random(seed).choices(string.ascii_lowercase, k=size))


def words(n: int, size: int) -> str:
    """About n characters of distinct words of `size` bytes, a space included."""
    text = letters(n)
    return "".join(" " + text[i : i + size - 1] for i in range(0, n, size))


def words_in_turn(n: int) -> str:
    """A million characters of words again and again: more than the cache holds, so that it never helps."""
    cycle = words(min(n, 1_200_000), 6)
    return (cycle * (n // len(cycle) + 1))[:n]


def words_of_one_hash(n: int) -> str:
    """Words that all had the same hash while its constants were known: what follows the first 24 bytes fell out."""
    return "\n".join("nqxdegfoeazrtkdnPRZJvAHe" + letters(8, seed) for seed in range(n // 33))


def characters(n: int, first: int, last: int) -> str:
    return "".join(map(chr, random.Random(0).choices(range(first, last), k=n // 3)))


def two_letters(n: int) -> str:
    return "".join(random.Random(0).choices("ab", k=n))


# name -> a text of n units (of a byte, for those that are no repetition).
TEXTS = {f"{unit!r} repeated": functools.partial(lambda unit, n: unit * n, unit) for unit in REPEATED} | {
    "distinct words of 5 bytes": lambda n: words(n, 5),
    "distinct words of 16 bytes": lambda n: words(n, 16),
    "distinct words of 300 bytes": lambda n: words(n, 300),
    "distinct words of 5000 bytes": lambda n: words(n, 5000),
    "one word of random letters": letters,
    "one word of two letters": two_letters,
    "words in turn": words_in_turn,
    "words of one hash": words_of_one_hash,
    "chinese without spaces": lambda n: characters(n, 0x4E00, 0x9FA0),
    "korean without spaces": lambda n: characters(n, 0xAC00, 0xD7A0),
}


def ranks(tokens, seed: int | None = None) -> dict[bytes, int]:
    """The single bytes and `tokens` in their order, or in a random one."""
    table = [bytes([byte]) for byte in range(256)] + [token.encode() for token in tokens]
    if seed is not None:
        random.Random(seed).shuffle(table)
    return {token: rank for rank, token in enumerate(table)}


def words_of_two_letters(longest: int) -> list[str]:
    return [f"{i:0{size}b}".translate({48: "a", 49: "b"}) for size in range(2, longest + 1) for i in range(1 << size)]


# name -> (a table of ranks, the text of n units that is worst for it)
VOCABULARIES = {
    "powers of two of a letter": (lambda: ranks("a" * (1 << k) for k in range(1, 17)), lambda n: "a" * n),
    "all runs of a letter": (lambda: ranks("a" * k for k in range(2, 400)), lambda n: "a" * n),
    "all runs of a letter, shuffled": (lambda: ranks(("a" * k for k in range(2, 400)), seed=1), lambda n: "a" * n),
    "the longest run first": (lambda: ranks("a" * k for k in range(400, 1, -1)), lambda n: "a" * n),
    "merges trained on runs": (
        lambda: Tokenizer.train(["a" * k for k in range(1, 500)], 400).mergeable_ranks,
        lambda n: "a" * n,
    ),
    "every merge makes two more": (lambda: ranks(words_of_two_letters(11)), two_letters),
    "every merge makes two more, shuffled": (lambda: ranks(words_of_two_letters(11), seed=2), two_letters),
}


@functools.cache
def usual() -> dict[bytes, int]:
    rng = random.Random(7)
    list_of_words = ["".join(rng.choices("etaoinshrdlucmfwyp", k=rng.randint(1, 9))) for _ in range(3000)]
    return Tokenizer.train([" ".join(rng.choices(list_of_words, k=50_000)), "中文 한국어"], 4096).mergeable_ranks


def train(text: str) -> Tokenizer:
    return Tokenizer.train([text], 600, threads=1, max_chars_per_document=len(text))


def measure(prepare, rounds: int) -> tuple[float, float]:
    """(best seconds of a call of what `prepare` gives, the MB that the last one took at its height)."""
    times, memory = [], float("nan")
    while len(times) < rounds or (sum(times) < 0.1 and len(times) < 10 * rounds):
        call = prepare()
        before = _reset_peak()
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
        memory = _status("VmHWM") - before
    return min(times), memory


def _status(name: str) -> float:
    """A line of the kernel's account of this process in MB; not a number where there is none."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1000


def _reset_peak() -> float:
    """What there is now, from which on the height is counted."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return float("nan")
    return _status("VmRSS")


def row(what: str, name: str, prepare, n: int, rounds: int) -> dict:
    once, _ = measure(prepare(n), rounds)
    twice, memory = measure(prepare(2 * n), rounds)
    return {"what": what, "text": name, "ms": once * 1e3, "time(2n)/time(n)": twice / once, "MB": memory}


def fresh_encoder(table: dict[bytes, int], text: str):
    def prepare():
        tokenizer = Tokenizer.from_ranks(table)
        tokenizer.encode("a")  # makes the caches
        return lambda: tokenizer.encode_array(text)

    return prepare


def contests(text):
    """what -> (n -> prepare) for a text of n units."""
    same = lambda call: lambda: call  # noqa: E731
    return {
        "split": lambda n: same(functools.partial(_C.bpe_split, text(n))),
        "encode": lambda n: fresh_encoder(usual(), text(n)),
        "train": lambda n: same(functools.partial(train, text(n))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=1_000_000, help="n")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    n, rounds = args.repetitions, args.rounds
    rows = [
        row(what, name, prepare, n, rounds) for name, text in TEXTS.items() for what, prepare in contests(text).items()
    ]
    for name, (table, text) in VOCABULARIES.items():
        known = table()
        rows.append(row("encode", name, lambda size, t=text, k=known: fresh_encoder(k, t(size)), n, rounds))
    report("bpe_hostile", rows)


if __name__ == "__main__":
    main()
