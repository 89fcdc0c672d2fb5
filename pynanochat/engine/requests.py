"""What is asked of the engine and what comes out of it: a Request goes in, Tokens come out one by one."""

from dataclasses import dataclass, field
from typing import NamedTuple

from pynanochat.engine.sampling import Sampling


@dataclass(frozen=True)
class Request:
    """A prompt and how it is to be continued."""

    prompt: tuple[int, ...]
    """Token ids, from <|bos|> on."""
    samples: int = 1
    """Answers to the prompt, which itself runs once."""
    max_tokens: int = 512
    """Of each answer; shortened to what the context leaves."""
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    """With the number of the sample and of the token it decides every draw."""
    stop_tokens: frozenset[int] | None = None
    """Tokens that end an answer; None for <|assistant_end|> and <|bos|>."""
    tools: bool = True
    """Whether calculator calls are answered and their results put into the answer."""
    logprobs: int | None = None
    """None for none; k for each token's log-probability and the k most probable tokens in its place."""
    prompt_logprobs: bool = False
    """Whether the prompt's own tokens come first, as Tokens of row -1, the first of them without a log-probability."""


class Token(NamedTuple):
    """One step of one answer."""

    row: int
    """The number of the sample; -1 for a token of the prompt."""
    id: int
    forced: bool
    """True where the tool's output was put in rather than the model asked."""
    finish: str = ""
    """Set on the last token: "stop" (this is a stop token) or "length"."""
    logprob: float | None = None
    """Natural log of the probability that the model itself gave it: before temperature, penalty and filters."""
    top: tuple[tuple[int, float], ...] = ()
    """The most probable tokens in its place and their log-probabilities, the best first."""
