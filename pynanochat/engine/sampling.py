"""The settings of a draw, checked when they are made. Needs no torch: the server makes them in a process without it."""

from dataclasses import dataclass

from pynanochat.errors import UsageError

HOTTEST = 100.0
STRONGEST_PENALTY = 10.0


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn, in the order in which it is applied: repetition_penalty, temperature, top_k, top_p, min_p.

    Raises UsageError for a value out of its range.
    """

    temperature: float = 0.8
    """Logits are divided by it; 0 always takes the most probable token."""
    top_k: int = 50
    """Only the k most probable tokens (and those equal to the k-th); 0 for all."""
    top_p: float = 1.0
    """Only the most probable tokens that together reach this share of what top_k left (and those equal to the last)."""
    min_p: float = 0.0
    """Only tokens at least this many times as probable as the most probable one."""
    repetition_penalty: float = 1.0
    """Tokens that the prompt or the answer already has: their logit is divided by it where positive, multiplied by it
    where negative. More than 1 makes them less probable, less than 1 more."""

    def __post_init__(self):
        if not 0 <= self.temperature <= HOTTEST:
            raise UsageError(f"temperature={self.temperature}: use 0 to {HOTTEST:g}")
        if not (isinstance(self.top_k, int) and self.top_k >= 0):
            raise UsageError(f"top_k={self.top_k}: use a whole number, 0 for all tokens")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p={self.top_p}: use more than 0 and at most 1")
        if not 0 <= self.min_p <= 1:
            raise UsageError(f"min_p={self.min_p}: use 0 to 1")
        if not 0 < self.repetition_penalty <= STRONGEST_PENALTY:
            raise UsageError(
                f"repetition_penalty={self.repetition_penalty}: use more than 0 and at most {STRONGEST_PENALTY:g}"
            )
