"""A tokenizer trained once on text of many kinds."""

import random

import pytest

from pynanochat.tokenizer import Tokenizer
from tests.tokenizer.corpus import HOSTILE


def documents() -> list[str]:
    """Texts with words that come often and seldom, of several scripts, and the hostile corpus."""
    rng = random.Random(7)
    words = ["".join(rng.choices("etaoinshrdlucmfwyp", k=rng.randint(1, 9))) for _ in range(3000)]
    words += ["das", "Straße", "élan", "中文", "分詞", "नमस्ते", "мир", "😀", "don't", "I'll", "2024", "\n", "\n\n", "  "]
    weights = [1 / (rank + 1) for rank in range(len(words))]
    rng.shuffle(weights)
    texts = [" ".join(rng.choices(words, weights, k=300)) for _ in range(150)]
    return texts + list(HOSTILE.values())


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return documents()


@pytest.fixture(scope="session")
def tokenizer(texts) -> Tokenizer:
    return Tokenizer.train(texts, vocab_size=2000)
