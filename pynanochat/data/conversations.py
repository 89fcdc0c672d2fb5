"""Conversations into batches, for midtraining (packed rows, every token counts) and SFT (whole, padded, masked).

    loader = PackedConversations(mixture, tokenizer, batch_size=8, seq_len=512)
    rows = next(loader)                          # int32 (8, 513), as data/packing.py gives them, cropped only to fill
    loader = PaddedConversations(mixture, tokenizer, batch_size=8, seq_len=512)
    batch = next(loader)                         # .inputs, .targets int32 (8, 512); -1: no target
    state = loader.state_dict()                  # a loader that loads it gives bit-equal batches from here on

A mixture is anything with len and [index] that gives conversations as tokenizer/chat.py renders them, or documents as
{"text": ...}, which are read as in pretraining, every token counting; they are rendered when their turn comes, so that
memory stays flat. Each rank takes every world_size-th conversation. An epoch ends when
every one of them has been used, once; the next one begins with an empty buffer and in another order. Within the buffer
the packing is that of data/packing.py, best fit, and later conversations of a row see the earlier ones, each behind its
own bos.

Shapes: B rows of a batch, T = seq_len.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from pynanochat.data.packing import DocumentBuffer
from pynanochat.errors import DataError
from pynanochat.tokenizer.chat import render_conversation

TOKEN = np.dtype([("id", np.int32), ("said", np.bool_)])  # a token and whether the assistant is trained to say it
IGNORED = -1  # a target that the model's loss leaves out


@dataclass(frozen=True)
class ConversationBatch:
    """inputs and targets int32 (B, T); `tokens` is how many of the inputs are not padding."""

    inputs: np.ndarray
    targets: np.ndarray
    tokens: int

    def pieces(self, count: int) -> list[tuple["ConversationBatch", float]]:
        """At most `count` batches of its rows, each with its share of all targets; their `tokens` count padding too."""
        count, said = min(count, len(self.inputs)), max(1, np.count_nonzero(self.targets >= 0))
        parts = zip(np.array_split(self.inputs, count), np.array_split(self.targets, count), strict=True)
        return [(ConversationBatch(i, t, i.size), np.count_nonzero(t >= 0) / said) for i, t in parts]


def render(tokenizer, item: dict, most: int) -> tuple[list[int], list[int]]:
    """(ids, mask), at most `most` of each, of a mixture's item: a conversation, or a document, all of whose text is
    learned."""
    if "text" not in item:
        return render_conversation(tokenizer, item, most)
    ids = [tokenizer.bos_id, *tokenizer.encode(item["text"])][:most]
    return ids, [0] + [1] * (len(ids) - 1)


class _Conversations:
    """What both loaders share: the conversations of one rank, epoch after epoch, through a buffer.

    batch_size: B. seq_len: T; a conversation longer than T + 1 tokens is truncated. buffer_conversations: how many
    rendered conversations a row may choose from. Raises DataError for a mixture without a conversation for this rank,
    and, when it is rendered, for one that is malformed.
    """

    def __init__(
        self,
        mixture,
        tokenizer,
        *,
        batch_size: int,
        seq_len: int,
        rank: int = 0,
        world_size: int = 1,
        buffer_conversations: int = 1000,
    ):
        if min(batch_size, seq_len, buffer_conversations) < 1 or not 0 <= rank < world_size:
            raise ValueError(
                f"batch_size {batch_size}, seq_len {seq_len}, buffer_conversations {buffer_conversations} must be at "
                f"least 1 and rank {rank} less than world_size {world_size}"
            )
        if len(mixture) < world_size:
            raise DataError(
                f"the mixture holds {len(mixture)} conversations for {world_size} micro-batches of a step; "
                "add conversations (sft/*.jsonl in the data folder) or use fewer, larger micro-batches (--device-rows)"
            )
        self.mixture, self.tokenizer = mixture, tokenizer
        self.batch_size, self.seq_len, self.buffer_conversations = batch_size, seq_len, buffer_conversations
        self.rank, self.world_size = rank, world_size
        self._begin(0)

    def _begin(self, epoch: int) -> None:
        """The mixture's own order first, then others."""
        self.epoch, self._read, self._buffer = epoch, 0, DocumentBuffer()
        count = len(self.mixture)
        order = np.random.RandomState(epoch).permutation(count) if epoch else np.arange(count)
        self._mine = order[self.rank :: self.world_size]

    def __iter__(self) -> Iterator:
        return self

    def metrics(self) -> dict[str, float]:
        """{"epoch": how often this rank's conversations have been used}."""
        return {"epoch": self.epoch + (self._read - len(self._buffer)) / len(self._mine)}

    def _top_up(self) -> None:
        while len(self._buffer) < self.buffer_conversations and self._read < len(self._mine):
            self._buffer.add(self._render(int(self._mine[self._read])))
            self._read += 1

    def _take(self, room: int) -> np.ndarray:
        """The longest conversation that fits, else the shortest; the epoch ends with its last one."""
        piece = self._buffer.take(room)
        if not self._buffer and self._read == len(self._mine):
            self._begin(self.epoch + 1)
        return piece

    def _render(self, index: int) -> np.ndarray:
        item = self.mixture[index]
        try:
            ids, said = render(self.tokenizer, item, self.seq_len + 1)
        except DataError as error:
            raise DataError(f"conversation {index} of the mixture: {error}") from None
        piece = np.empty(len(ids), TOKEN)
        piece["id"], piece["said"] = ids, said
        return piece

    def snapshot(self) -> Callable[[], dict]:
        """Where the loader stands, as a function that gives the state_dict of now at any later time."""
        pieces = self._buffer.in_order()
        state = {
            "rank": self.rank,
            "world_size": self.world_size,
            "seq_len": self.seq_len,
            "conversations": len(self.mixture),
            "epoch": self.epoch,
            "read": self._read,
        }

        def state_dict() -> dict:
            tokens = np.concatenate(pieces) if pieces else np.empty(0, TOKEN)
            return state | {
                "lengths": np.array([len(piece) for piece in pieces], np.int64),
                "ids": np.ascontiguousarray(tokens["id"]),
                "said": np.ascontiguousarray(tokens["said"]),
            }

        return state_dict

    def state_dict(self) -> dict:
        """Where the loader stands: JSON-able values and numpy arrays."""
        return self.snapshot()()

    def load_state_dict(self, state: dict) -> None:
        """Continue where `state` was taken. Raises DataError when it belongs to another mixture, rank or row length."""
        own = {k: getattr(self, k) for k in ("rank", "world_size", "seq_len")} | {"conversations": len(self.mixture)}
        for key, value in own.items():
            if state[key] != value:
                raise DataError(
                    f"data state with {key} {state[key]}, this run has {value}; "
                    "resume with the settings of the saved run, or begin again with --fresh"
                )
        self._begin(state["epoch"])
        self._read = state["read"]
        tokens = np.empty(len(state["ids"]), TOKEN)
        tokens["id"], tokens["said"] = state["ids"], state["said"]
        for piece in np.split(tokens, np.cumsum(state["lengths"])[:-1]) if len(tokens) else []:
            self._buffer.add(piece)


