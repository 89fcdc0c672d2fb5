"""ARC: grade-school science questions, an easy and a challenging set, with three to five options.

In a folder: tasks/arc_easy_{train,validation,test}.jsonl[.gz]. Where the test part is not there, the CORE bundle's copy
of it, core/arc_easy.jsonl[.gz], is read instead. On the Hub: allenai/ai2_arc.
"""

from pynanochat.errors import DataError
from pynanochat.tasks.base import TaskData
from pynanochat.tasks.choices import choice, chosen
from pynanochat.tasks.rows import RowsTask, field, find_file, find_rows, read_rows

PARTS = {"train": "train", "val": "validation", "test": "test"}
CORE_PREFIX = "Question: "


class ARC(RowsTask):
    """ARC-Easy or ARC-Challenge. Rows as published, or of the CORE bundle."""

    kind = "choice"
    baseline = 0.25

    def __init__(self, name: str, rows):
        super().__init__(rows)
        self.name = name

    def conversation(self, row: dict) -> dict:
        if "query" in row:  # of the CORE bundle
            return choice(row["query"].removeprefix(CORE_PREFIX), row["choices"], row["gold"])
        choices = field(row, "choices", dict, self.name)
        labels, answer = list(choices["label"]), field(row, "answerKey", str, self.name)
        if answer not in labels:
            raise DataError(f"{self.name}: the answer {answer!r} is none of {labels}; use the published files")
        return choice(field(row, "question", str, self.name), list(choices["text"]), labels.index(answer))

    def grade(self, conversation: dict, answer: str) -> bool:
        return chosen(conversation, answer)


def open_arc(name: str, split: str, where: TaskData) -> ARC:
    """The task "ARC-Easy" or "ARC-Challenge"."""
    stem = name.lower().replace("-", "_")
    names = [f"{stem}_{PARTS[split]}"]
    if split == "test" and where.folder and not find_file(where.folder / "tasks", names):
        bundled = find_file(where.folder / "core", [stem])
        if bundled:
            return ARC(name, read_rows(bundled))
    return ARC(name, find_rows(where, name, names, "allenai/ai2_arc", [f"{name}/{PARTS[split]}-"]))


def has_arc(name: str, where: TaskData) -> bool:
    """Whether the test part is in the folder."""
    stem = name.lower().replace("-", "_")
    return bool(find_file(where.folder / "tasks", [f"{stem}_test"]) or find_file(where.folder / "core", [stem]))
