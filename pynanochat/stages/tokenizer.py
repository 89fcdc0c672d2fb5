"""The first stage: train the run's tokenizer on its data and measure how it compresses."""

import time
from dataclasses import dataclass
from itertools import islice

from pynanochat import settings
from pynanochat.checkpoint import write_json

NAME = "tokenizer"
SAMPLE_DOCUMENTS = 500  # of each split, for the compression figures


@dataclass(frozen=True)
class TokenizerSettings:
    vocab_size: int = 32768
    """Tokens, the nine specials included."""
    max_chars: int = 2_000_000_000
    """Characters of text that training reads at most."""
    max_chars_per_document: int = 10_000
    """Characters of one document that training reads at most."""

    OPERATIONAL = frozenset()


def identity(run) -> dict:
    return {**settings.binding(run.tables["tokenizer"]), "data_hash": run.source().hash()}


def train(run) -> dict:
    """Train and save into RUN/tokenizer; the summary has the vocabulary, seconds and bytes per token. One process."""
    from pynanochat.tokenizer import Tokenizer

    wanted = run.tables["tokenizer"]
    folder = run.stage_folder(NAME)
    started = time.perf_counter()
    tokenizer = Tokenizer.train(
        run.source().texts("train"),
        vocab_size=wanted.vocab_size,
        max_chars=wanted.max_chars,
        max_chars_per_document=wanted.max_chars_per_document,
    )
    seconds = time.perf_counter() - started
    tokenizer.save(folder)
    compression = {split: bytes_per_token(tokenizer, run.source().texts(split)) for split in ("train", "val")}
    write_json(folder / "eval.json", {"bytes_per_token": compression})
    run.say(
        f"tokenizer: {len(tokenizer):,} tokens in {seconds:.1f} s, "
        f"{compression['val']:.2f} bytes a token on validation text"
    )
    return {
        "vocab_size": len(tokenizer),
        "seconds": round(seconds, 3),
        "hash": tokenizer.hash(),
        **{f"{split}_bytes_per_token": round(value, 4) for split, value in compression.items()},
    }


def bytes_per_token(tokenizer, texts) -> float:
    """UTF-8 bytes over tokens of the first SAMPLE_DOCUMENTS texts."""
    texts = list(islice(texts, SAMPLE_DOCUMENTS))
    tokens = sum(len(ids) for ids in tokenizer.encode_batch(texts))
    return sum(len(text.encode()) for text in texts) / max(1, tokens)
