"""What the engine's process and its owner say to each other: frames of JSON, each behind its length in four bytes.

From the owner:  ["submit", number, stage, request]  ["read", stage, number, tokens]  ["end", stage, number, row]
                 ["cancel", stage, number]  ["stats", question]  ["check", question]
To the owner:    ["ready", models]  or  ["unable", kind, message];  ["loaded", stage]  ["unloaded", stage]
                 ["tokens", [[number, [token, ...]], ...]]  ["failed", number, kind, message]
                 ["answer", question, value]

`number` names a request and `question` a question; the owner counts both. A kind is the name of an exception of
pynanochat.errors.
"""

import json
import struct
from dataclasses import asdict, dataclass

from pynanochat import errors
from pynanochat.engine.requests import Request, Token
from pynanochat.engine.sampling import Sampling

LENGTH = struct.Struct(">I")


@dataclass(frozen=True)
class ModelInfo:
    """One stage of a run."""

    stage: str
    context: int
    """Tokens of prompt and answer together."""
    vocab_size: int
    parameters: int
    step: int
    """Of training, at the newest checkpoint."""
    loaded: bool = False
    """Whether the model is in memory; it is from its first request on."""


def frame(message: list) -> bytes:
    """A message as it goes over the pipe."""
    content = json.dumps(message, separators=(",", ":")).encode()
    return LENGTH.pack(len(content)) + content


def plain_request(request: Request) -> dict:
    """`request` in JSON's types."""
    stop = None if request.stop_tokens is None else sorted(request.stop_tokens)
    return {**vars(request), "sampling": asdict(request.sampling), "stop_tokens": stop}


def request_of(plain: dict) -> Request:
    """The Request of plain_request's answer."""
    stop = None if plain["stop_tokens"] is None else frozenset(plain["stop_tokens"])
    sampling = Sampling(**plain["sampling"])
    return Request(**plain | {"prompt": tuple(plain["prompt"]), "sampling": sampling, "stop_tokens": stop})


def token_of(plain: list) -> Token:
    """A Token of what JSON made of it."""
    *fields, top = plain
    return Token(*fields, tuple((id, logprob) for id, logprob in top))


def error_of(kind: str, message: str) -> errors.PynanochatError:
    """The exception of the other side."""
    return getattr(errors, kind)(message)