class PackedConversations(_Conversations):
    """Full rows, int32 (B, T+1), without padding and without a mask: what does not fit is cropped to fill the row."""

    def __next__(self) -> np.ndarray:
        rows = np.empty((self.batch_size, self.seq_len + 1), np.int32)
        for row in rows:
            at = 0
            while at < len(row):
                self._top_up()
                piece = self._take(len(row) - at)["id"][: len(row) - at]
                row[at : at + len(piece)] = piece
                at += len(piece)
        return rows


class PaddedConversations(_Conversations):
    """ConversationBatches of whole conversations; a row never goes on into the next epoch.

    packed: as many conversations in a row as fit, rows of T; otherwise one, in the mixture's order, rows as long as the
    batch's longest. masked: targets are those that the assistant says; otherwise all. epochs: None is without end; the
    last batch of the last epoch may have fewer rows.
    """

    def __init__(self, *args, packed: bool = True, masked: bool = True, epochs: int | None = None, **settings):
        super().__init__(*args, **(settings if packed else settings | {"buffer_conversations": 1}))
        self.packed, self.masked, self.epochs = packed, masked, epochs

    def __next__(self) -> ConversationBatch:
        rows = []
        while len(rows) < self.batch_size and (self.epochs is None or self.epoch < self.epochs):
            rows.append(self._row())
        if not rows:
            raise StopIteration
        return self._batch(rows)

    def _row(self) -> np.ndarray:
        """The tokens of a row, at most T + 1."""
        pieces, room, epoch = [], self.seq_len + 1, self.epoch
        while self.epoch == epoch and (self.packed or not pieces):
            self._top_up()
            if self._buffer.shortest > room:
                break
            pieces.append(self._take(room))
            room -= len(pieces[-1])
        return np.concatenate(pieces)

    def _batch(self, rows: list[np.ndarray]) -> ConversationBatch:
        width = self.seq_len if self.packed else max(map(len, rows)) - 1
        inputs = np.full((len(rows), width), self.tokenizer.bos_id, np.int32)
        targets = np.full((len(rows), width), IGNORED, np.int32)
        for row, ids, wanted in zip(rows, inputs, targets, strict=True):
            ids[: len(row) - 1] = row["id"][:-1]
            wanted[: len(row) - 1] = np.where(row["said"][1:] | (not self.masked), row["id"][1:], IGNORED)
        return ConversationBatch(inputs, targets, sum(len(row) - 1 for row in rows))


def batches_in(loader, epochs: int) -> int:
    """How many batches a fresh loader takes to use each of its conversations `epochs` times; that uses it up."""
    count = 0
    while loader.epoch < epochs:
        next(loader)
        count += 1
    return count
