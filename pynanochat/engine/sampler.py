"""From logits to tokens: temperature, top-k, top-p, and random numbers that belong to the request alone.

A token is the inverse of the cumulative distribution at one uniform number, and that number is a hash of (seed, sample,
position): no generator has a state, so a request draws the same numbers alone, in a batch, or taken up again.

R rows, V vocabulary.
"""

import hashlib
from dataclasses import dataclass

import torch

from pynanochat.errors import UsageError

HOTTEST = 100.0


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn. Raises UsageError for a value out of its range."""

    temperature: float = 0.8
    """Logits are divided by it; 0 always takes the most probable token."""
    top_k: int = 50
    """Only the k most probable tokens (and those equal to the k-th); 0 for all."""
    top_p: float = 1.0
    """Only the most probable tokens that together reach this probability, after top_k."""

    def __post_init__(self):
        if not 0 <= self.temperature <= HOTTEST:
            raise UsageError(f"temperature={self.temperature}: use 0 to {HOTTEST:g}")
        if not (isinstance(self.top_k, int) and self.top_k >= 0):
            raise UsageError(f"top_k={self.top_k}: use a whole number, 0 for all tokens")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p={self.top_p}: use more than 0 and at most 1")


def uniform(seed: int, sample: int, position: int) -> float:
    """The number in [0, 1) that draws the token at `position` of sample number `sample` of a request."""
    digest = hashlib.blake2b(b"%d/%d/%d" % (seed, sample, position), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def probabilities(logits, sampling: Sampling):
    """The distribution (R, V) that `sampling` draws from, for logits (R, V) fp32."""
    if sampling.temperature == 0:
        best = logits.argmax(dim=-1, keepdim=True)
        return torch.zeros_like(logits).scatter_(1, best, 1.0)
    scaled = logits / sampling.temperature
    kept = logits.size(-1)
    if 0 < sampling.top_k < kept:
        smallest = scaled.topk(sampling.top_k, dim=-1).values[:, -1:]
        scaled = scaled.masked_fill(scaled < smallest, -torch.inf)
        kept = int((scaled > -torch.inf).sum(dim=-1).max())
    p = scaled.softmax(dim=-1)
    if sampling.top_p < 1:
        largest = p.topk(kept, dim=-1).values
        before = largest.double().cumsum(dim=-1) - largest  # mass of the more probable tokens
        smallest = largest.masked_fill(before >= sampling.top_p, torch.inf).amin(dim=-1, keepdim=True)
        p = p.masked_fill(p < smallest, 0.0)
    return p


def draw(p, numbers):
    """For each row of p (R, V), not necessarily normalised, the token at its number in [0, 1) of the cumulative sum."""
    mass = p.double().cumsum(dim=-1)
    total = mass[:, -1:]
    at = torch.tensor(numbers, dtype=torch.float64, device=p.device)[:, None] * total
    at = torch.minimum(at, torch.nextafter(total, torch.zeros_like(total)))  # rounding must not reach past the last
    return torch.searchsorted(mass, at, right=True).squeeze(1)


def sample(logits, samplings: list[Sampling], numbers: list[float]):
    """A token (R,) int64 for each row of logits (R, V), rows with their own settings and numbers in [0, 1)."""
    tokens = torch.empty(logits.size(0), dtype=torch.int64, device=logits.device)
    for sampling in set(samplings):
        rows = [row for row, theirs in enumerate(samplings) if theirs == sampling]
        part = logits if len(rows) == len(samplings) else logits[rows]
        if sampling.temperature == 0:
            tokens[rows] = part.argmax(dim=-1)
        else:
            tokens[rows] = draw(probabilities(part, sampling), [numbers[row] for row in rows])
    return tokens
