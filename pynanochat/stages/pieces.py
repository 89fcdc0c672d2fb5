"""A batch of the training loop: its tokens, and smaller pieces of it for a GPU whose memory it does not fit."""

import numpy as np


def tokens_of(batch) -> int:
    """What a batch counts for: its own `tokens`, or of rows (B, T+1) the B·T that are predicted."""
    return batch.tokens if hasattr(batch, "tokens") else batch.size - len(batch)


def pieces_of(batch, count: int) -> list[tuple]:
    """A batch in at most `count` pieces of its rows, each with its share of the batch's mean loss; what has no `pieces`
    of its own and is no array stays whole."""
    if count == 1:
        return [(batch, 1.0)]
    if hasattr(batch, "pieces"):
        return batch.pieces(count)
    if not isinstance(batch, np.ndarray):
        return [(batch, 1.0)]
    return [(part, len(part) / len(batch)) for part in np.array_split(batch, min(count, len(batch)))]
