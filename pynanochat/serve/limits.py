"""What a server allows, and what it assumes where a request says nothing; each field is a flag of `pynanochat serve`.

Limits are checked before the engine hears of a request; GET /stats shows them by these names.
"""

from dataclasses import asdict, dataclass, fields

from pynanochat.errors import UsageError
from pynanochat.settings import check_numbers


@dataclass(frozen=True)
class Limits:
    body_bytes: int = 1_048_576
    """Bytes of a request's body."""
    messages: int = 500
    """Messages of a conversation."""
    message_characters: int = 8_000
    """Characters of one message."""
    conversation_characters: int = 32_000
    """Characters of a conversation, or of all prompts of one completion request."""
    prompts: int = 32
    """Prompts of one completion request."""
    max_tokens: int = 4_096
    """Tokens of one answer."""
    n: int = 8
    """Answers to one prompt."""
    temperature: float = 2.0
    """Highest temperature."""
    top_k: int = 200
    """Highest top_k."""
    top_logprobs: int = 20
    """Alternatives shown for a token."""
    stop: int = 8
    """Stop strings of a request."""
    stop_characters: int = 200
    """Characters of one stop string."""
    queue_requests: int = 256
    """Requests that wait for their first token; one more is refused with status 429."""
    queue_tokens: int = 1_048_576
    """Tokens of the requests that wait, their longest answers included; more are refused with status 429."""
    connections: int = 1_024
    """Open connections; the one that was idle longest makes room for another."""
    header_seconds: float = 10.0
    """From the first byte of a request, or from the connection's start, to the end of its headers."""
    body_seconds: float = 30.0
    """From the end of the headers to the end of the body."""
    idle_seconds: float = 75.0
    """How long a connection may stay open between two requests."""
    stall_seconds: float = 30.0
    """How long a reader may leave the socket full before its connection is cut and its request cancelled."""
    drain_seconds: float = 30.0
    """How long answers under way may go on once the server is told to stop."""

    def __post_init__(self):
        check_numbers(self, positive=[field.name for field in fields(self)], flag_prefix="limit_")


@dataclass(frozen=True)
class Defaults:
    temperature: float = 0.8
    """Temperature of a request that names none."""
    top_k: int = 50
    """top_k of a request that names none."""
    top_p: float = 1.0
    """top_p of a request that names none."""
    min_p: float = 0.0
    """min_p of a request that names none."""
    repetition_penalty: float = 1.0
    """Repetition penalty of a request that names none."""
    max_tokens: int = 512
    """Longest answer of a chat request that names none."""

    def check(self, limits: Limits) -> None:
        """Raise UsageError for a default that a request could not ask for."""
        ranges = {
            "temperature": (0, limits.temperature),
            "top_k": (0, limits.top_k),
            "top_p": (1e-6, 1),
            "min_p": (0, 1),
            "repetition_penalty": LOWEST_AND_HIGHEST_PENALTY,
            "max_tokens": (1, limits.max_tokens),
        }
        for name, value in asdict(self).items():
            low, high = ranges[name]
            if not low <= value <= high:
                raise UsageError(f"--default-{name.replace('_', '-')} {value}: must be {low:g} to {high:g}")


LOWEST_AND_HIGHEST_PENALTY = (0.1, 10.0)
