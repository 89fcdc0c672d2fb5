"""Documents into rows of tokens: every row begins with bos, best fit, cropped only to fill, no padding.

    loader = PackedLoader(source, tokenizer, batch_size=8, seq_len=512, split="train")
    for rows in loader: ...                      # int32 (8, 513); inputs = rows[:, :-1], targets = rows[:, 1:]
    state = loader.state_dict()                  # a loader that loads it gives bit-equal batches from here on

A document is bos and its tokens. From a buffer of documents a row takes the longest that still fits wholly, again and
again; when none fits, the shortest is cropped to fill the row exactly and the rest of it is dropped. A document
longer than a row is one that fills it.
The tokenizer needs `encode_batch(texts, threads) -> list of uint32 arrays` and `bos_id`.

Shapes: B rows of a batch, T = seq_len, so that a row has T + 1 tokens.
"""

from bisect import bisect_right, insort
from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np

from pynanochat import _C
from pynanochat.errors import DataError

REFILL = 128  # documents tokenized at a time


class DocumentBuffer:
    """Tokenized documents, of which the longest that fits is found by bisection; equals leave in order."""

    def __init__(self):
        self._keys: list[tuple[int, int]] = []  # (length, -arrival), sorted: pops near the end of the list are cheap
        self._tokens: dict[int, np.ndarray] = {}
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._keys)

    def add(self, tokens: np.ndarray) -> None:
        insort(self._keys, (len(tokens), -self._arrivals))
        self._tokens[-self._arrivals] = tokens
        self._arrivals += 1

    @property
    def shortest(self) -> int:
        """Tokens of the shortest document."""
        return self._keys[0][0]

    def take(self, room: int) -> np.ndarray:
        """Remove the longest document of at most `room` tokens, or else the shortest of all, which is longer."""
        place = bisect_right(self._keys, (room, 1)) - 1
        _, arrival = self._keys.pop(max(place, 0))
        return self._tokens.pop(arrival)

    def in_order(self) -> list[np.ndarray]:
        """The documents in order of arrival; adding them to an empty buffer gives an equal one."""
        return list(self._tokens.values())


