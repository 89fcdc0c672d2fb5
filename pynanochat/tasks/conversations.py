"""The user's own conversations: FOLDER/sft/*.jsonl and *.jsonl.gz, in the forms that data/chat_files.py knows.

About one in twenty is held out for validation. Which ones is decided by the first question's words, so that it does not
depend on the order of files or lines, and one question is never on both sides.
"""

from pathlib import Path
from zlib import crc32

from pynanochat.data.chat_files import SUFFIXES, ChatFile
from pynanochat.data.mixture import Part, content_hash
from pynanochat.errors import DataError
from pynanochat.tasks.base import Task, TaskData
from pynanochat.tasks.hygiene import asked, normalised

HOLD_OUT = 20


class Conversations(Task):
    """The conversations of several files, the training or the validation side of them."""

    name = "Conversations"
    kind = "chat"

    def __init__(self, files: list[ChatFile], split: str):
        self._files = [
            Part(file, [i for i in range(len(file)) if held_out(file[i]) == (split != "train")]) for file in files
        ]
        self._places = [(file, i) for file in self._files for i in range(len(file))]

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> dict:
        file, place = self._places[index]
        return file[place]

    def hash(self) -> str:
        """Identifies the conversations of every file."""
        return "-".join(content_hash(file) for file in self._files)


def held_out(conversation: dict) -> bool:
    """Whether a conversation belongs to validation."""
    return crc32(normalised(asked(conversation)[0]).encode()) % HOLD_OUT == 0


def chat_paths(folder: Path) -> list[Path]:
    """The conversation files of FOLDER/sft, sorted by name."""
    where = folder / "sft"
    if not where.is_dir():
        return []
    return sorted(
        p for p in where.iterdir() if p.name.endswith(SUFFIXES) and not p.name.startswith(".") and p.is_file()
    )


def open_conversations(split: str, where: TaskData) -> Conversations:
    paths = chat_paths(where.folder) if where.folder else []
    if not paths:
        raise DataError(
            f"--data {where.data}: no conversations; put .jsonl or .jsonl.gz files into FOLDER/sft, use --data FOLDER"
        )
    return Conversations([ChatFile(path) for path in paths], split)
