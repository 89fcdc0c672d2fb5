"""Reads files of conversations: .jsonl and .jsonl.gz, in any of three forms, recognised line by line.

    conversations = ChatFile("chat.jsonl.gz")       # a sequence of {"messages": [{"role", "content"}, ...]}

    {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}
    {"conversations": [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "hello"}]}        ShareGPT
    {"instruction": "Translate", "input": "hola", "output": "hello"}                                Alpaca

Roles alternate, user first; a system message may stand before them; the last message is the assistant's, and its
content may be a list of parts (tokenizer/chat.py). Whatever is wrong is a DataError that names the file, the line and
the remedy.
"""

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

from pynanochat.errors import DataError

SUFFIXES = (".jsonl", ".jsonl.gz")
LONGEST_LINE = 64 << 20  # bytes: a longer one is no conversation but a mistake
FORMS = '{"messages": [...]}, {"conversations": [...]} or {"instruction": ..., "output": ...}'
SPEAKERS = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant",
    "model": "assistant", "bot": "assistant", "system": "system",
}  # fmt: skip
PART_TYPES = ("text", "python", "python_output")


class ChatFile:
    """The conversations of one file. They are held as JSON text, which takes a fifth of the memory of objects."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._lines = [
            json.dumps(conversation_of(row, place), ensure_ascii=False).encode("utf-8", "surrogatepass")
            for place, row in json_lines(self.path)
        ]
        if not self._lines:
            raise DataError(f"{path}: it has no conversations; put one on each line as {FORMS}")

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> dict:
        return json.loads(self._lines[index].decode("utf-8", "surrogatepass"))

    def __iter__(self) -> Iterator[dict]:
        return (self[index] for index in range(len(self)))

    def hash(self) -> str:
        """A SHA-256 (hex) of the conversations."""
        sha = hashlib.sha256()
        for line in self._lines:
            sha.update(line + b"\n")
        return sha.hexdigest()


def json_lines(path: Path) -> Iterator[tuple[str, dict]]:
    """("FILE, line N", row) of every line that is not blank. Raises DataError."""
    number = 0
    try:
        with gzip.open(path, "rb") if path.name.endswith(".gz") else open(path, "rb") as file:
            while line := file.readline(LONGEST_LINE + 1):
                number += 1
                place = f"{path}, line {number}"
                if len(line) > LONGEST_LINE:
                    raise DataError(f"{place}: longer than {LONGEST_LINE >> 20} MiB; put one JSON object on each line")
                if number == 1:
                    line = line.removeprefix(b"\xef\xbb\xbf")
                if line.strip():
                    yield place, row_of(line, place)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the name") from None
    except (OSError, EOFError, zlib.error) as error:  # BadGzipFile is an OSError
        raise DataError(f"{path}: cannot be read after line {number} ({error}); copy the file again") from None


def row_of(line: bytes, place: str) -> dict:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        detail = error.msg if isinstance(error, json.JSONDecodeError) else "not UTF-8 or nested too deep"
        raise DataError(f"{place}: not JSON ({detail}); write one JSON object a line") from None
    if not isinstance(row, dict):
        raise DataError(f"{place}: {short(row)} is no JSON object; write {FORMS}")
    return row


def conversation_of(row: dict, place: str = "conversation") -> dict:
    """{"messages": [...]} of a row in any of the three forms. Raises DataError with `place` in front."""
    if "messages" in row:
        messages = row["messages"]
    elif "conversations" in row:
        messages = share_gpt(row["conversations"], place)
    elif "instruction" in row and "output" in row:
        asked = [text for text in (row["instruction"], row.get("input")) if text]
        if not all(isinstance(text, str) for text in asked):
            raise DataError(f"{place}: instruction and input must be strings; write {FORMS}")
        messages = [{"role": "user", "content": "\n\n".join(asked)}, {"role": "assistant", "content": row["output"]}]
    else:
        raise DataError(f"{place}: has the keys {short(sorted(row))}; write {FORMS}")
    return {"messages": checked(messages, place)}


def share_gpt(turns, place: str) -> list[dict]:
    if not isinstance(turns, list):
        raise DataError(f"{place}: conversations is {short(turns)}; it must be a list of from and value")
    messages = []
    for number, turn in enumerate(turns):
        if not isinstance(turn, dict) or "value" not in turn:
            raise DataError(f'{place}: turn {number} is {short(turn)}; write {{"from": "human", "value": "..."}}')
        speaker = turn.get("from")
        if not isinstance(speaker, str) or speaker not in SPEAKERS:
            raise DataError(f"{place}: turn {number} is from {short(speaker)}; use human, gpt or system")
        messages.append({"role": SPEAKERS[speaker], "content": turn["value"]})
    return messages


def checked(messages, place: str) -> list[dict]:
    """The messages with only role and content, or a DataError."""
    if not isinstance(messages, list):
        raise DataError(f"{place}: messages is {short(messages)}; it must be a list")
    clean = []
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise DataError(f"{place}: message {number} is {short(message)}; it needs role and content")
        role, content = message["role"], message["content"]
        system = bool(clean) and clean[0]["role"] == "system"
        expected = ("user", "assistant")[(number - system) % 2]
        if role != expected and not (role == "system" and number == 0):
            raise DataError(f"{place}: message {number} has role {short(role)}, not {expected}; roles must alternate")
        if not (content_is_text(content) or (role == "assistant" and content_is_parts(content))):
            raise DataError(f"{place}: message {number} ({role}) has content {short(content)}; it must be text")
        clean.append({"role": role, "content": content})
    if len(clean) < 2 or clean[-1]["role"] != "assistant":
        raise DataError(f"{place}: the last message is not the assistant's; add the answer, or drop the question")
    return clean


def content_is_text(content) -> bool:
    return isinstance(content, str) and bool(content.strip())


def content_is_parts(content) -> bool:
    return (
        isinstance(content, list)
        and bool(content)
        and all(isinstance(p, dict) and p.get("type") in PART_TYPES and isinstance(p.get("text"), str) for p in content)
    )


def short(value) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
