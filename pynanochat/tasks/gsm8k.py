"""GSM8K: word problems of grade-school mathematics, solved step by step with the calculator.

The solutions mark each step of arithmetic as `<<48/2=24>>`: it becomes a call of the tool (a python part `48/2`) and
its output (`24`). The answer is the number after `####`. In a folder: tasks/gsm8k_{train,test}.jsonl[.gz]; on the Hub:
openai/gsm8k. There is no validation part; the first 420 test questions stand in for it.
"""

import re
from fractions import Fraction

from pynanochat.tasks.base import TaskData
from pynanochat.tasks.rows import RowsTask, field, find_file, find_rows

VALIDATION = 420
_STEP = re.compile(r"<<([^<>]*)>>")
_ANSWER = re.compile(r"####\s*\$?\s*(-?[0-9.,]{1,40})(?![0-9.,])")


class GSM8K(RowsTask):
    """Rows {"question", "answer"}."""

    name = "GSM8K"
    kind = "generate"

    def conversation(self, row: dict) -> dict:
        solution = field(row, "answer", str, "GSM8K")
        return {
            "messages": [
                {"role": "user", "content": field(row, "question", str, "GSM8K")},
                {"role": "assistant", "content": parts(solution)},
            ]
        }

    def grade(self, conversation: dict, answer: str) -> bool:
        """Whether the number after `####` is the reference's. No such number is wrong."""
        wanted = final_number(said(conversation["messages"][-1]["content"]))
        return wanted is not None and final_number(answer) == wanted


def parts(solution: str) -> list[dict]:
    """A solution as parts: text, and for each `<<expr=result>>` the tool's call and its output."""
    found = []
    pieces = _STEP.split(solution)  # text, step, text, step, ..., text
    for number, piece in enumerate(pieces):
        if number % 2 == 0:
            found += [{"type": "text", "text": piece}] if piece else []
            continue
        expression, equals, result = piece.rpartition("=")
        found.append({"type": "python", "text": expression if equals else piece})
        found += [{"type": "python_output", "text": result}] if equals else []
    return found


def said(content: str | list[dict]) -> str:
    """What the assistant says in a message: its text without tool calls and their outputs."""
    return content if isinstance(content, str) else "".join(p["text"] for p in content if p["type"] == "text")


def final_number(text: str) -> Fraction | None:
    """The number after the first `####`, its commas dropped, or None. 18, 18.0 and 18. are the same number."""
    found = _ANSWER.search(text)
    if not found:
        return None
    try:
        return Fraction(found.group(1).replace(",", "").rstrip("."))
    except ValueError:
        return None


def open_gsm8k(split: str, where: TaskData) -> GSM8K:
    part = "train" if split == "train" else "test"
    rows = find_rows(where, "GSM8K", [f"gsm8k_{part}"], "openai/gsm8k", [f"main/{part}-"])
    return GSM8K([rows[i] for i in range(min(VALIDATION, len(rows)))] if split == "val" else rows)


def has_gsm8k(where: TaskData) -> bool:
    """Whether the test part is in the folder."""
    return find_file(where.folder / "tasks", ["gsm8k_test"]) is not None
