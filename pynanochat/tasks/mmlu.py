"""MMLU: exam questions of 57 subjects with four options.

In a folder: tasks/mmlu_{auxiliary_train or dev,validation,test or test_sample}.jsonl[.gz]; on the Hub: cais/mmlu, whose
auxiliary_train part is for training.
"""

from pynanochat.errors import DataError
from pynanochat.tasks.base import TaskData
from pynanochat.tasks.choices import choice, chosen
from pynanochat.tasks.rows import RowsTask, field, find_file, find_rows

NAMES = {
    "train": ["mmlu_auxiliary_train", "mmlu_dev"],
    "val": ["mmlu_validation"],
    "test": ["mmlu_test", "mmlu_test_sample"],
}
PREFIXES = {
    "train": ["all/auxiliary_train-", "auxiliary_train/"],
    "val": ["all/validation-"],
    "test": ["all/test-"],
}


class MMLU(RowsTask):
    """Rows {"question", "choices", "answer": index of the right one, "subject"}."""

    name = "MMLU"
    kind = "choice"
    baseline = 0.25

    def conversation(self, row: dict) -> dict:
        if isinstance(row.get("train"), dict):  # as one of the Hub's copies of auxiliary_train has it
            row = row["train"]
        options, answer = list(field(row, "choices", list, "MMLU")), field(row, "answer", int, "MMLU")
        if not 0 <= answer < len(options):
            raise DataError(f"MMLU: the answer {answer} is none of {len(options)} options; use the published files")
        return choice(field(row, "question", str, "MMLU"), options, answer) | {"subject": row.get("subject") or ""}

    def grade(self, conversation: dict, answer: str) -> bool:
        return chosen(conversation, answer)


def open_mmlu(split: str, where: TaskData) -> MMLU:
    return MMLU(find_rows(where, "MMLU", NAMES[split], "cais/mmlu", PREFIXES[split]))


def has_mmlu(where: TaskData) -> bool:
    """Whether the test part is in the folder."""
    return find_file(where.folder / "tasks", NAMES["test"]) is not None
