"""The tokenizer: byte-level byte-pair encoding in the GPT-4 style, trained and run by the compiled core.

    tokenizer = Tokenizer.train(texts, vocab_size=32768)
    ids = tokenizer.encode("Hello world")          # list of int; encode_batch gives uint32 arrays
    text = tokenizer.decode(ids)
    tokenizer.save("runs/toy/tokenizer"); tokenizer = Tokenizer.load("runs/toy/tokenizer")
    theirs = Tokenizer.load("cl100k_base.tiktoken")   # or a Hugging Face tokenizer.json: equal ids

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
from pynanochat.tokenizer import files, foreign
from pynanochat.tokenizer.nfc import ComposingEncoder

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
_BATCH_CHARACTERS = 16_000_000  # text held at one time while training, twice


class Tokenizer:
    """A vocabulary of byte strings with their ids, and special tokens, which no text ever encodes to.

    Made by `train`, `load` or `from_ranks`. `len(tokenizer)` is the highest id + 1. `pattern` is the regular expression
    by which text is split before its bytes merge.
    """

    pattern: str = _C.bpe_patterns["pynanochat"]

    def __init__(
        self,
        tokens: Sequence[bytes],
        special_tokens: dict[str, int],
        pattern: str = "pynanochat",
        composes: bool = False,
    ):
        """`tokens[id]` are the bytes of each ordinary token, b"" for ids not in use; `pattern` as in `from_ranks`;
        `composes`: text is brought into Unicode's composed form (NFC) first, as for Qwen. Raises DataError."""
        pattern = foreign.pattern_named(pattern)
        self.pattern = _C.bpe_patterns[pattern]
        self._composes = composes
        self.special_tokens = dict(special_tokens)
        try:
            names = {id: name.encode() for name, id in self.special_tokens.items()}
        except (AttributeError, UnicodeEncodeError) as error:
            raise DataError(f"the name of a special token is not text ({error}); name it by a str of UTF-8") from None
        if len(names) != len(self.special_tokens):
            raise DataError("two special tokens have the same id; give each its own")
        for id, name in names.items():
            if id < 0 or (id < len(tokens) and tokens[id]):
                raise DataError(f"special token {name.decode()!r} has id {id}, which is not free; choose ids that are")
        self._tokens = list(tokens) + [b""] * (max(names, default=-1) + 1 - len(tokens))
        try:
            self._core = _C.BpeEncoder(self._tokens, names, pattern)
        except ValueError as error:
            raise DataError(str(error)) from None
        if composes:
            self._core = ComposingEncoder(self._core)

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
    def from_ranks(
        cls, ranks: dict[bytes, int], special_tokens: dict[str, int] | None = None, pattern: str = "pynanochat"
    ) -> "Tokenizer":
        """A tokenizer from a tiktoken-style table (bytes -> rank, which is also the id).

        `special_tokens` (name -> id) default to the nine of this package, after the highest rank. `pattern` is
        "pynanochat", "gpt2", "cl100k", "llama3" (cl100k as it was first), "qwen2" or "o200k", or one of these as
        tiktoken writes it. Raises DataError if a single byte is missing, an id is used twice or the pattern is unknown.
        """
        size = max(ranks.values(), default=-1) + 1
        if size > files.MOST_IDS or min(ranks.values(), default=0) < 0:
            raise DataError(
                f"ranks go from {min(ranks.values())} to {size - 1}; the limits are 0 and {files.MOST_IDS - 1}"
            )
        tokens = [b""] * size
        for token, rank in ranks.items():
            if tokens[rank] or not token:
                raise DataError(f"rank {rank} is used twice or for no bytes; every token needs its own")
            tokens[rank] = token
        if special_tokens is None:
            special_tokens = {name: size + i for i, name in enumerate(SPECIAL_TOKENS)}
        return cls(tokens, special_tokens, pattern)

    def encode(self, text: str) -> list[int]:
        """The ids of `text`."""
        return self._core.encode(text)

    def encode_array(self, text: str) -> np.ndarray:
        """The ids of `text` as a uint32 array."""
        return self._core.encode_array(text)

    def encode_batch(self, texts: Iterable[str], threads: int | None = None) -> list[np.ndarray]:
        """The ids of each text as uint32 arrays, worked out on `threads` threads (default: every processor).

        texts: an iterable of str, or a column of strings of an Arrow library such as pyarrow, whose memory is
        read in place. Raises UsageError for a column that holds a null or bytes that are not UTF-8.
        """
        return self._encode(self._core.encode_batch, texts, threads)

    def encode_flat(self, texts: Iterable[str], threads: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """As encode_batch, in one piece: the ids of all N texts, uint32, and offsets, (N + 1,) int64, such that
        ids[offsets[i]:offsets[i + 1]] are those of text i."""
        return self._encode(self._core.encode_flat, texts, threads)

    @staticmethod
    def _encode(encode, texts, threads):
        if isinstance(texts, str):
            raise UsageError("texts is one str; pass an iterable of str, such as [text]")
        try:
            return encode(texts, threads or cpu_threads())
        except ValueError as error:
            raise UsageError(str(error)) from None

    def decode(self, ids) -> str:
        """The text of `ids` (ints, special tokens by name); bytes that are not UTF-8 become U+FFFD. See StreamDecoder
        for ids that come one by one. Raises UsageError for an id outside the vocabulary."""
        return self.decode_batch([ids])[0]

    def decode_batch(self, batch: Iterable) -> list[str]:
        """The text of each sequence of ids, as decode gives it. Arrays of uint32 and int32 are read in place."""
        return self._decode(self._core.decode_batch, batch)

    def decode_bytes(self, ids) -> bytes:
        """The bytes of `ids`: exactly the UTF-8 of the text that was encoded."""
        return self._decode(self._core.decode, ids)

    def _decode(self, decode, ids):
        try:
            return decode(ids)
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
        if self._composes:
            digest.update(b"NFC")
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
        files.write(Path(folder), self._tokens, merges, self.special_tokens, self.pattern, self._composes, self.hash())

    @classmethod
    def load(cls, path, pattern: str | None = None, special_tokens: dict[str, int] | None = None) -> "Tokenizer":
        """Read what `save` wrote, or another's vocabulary; the ids of text are then those of tiktoken or of Hugging
        Face tokenizers, special tokens in it being ordinary text.

        `path` is a Hugging Face tokenizer.json or its folder, or a .tiktoken file, whose `pattern` and
        `special_tokens` are as in `from_ranks`; the pattern follows from a well-known name such as cl100k_base. A
        tokenizer.json says both itself. Raises DataError for a file that is missing, damaged, or not covered exactly.
        """
        path = Path(path)
        if path.suffix == ".tiktoken":
            return cls._load_ranks(path, pattern, special_tokens)
        if pattern is not None or special_tokens is not None:
            raise UsageError(f"{path} says its own pattern and special tokens; give these with a .tiktoken file only")
        path = path if path.suffix == ".json" or path.is_file() else path / files.TOKENIZER
        found = files.read(path)
        try:
            tokenizer = cls(found.tokens, found.special_tokens, found.pattern, found.composes)
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
        if not tokenizer._merges_as(found.merges) or found.digest not in (None, tokenizer.hash()):
            raise DataError(
                f"{path} is damaged, or of a kind that is not read here: its merges, ids and hash do not agree; "
                "train or copy it again"
            )
        return tokenizer

    @classmethod
    def _load_ranks(cls, path: Path, pattern: str | None, special_tokens: dict[str, int] | None) -> "Tokenizer":
        ranks = foreign.read_tiktoken(path)
        pattern = pattern or foreign.pattern_of_file(path)
        if pattern is None:
            raise DataError(
                f"{path} does not say how it splits text; give pattern, one of {', '.join(_C.bpe_patterns)}"
            )
        try:
            return cls.from_ranks(ranks, special_tokens, pattern)
        except DataError as error:
            raise DataError(f"{path}: {error}") from None

    def _merges_as(self, merges: list[tuple[int, int]]) -> bool:
        """Whether merging by the order of `merges`, no pair twice, gives our ids.

        It does where every longer token merges from two others and these pairs come in the order of the ids: other
        pairs then never stand side by side, so that it makes no difference which of them are there, nor whether a
        piece that is a token is looked up first (ignore_merges)."""
        place = {pair: number for number, pair in enumerate(merges)}
        places = [place.get(pair, -1) for pair in self._core.parts() if pair]
        ordered = all(a < b for a, b in zip([-1, *places], places, strict=False))
        return self._core.regular and ordered and len(place) == len(merges)


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
