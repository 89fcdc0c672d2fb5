"""Many sequences of conversations as one shuffled sequence.

    mixture = Mixture([(smoltalk, 1), (gsm8k, 4)], seed=0)      # every GSM8K item stands in it four times
    mixture[17]; len(mixture); mixture.hash()                   # the hash identifies what is in it, and in which order
    few = take(smoltalk, 10_000, seed=0)                        # 10,000 of its items, drawn once

A sequence is anything with len and [index]; it is only read when an item is asked for. One that has `hash()` says
itself what identifies its content, others are read through for it.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence

import numpy as np


def order(n: int, seed: int) -> np.ndarray:
    """A permutation of n, equal for a seed on every machine (RandomState is frozen by NumPy's policy)."""
    return np.random.RandomState(seed % (1 << 32)).permutation(n)


class Mixture:
    """The items of several sequences, each `copies` times, in an order that depends on the seed and the lengths."""

    def __init__(self, parts: Sequence[tuple[Sequence, int]], seed: int = 0):
        if any(copies < 0 for _, copies in parts):
            raise ValueError(f"copies {[copies for _, copies in parts]}: none may be negative")
        self.parts, self.seed = [(part, copies) for part, copies in parts if copies and len(part)], seed
        self._lengths = [len(part) for part, _ in self.parts]
        self._ends = np.cumsum([n * copies for n, (_, copies) in zip(self._lengths, self.parts, strict=True)])
        self._order = order(int(self._ends[-1]) if self.parts else 0, seed)

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, index: int) -> dict:
        if not -len(self) <= index < len(self):
            raise IndexError(f"item {index} of a mixture of {len(self)}")
        place = int(self._order[index])
        number = int(np.searchsorted(self._ends, place, side="right"))
        begin = int(self._ends[number - 1]) if number else 0
        return self.parts[number][0][(place - begin) % self._lengths[number]]

    def __iter__(self) -> Iterator[dict]:
        return (self[index] for index in range(len(self)))

    def hash(self) -> str:
        """A SHA-256 (hex) of the seed and of every part: its content, its length and its copies."""
        lines = [f"{content_hash(part)} {len(part)} {copies}\n" for part, copies in self.parts]
        return hashlib.sha256(f"mixture {self.seed}\n{''.join(lines)}".encode()).hexdigest()


class Part:
    """The items of a sequence at `indices`, in that order."""

    def __init__(self, sequence: Sequence, indices: Sequence[int]):
        self.sequence, self.indices = sequence, np.asarray(indices, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> dict:
        return self.sequence[int(self.indices[index])]

    def __iter__(self) -> Iterator[dict]:
        return (self[index] for index in range(len(self)))

    def hash(self) -> str:
        sha = hashlib.sha256(content_hash(self.sequence).encode())
        sha.update(self.indices.astype("<i8").tobytes())
        return sha.hexdigest()


def take(sequence: Sequence, n: int, seed: int) -> Sequence:
    """n items of a sequence, drawn without repetition; the whole sequence where it has no more than n."""
    return sequence if n >= len(sequence) else Part(sequence, np.sort(order(len(sequence), seed)[:n]))


def content_hash(sequence: Sequence) -> str:
    """What identifies a sequence: its own `hash()`, else the SHA-256 of its items as JSON."""
    if hasattr(sequence, "hash"):
        return sequence.hash()
    sha = hashlib.sha256()
    for index in range(len(sequence)):
        sha.update(json.dumps(sequence[index], sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    return sha.hexdigest()
