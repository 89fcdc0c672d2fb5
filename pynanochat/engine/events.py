"""Tokens as people see them: text, tool calls and their outputs, without special tokens or halves of characters."""

from typing import NamedTuple

from pynanochat.tokenizer import StreamDecoder


class Event(NamedTuple):
    """Something to show.

    kind "text": a piece of the answer; "tool_call": a whole expression; "tool_output": a whole result;
    "notice": something the reader should know, such as dropped turns; "end": text is "stop" or "length".
    """

    kind: str
    text: str
    forced: bool = False
    """Of a tool_output: it came from the tool. The model may also write one by itself."""
    tokens: int = 0
    """Of an end: how many the answer took, special tokens and tool outputs included."""


class EventReader:
    """Turns the tokens of one sequence into events: `read` each one, then `close`."""

    def __init__(self, tokenizer):
        special = tokenizer.special_tokens
        self._special = frozenset(special.values())
        self._opens = {special["<|python_start|>"]: "tool_call", special["<|output_start|>"]: "tool_output"}
        self.kind = "text"
        self._decoder = StreamDecoder(tokenizer)
        self._held = ""
        self._tokens = 0

    def read(self, token) -> list[Event]:
        """The events that `token` (a requests.Token) completes."""
        self._tokens += 1
        if token.id not in self._special:
            piece = self._decoder.feed(token.id)
            if self.kind == "text":
                return [Event("text", piece)] if piece else []
            self._held += piece
            return []
        events = self._flush(token.forced)
        self.kind = self._opens.get(token.id, "text")
        return events

    def close(self, finish: str) -> list[Event]:
        """The rest, and the end."""
        return [*self._flush(False), Event("end", finish, tokens=self._tokens)]

    def _flush(self, forced):
        """The event under way, with an unfinished character as U+FFFD."""
        text = self._held + self._decoder.flush()
        self._held = ""
        if self.kind == "text":
            return [Event("text", text)] if text else []
        return [Event(self.kind, text, forced and self.kind == "tool_output")]


def answer_events(tokenizer, ids: list[int], forced: list[bool]) -> list[Event]:
    """The events of a whole answer, as an engine.Generated has it, without its end."""
    reader = EventReader(tokenizer)
    events = [event for pair in zip(ids, forced, strict=True) for event in reader.read(_Token(*pair))]
    return [*events, *reader.close("")[:-1]]


class _Token(NamedTuple):
    id: int
    forced: bool
