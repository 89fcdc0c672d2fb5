"""A conversation in a file: one JSON object {"messages": [...]}, or one such object a line in a file named *.jsonl."""

import json
import os
from pathlib import Path

from pynanochat.errors import DataError, UsageError


def save(path: Path, messages: list[dict]) -> None:
    """Write the conversation: the whole file, or one more line of a .jsonl file. Raises UsageError where it cannot be
    written, or where a file is there that holds something else."""
    if path.is_file() and path.stat().st_size:
        load(path)
    conversation = {"messages": messages}
    try:
        if path.suffix == ".jsonl":
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(conversation, ensure_ascii=False) + "\n")
        else:
            temporary = path.with_name(path.name + ".writing")
            temporary.write_text(json.dumps(conversation, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
            os.replace(temporary, path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}; name another file") from error


def load(path: Path) -> list[dict]:
    """The messages of the conversation in a file, of the last one in a .jsonl file. Raises UsageError where the file
    cannot be read, DataError where it holds something else."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}; name a file that /save wrote") from error
    except ValueError as error:
        raise DataError(f"{path}: not a text file; name one that /save wrote") from error
    if path.suffix == ".jsonl":
        text = text.strip().rpartition("\n")[2]
    try:
        conversation = json.loads(text)
    except ValueError as error:
        raise DataError(f"{path}: no JSON ({error}); name a file that /save wrote") from error
    messages = conversation.get("messages") if isinstance(conversation, dict) else conversation
    if not isinstance(messages, list) or not messages:
        raise DataError(f'{path}: no conversation; it must be {{"messages": [one or more messages]}}')
    return messages
