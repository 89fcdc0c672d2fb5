"""One answer as its tokens come: whole characters, tool calls, stop strings, log-probabilities.

    answer = Answer(tokenizer, stop=("\\n\\n",), top=5)
    for token in tokens_of_this_row:
        for piece in answer.read(token): ...
        if answer.finish: break

Text that may yet become a stop string is held back until it is clear that it does not.
"""

from typing import NamedTuple

from pynanochat.engine.events import EventReader


class Piece(NamedTuple):
    """Something that is certain now. kind: "text", "tool_call", "tool_output" or "notice"."""

    kind: str
    text: str
    forced: bool = False
    tokens: tuple = ()
    """Of text: the engine's Tokens that it is made of, where log-probabilities were asked for."""

    def event(self) -> dict:
        """As the `pynanochat` field of an answer shows it."""
        event = {"kind": self.kind, "text": self.text}
        return event | {"forced": self.forced} if self.kind == "tool_output" else event


class Answer:
    """Reads the tokens of one row. `finish` is "stop" or "length" once it has ended."""

    def __init__(self, tokenizer, stop: tuple[str, ...] = (), top: int | None = None):
        self.finish = ""
        self._special = frozenset(tokenizer.special_tokens.values())
        self._reader = EventReader(tokenizer)
        self._stop, self._keep_tokens = stop, top is not None
        self._held = ""
        self._tokens: list[tuple[int, int, object]] = []  # (start, end in _held, Token)

    def read(self, token) -> list[Piece]:
        """The pieces that a token (engine.requests.Token) makes certain."""
        if self.finish:
            return []
        pieces = []
        if token.finish != "stop":
            events = self._reader.read(token)
            pieces = self._take(events, token if token.id not in self._special else None)
        if token.finish and not self.finish:
            pieces += self._take(self._reader.close(token.finish)[:-1], None)
            pieces += self._release(len(self._held)) if not self.finish else []
            self.finish = self.finish or token.finish
        return pieces

    def _take(self, events, token):
        pieces, start = [], len(self._held)
        for event in events:
            if event.kind == "text":
                self._held += event.text
            else:  # a tool's part ends the text before it, and no stop string reaches over it
                pieces += self._release(len(self._held))
                pieces.append(Piece(event.kind, event.text, event.forced))
                start = 0
        if token is not None and self._keep_tokens and self._reader.kind == "text":
            self._tokens.append((start, len(self._held), token))
        return pieces + self._certain()

    def _certain(self):
        """Release what no stop string can reach any more; or end before the stop string that is complete first."""
        found = [(at + len(stop), at) for stop in self._stop if (at := self._held.find(stop)) >= 0]
        if found:
            self.finish, (_, cut) = "stop", min(found)
            self._tokens = [part for part in self._tokens if part[0] < cut]
            self._held = self._held[:cut]
            return self._release(cut)
        return self._release(len(self._held) - self._waiting())

    def _waiting(self) -> int:
        """Characters at the end of the text that a stop string may begin with."""
        for size in range(min(len(self._held), max(map(len, self._stop), default=0)), 0, -1):
            tail = self._held[-size:]
            if any(stop.startswith(tail) for stop in self._stop):
                return size
        return 0

    def _release(self, size):
        """The first `size` characters that are held, with the tokens that end there."""
        text, self._held = self._held[:size], self._held[size:]
        tokens = tuple(token for _, end, token in self._tokens if end <= size)
        if self.finish:  # a token that the stop string cut through counts with what is left of it
            tokens = tuple(token for _, _, token in self._tokens)
        left = self._tokens[len(tokens) :]
        self._tokens = [(start - size, end - size, token) for start, end, token in left]
        return [Piece("text", text, tokens=tokens)] if text or tokens else []


def joined(pieces: list[Piece]) -> list[Piece]:
    """The pieces with neighbouring text made one."""
    result: list[Piece] = []
    for piece in pieces:
        if result and piece.kind == result[-1].kind == "text":
            before = result.pop()
            piece = Piece("text", before.text + piece.text, tokens=before.tokens + piece.tokens)
        result.append(piece)
    return result
