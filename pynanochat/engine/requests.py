"""What is asked of the engine and what comes out of it: a Request goes in, Tokens come out one by one."""

from dataclasses import dataclass, field
from typing import NamedTuple

from pynanochat.engine.sampling import Sampling
from pynanochat.errors import UsageError

MOST_LOGPROBS = 20


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


def check(request: Request, context: int, vocabulary: int) -> None:
    """Raise UsageError for a request that a model with this context and so many tokens cannot meet."""
    prompt = request.prompt
    if request.samples < 1 or request.max_tokens < 1:
        raise UsageError(f"samples={request.samples}, max_tokens={request.max_tokens}: both must be at least 1")
    if not prompt:
        raise UsageError("the prompt is empty: begin it with <|bos|>")
    if len(prompt) >= context:
        raise UsageError(
            f"the prompt has {len(prompt):,} tokens and the model's context is {context:,}, "
            f"its answer included: shorten the prompt to {context - 1:,} tokens"
        )
    if not 0 <= min(prompt) <= max(prompt) < vocabulary:
        raise UsageError(
            f"the prompt has token ids from {min(prompt)} to {max(prompt)}: the model's are 0 to {vocabulary - 1}"
        )
    if request.logprobs is not None and not 0 <= request.logprobs <= MOST_LOGPROBS:
        raise UsageError(f"logprobs={request.logprobs}: use 0 to {MOST_LOGPROBS}")
