"""Answers as OpenAI's JSON: whole objects, the chunks of a stream, log-probabilities, usage."""

import secrets
import time
from dataclasses import dataclass, field

from pynanochat.serve.answer import Answer, Piece, joined
from pynanochat.serve.read_request import Wishes


@dataclass
class Reply:
    """What all parts of one answer have in common, and its counts."""

    kind: str
    """chat.completion or text_completion."""
    model: str
    wishes: Wishes
    context: int
    prompt_tokens: int = 0
    dropped_turns: int = 0
    notices: list[Piece] = field(default_factory=list)
    """Shown before the answer."""

    def __post_init__(self):
        prefix = "chatcmpl" if self.kind.startswith("chat") else "cmpl"
        self.id, self.created = f"{prefix}-{secrets.token_hex(12)}", int(time.time())

    def whole(self, choices: list[dict], visits) -> dict:
        return self._frame(self.kind) | {"choices": choices} | self.usage(visits)

    def chunk(self, choices: list[dict], **more) -> dict:
        kind = self.kind + ".chunk" if self.kind.startswith("chat") else self.kind
        return self._frame(kind) | {"choices": choices} | more

    def _frame(self, kind):
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def usage(self, visits) -> dict:
        """The `usage` and `pynanochat` fields once all visits have ended."""
        made = sum(visit.made for visit in visits)
        first = min((visit.first for visit in visits if visit.made), default=0.0)
        seconds = max((visit.last for visit in visits), default=0.0) - first
        facts = {
            "context": self.context,
            "dropped_turns": self.dropped_turns,
            "ttft_ms": round(1000 * (first - visits[0].arrived), 1) if first else None,
            "tokens_per_second": round((made - 1) / seconds, 1) if made > 1 and seconds > 0 else None,
        }
        usage = {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": made,
            "total_tokens": self.prompt_tokens + made,
        }
        return {"usage": usage, "pynanochat": facts}


def chat_choice(tokenizer, wishes: Wishes, index: int, answer: Answer, pieces: list[Piece]) -> dict:
    """A whole choice of a chat completion."""
    pieces = joined(pieces)
    text = "".join(piece.text for piece in pieces if piece.kind == "text")
    tokens = [token for piece in pieces for token in piece.tokens]
    return {
        "index": index,
        "message": {"role": "assistant", "content": text, "refusal": None},
        "logprobs": chat_logprobs(tokenizer, tokens, wishes.top),
        "finish_reason": answer.finish,
        "pynanochat": {"events": [piece.event() for piece in pieces if piece.text or piece.kind != "text"]},
    }


def chat_delta(tokenizer, wishes: Wishes, index: int, piece: Piece) -> dict:
    """The choice of one chunk."""
    choice = {"index": index, "delta": {}, "logprobs": None, "finish_reason": None}
    if piece.kind == "text":
        choice["delta"] = {"content": piece.text}
        choice["logprobs"] = chat_logprobs(tokenizer, piece.tokens, wishes.top)
    else:
        choice["pynanochat"] = {"events": [piece.event()]}
    return choice


def chat_edge(index: int, finish: str | None = None) -> dict:
    """The choice of the first chunk, or of the last."""
    delta = {} if finish else {"role": "assistant", "content": ""}
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}


def chat_logprobs(tokenizer, tokens, top: int | None) -> dict | None:
    """OpenAI's `logprobs` of a chat choice."""
    if top is None:
        return None
    content = []
    for token in tokens:
        alternatives = [_named(tokenizer, id, logprob) for id, logprob in token.top[:top]]
        content.append(_named(tokenizer, token.id, token.logprob) | {"top_logprobs": alternatives})
    return {"content": content, "refusal": None}


def _named(tokenizer, id, logprob) -> dict:
    raw = tokenizer.token_bytes(id)
    return {"token": raw.decode("utf-8", errors="replace"), "logprob": logprob, "bytes": list(raw)}


def text_choice(tokenizer, wishes: Wishes, index: int, piece: Piece, offset: int, finish: str | None) -> dict:
    """A choice of a text completion, or of one of its chunks; `offset` characters came before it."""
    logprobs = text_logprobs(tokenizer, piece.tokens, wishes.top, offset)
    return {"index": index, "text": piece.text, "logprobs": logprobs, "finish_reason": finish}


def text_logprobs(tokenizer, tokens, top: int | None, offset: int) -> dict | None:
    """OpenAI's `logprobs` of a completion: four lists, one entry a token."""
    if top is None:
        return None
    name = lambda id: tokenizer.token_bytes(id).decode("utf-8", errors="replace")  # noqa: E731
    result = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for token in tokens:
        result["tokens"].append(name(token.id))
        result["token_logprobs"].append(token.logprob)
        likely = {name(id): logprob for id, logprob in reversed(token.top[:top])}  # of equal names the likelier
        likely.setdefault(result["tokens"][-1], token.logprob)
        result["top_logprobs"].append(None if token.logprob is None else likely)
        result["text_offset"].append(offset)
        offset += len(result["tokens"][-1])
    return result
