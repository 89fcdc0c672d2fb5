"""The tokenizer: byte-level byte-pair encoding in the GPT-4 style, trained and run by the compiled core.

    tokenizer = Tokenizer.train(texts, vocab_size=32768)
    ids = tokenizer.encode("Hello world")          # list of int; encode_batch gives uint32 arrays
    text = tokenizer.decode(ids)
    tokenizer.save("runs/toy/tokenizer"); tokenizer = Tokenizer.load("runs/toy/tokenizer")

Text is always ordinary text: `<|bos|>` written in it becomes the bytes of those letters, never the special token.
A str with surrogates is read as tiktoken reads it: pairs are joined, a lone one becomes U+FFFD.
"""

import codecs
import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from pynanochat import _C
from pynanochat.errors import DataError, UsageError
from pynanochat.runtime import cpu_threads
from pynanochat.tokenizer import files

SPECIAL_TOKENS = (
    "<|bos|>",
    "<|user_start|>",
    "<|user_end|>",
    "<|assistant_start|>",
    "<|assistant_end|>",
    "<|python_start|>",
    "<|python_end|>",
    "<|output_start|>",
    "<|output_end|>",
)
_MOST_IDS = (1 << 24) - 1
_BATCH_CHARACTERS = 4_000_000  # text held at one time while training


class Tokenizer:
    """A vocabulary of byte strings with their ids, and special tokens, which no text ever encodes to.

    Made by `train`, `load` or `from_ranks`. `len(tokenizer)` is the highest id + 1.
    """

    pattern: str = _C.bpe_patterns["pynanochat"]

    def __init__(self, tokens: Sequence[bytes], special_tokens: dict[str, int]):
        """`tokens[id]` are the bytes of each ordinary token, b"" for ids not in use. Raises DataError."""
        self.special_tokens = dict(special_tokens)
        names = {id: name.encode() for name, id in self.special_tokens.items()}
        if len(names) != len(self.special_tokens):
            raise DataError("two special tokens have the same id; give each its own")
        for id, name in names.items():
            if id < 0 or (id < len(tokens) and tokens[id]):
                raise DataError(f"special token {name.decode()} has id {id}, which is not free; choose ids that are")
        self._tokens = list(tokens) + [b""] * (max(names, default=-1) + 1 - len(tokens))
        try:
            self._core = _C.BpeEncoder(self._tokens, names)
        except ValueError as error:
            raise DataError(str(error)) from None

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int = 32768,
        threads: int | None = None,
        max_chars: int = 2_000_000_000,
        max_chars_per_document: int = 10_000,
        progress=None,
    ) -> "Tokenizer":
        """Learn a vocabulary of `vocab_size` ids, special tokens included, from `texts`, which are read once.

        Reads at most `max_chars` characters, and of each text the first `max_chars_per_document`. The result is the
        same for any number of `threads`. It is smaller than asked where the text has no more pairs to merge.
        `progress(merges_done, merges)` is called now and then. Raises UsageError for a vocabulary without room for
        the 256 bytes and the special tokens, and DataError where there is no text.
        """
        least = 256 + len(SPECIAL_TOKENS)
        if vocab_size < least:
            raise UsageError(
                f"vocab_size is {vocab_size}; the least is {least} (256 bytes and {len(SPECIAL_TOKENS)} special "
                f"tokens); pass --vocab-size {least} or more"
            )
        trainer = _C.BpeTrainer()
        _feed(trainer, texts, threads or cpu_threads(), max_chars, max_chars_per_document)
        merges = vocab_size - least
        tokens = [bytes([byte]) for byte in range(256)]
        for left, right in trainer.train(merges, progress and (lambda done: progress(done, merges))):
            tokens.append(tokens[left] + tokens[right])
        return cls(tokens, {name: len(tokens) + i for i, name in enumerate(SPECIAL_TOKENS)})

    @classmethod
    def from_ranks(cls, ranks: dict[bytes, int], special_tokens: dict[str, int] | None = None) -> "Tokenizer":
        """A tokenizer from a tiktoken-style table (bytes -> rank, which is also the id), split by `pattern`.

        `special_tokens` (name -> id) default to the nine of this package, after the highest rank. Raises DataError
        if a single byte is missing or an id is used twice.
        """
        size = max(ranks.values(), default=-1) + 1
        if size > _MOST_IDS or min(ranks.values(), default=0) < 0:
            raise DataError(f"ranks go from {min(ranks.values())} to {size - 1}; the limits are 0 and {_MOST_IDS - 1}")
        tokens = [b""] * size
        for token, rank in ranks.items():
            if tokens[rank] or not token:
                raise DataError(f"rank {rank} is used twice or for no bytes; every token needs its own")
            tokens[rank] = token
        if special_tokens is None:
            special_tokens = {name: size + i for i, name in enumerate(SPECIAL_TOKENS)}
        return cls(tokens, special_tokens)

    def encode(self, text: str) -> list[int]:
        """The ids of `text`."""
        return self._core.encode(text)

    def encode_array(self, text: str) -> np.ndarray:
        """The ids of `text` as a uint32 array."""
        return self._core.encode_array(text)

    def encode_batch(self, texts: Iterable[str], threads: int | None = None) -> list[np.ndarray]:
        """The ids of each text as uint32 arrays, worked out on `threads` threads (default: every processor)."""
        return self._core.encode_batch(texts, threads or cpu_threads())

    def decode(self, ids) -> str:
        """The text of `ids` (ints, special tokens by name); bytes that are not UTF-8 become U+FFFD. See StreamDecoder
        for ids that come one by one. Raises UsageError for an id outside the vocabulary."""
        return self.decode_bytes(ids).decode("utf-8", errors="replace")

    def decode_bytes(self, ids) -> bytes:
        """The bytes of `ids`: exactly the UTF-8 of the text that was encoded."""
        try:
            return self._core.decode(np.asarray(ids, dtype=np.int64).reshape(-1))
        except IndexError as error:
            raise UsageError(
                f"id {error} is not in the vocabulary of {len(self)}; decode with the tokenizer that encoded"
            ) from None

    def token_bytes(self, id: int) -> bytes:
        """The bytes of one token; for a special token, its name."""
        return self.decode_bytes([id])

    def token_lengths(self) -> np.ndarray:
        """Raw bytes of every token, (len(self),) int64; 0 for special tokens."""
        return np.array([len(token) for token in self._tokens], dtype=np.int64)

    def special_id(self, name: str) -> int:
        """The id of a special token such as "<|assistant_end|>". Raises UsageError for a name that is none."""
        try:
            return self.special_tokens[name]
        except KeyError:
            known = " ".join(self.special_tokens)
            raise UsageError(f"{name!r} is not a special token; this tokenizer has {known}") from None

    @property
    def bos_id(self) -> int:
        """The id of <|bos|>, which stands before every document."""
        return self.special_id("<|bos|>")

    @property
    def mergeable_ranks(self) -> dict[bytes, int]:
        """The ordinary tokens and their ids, as tiktoken takes them."""
        return {token: id for id, token in enumerate(self._tokens) if token}

    def __len__(self) -> int:
        return len(self._tokens)

    def __repr__(self) -> str:
        return f"Tokenizer({len(self)} tokens, {self.hash()[:12]})"

    def hash(self) -> str:
        """SHA-256 over the pattern, the tokens and the special tokens, in hexadecimal: equal for equal tokenizers."""
        digest = hashlib.sha256(self.pattern.encode())
        for token in self._tokens:
            digest.update(len(token).to_bytes(4, "little") + token)
        for name, id in sorted(self.special_tokens.items(), key=lambda item: item[1]):
            digest.update(f"{id}:{name}\n".encode())
        return digest.hexdigest()

    def save(self, folder) -> None:
        """Write tokenizer.json, tokenizer_config.json and token_bytes.json into `folder` (made if it is not there).

        Hugging Face `tokenizers` loads tokenizer.json and gives equal ids for ordinary text.
        """
        merges = self._core.parts()
        for id, token in enumerate(self._tokens):
            if len(token) > 1 and merges[id] is None:
                raise DataError(
                    f"token {id} ({token!r}) does not merge from two others, which tokenizer.json cannot say; "
                    "keep this vocabulary as its table of ranks"
                )
        files.write(Path(folder), self._tokens, merges, self.special_tokens, self.pattern, self.hash())

    @classmethod
    def load(cls, folder) -> "Tokenizer":
        """Read what `save` wrote. Raises DataError for a file that is missing, damaged or of another kind."""
        tokens, special_tokens, merges, digest = files.read(Path(folder), cls.pattern)
        tokenizer = cls(tokens, special_tokens)
        if [pair for pair in tokenizer._core.parts() if pair] != merges or digest not in (None, tokenizer.hash()):
            raise DataError(
                f"{Path(folder) / files.TOKENIZER} is damaged: its parts do not agree; train or copy it again"
            )
        return tokenizer