class PackedLoader:
    """Batches of packed rows of a source's split, for one rank; without end, or one pass for `epochs=1`.

    source: what `open_source` gives. batch_size: rows of a batch. seq_len: T. buffer_documents: how many tokenized
    documents a row may choose from. threads: handed to the tokenizer. A pass that ends drops the last, unfilled row;
    its last batch may have fewer rows. Raises DataError when one whole pass does not fill a single row.

    given_tokens and cropped_tokens count what this object has given and what it has cut off.
    """

    def __init__(
        self,
        source,
        tokenizer,
        *,
        batch_size: int,
        seq_len: int,
        split: str = "train",
        rank: int = 0,
        world_size: int = 1,
        buffer_documents: int = 1000,
        threads: int | None = None,
        epochs: int | None = None,
    ):
        if min(batch_size, seq_len, buffer_documents) < 1 or not 0 <= rank < world_size:
            raise ValueError(
                f"batch_size {batch_size}, seq_len {seq_len}, buffer_documents {buffer_documents} must be at least 1 "
                f"and rank {rank} less than world_size {world_size}"
            )
        self.source, self.tokenizer, self.threads, self.epochs = source, tokenizer, threads, epochs
        self.batch_size, self.seq_len, self.buffer_documents = batch_size, seq_len, buffer_documents
        self.split, self.rank, self.world_size = split, rank, world_size
        self.given_tokens = self.cropped_tokens = 0
        self._start_at(None)

    def _start_at(self, cursor: dict | None) -> None:
        self._cursor = cursor
        self._packer = _C.Packer(self.seq_len + 1)
        self._dropped = 0
        self._documents = self.source.documents(self.split, self.rank, self.world_size, cursor, self.epochs)
        self._ended = False
        self._rows_given = 0

    def __iter__(self) -> Iterator[np.ndarray]:
        return self

    def __next__(self) -> np.ndarray:
        """The next batch, int32 (batch_size, seq_len + 1)."""
        rows = np.empty((self.batch_size, self.seq_len + 1), np.int32)
        at = 0
        while True:
            at = self._packer.fill(rows, at, 1 if self._ended else self.buffer_documents)
            if at == rows.size or self._ended:
                break
            self._refill()
        filled = at // (self.seq_len + 1)
        self._rows_given += filled
        self.given_tokens += filled * (self.seq_len + 1)
        self.cropped_tokens += self._packer.dropped - self._dropped
        self._dropped = self._packer.dropped
        if not filled and not self._rows_given:
            raise DataError(
                f"{self.source.name}: the {self.split} documents of rank {self.rank} of {self.world_size} do not fill "
                f"one row of {self.seq_len + 1} tokens; add text or use a shorter sequence"
            )
        if not filled:
            raise StopIteration
        return rows[:filled]

    def _refill(self) -> None:
        """Tokenize documents until the buffer is full again, so that what it holds depends only on the cursor."""
        while len(self._packer) < self.buffer_documents and not self._ended:
            batch = list(islice(self._documents, REFILL))
            self._ended = len(batch) < REFILL
            if not batch:
                return
            self._cursor = batch[-1][0]
            texts = [text for _, text in batch]
            self._packer.add(self.tokenizer.bos_id, self.tokenizer.encode_batch(texts, self.threads))

    def snapshot(self) -> Callable[[], dict]:
        """Where the loader stands, as a function that gives the state_dict of now at any later time. It costs next to
        nothing: the buffered documents are shared, not copied."""
        held = self._packer.snapshot()
        state = {
            "split": self.split,
            "rank": self.rank,
            "world_size": self.world_size,
            "seq_len": self.seq_len,
            "ended": self._ended,
            "cursor": self._cursor,
        }
        return lambda: state | dict(zip(("lengths", "tokens"), held.arrays(), strict=True))

    def state_dict(self) -> dict:
        """Where the loader stands: JSON-able values and numpy arrays. After loading it the next batch is bit-equal."""
        return self.snapshot()()

    def load_state_dict(self, state: dict) -> None:
        """Continue where `state` was taken. Raises DataError when it belongs to another split, rank or row length."""
        for key in ("split", "rank", "world_size", "seq_len"):
            if state[key] != getattr(self, key):
                raise DataError(
                    f"data state with {key} {state[key]}, this run has {getattr(self, key)}; "
                    "resume with the settings of the saved run, or begin again with --fresh"
                )
        self._start_at(state["cursor"])
        self._ended = bool(state["ended"])
        self._rows_given = 1
        tokens = np.asarray(state["tokens"], np.int32)
        for piece in np.split(tokens, np.cumsum(state["lengths"])[:-1]) if len(tokens) else []:
            self._packer.add(int(piece[0]), [piece[1:]])


class ValidationLoader:
    """The first `max_tokens` tokens (over all ranks; None: all) of a split, packed, the same on every pass.

    Iterating yields batches as PackedLoader does; the last may have fewer rows. With `max_tokens` the batches are kept
    in memory after the first pass. The buffer is small so that the first rows are not only those of long documents.
    """

    def __init__(
        self,
        source,
        tokenizer,
        *,
        batch_size: int,
        seq_len: int,
        max_tokens: int | None = None,
        split: str = "val",
        rank: int = 0,
        world_size: int = 1,
        buffer_documents: int = 128,
        threads: int | None = None,
    ):
        self._make = lambda: PackedLoader(
            source,
            tokenizer,
            batch_size=batch_size,
            seq_len=seq_len,
            split=split,
            rank=rank,
            world_size=world_size,
            buffer_documents=buffer_documents,
            threads=threads,
            epochs=1,
        )
        per_step = batch_size * seq_len * world_size
        self.batches = None if max_tokens is None else max(1, -(-max_tokens // per_step))
        self._kept: list[np.ndarray] | None = None

    def __iter__(self) -> Iterator[np.ndarray]:
        if self.batches is None:
            return iter(self._make())
        if self._kept is None:
            self._kept = list(islice(self._make(), self.batches))
        return iter(self._kept)