class StreamDecoder:
    """Decodes ids as they come, and holds a character back until all of its bytes are there.

    decoder = StreamDecoder(tokenizer)
    for id in ids: print(decoder.feed(id), end="")
    print(decoder.flush())
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def feed(self, id: int) -> str:
        """The text that is complete once token `id` is added; often empty in the middle of a character."""
        return self._utf8.decode(self._tokenizer.token_bytes(id))

    def flush(self) -> str:
        """What was held back, as U+FFFD, and a fresh start."""
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return rest


def _feed(trainer, texts: Iterable[str], threads: int, max_chars: int, max_chars_per_document: int) -> None:
    """Count the pieces of `texts` a batch at a time; the next batch is read while one is counted."""
    if isinstance(texts, str):
        raise UsageError("texts is one str; pass an iterable of str, such as [text]")
    batch, size, left = [], 0, max_chars
    with ThreadPoolExecutor(1) as pool:
        pending: Future | None = None
        for text in texts:
            text = text[: min(max_chars_per_document, left)]
            batch.append(text)
            size += len(text)
            left -= len(text)
            if size >= _BATCH_CHARACTERS:
                if pending:
                    pending.result()
                pending = pool.submit(trainer.add, batch, threads)
                batch, size = [], 0
            if left <= 0:
                break
        if pending:
            pending.result()
    if not any(batch) and pending is None:
        raise DataError("there is no text to train a tokenizer on; give at least one document that is not empty")
    trainer.add(batch, threads)
