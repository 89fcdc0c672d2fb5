"""HumanEval: write a Python function from its signature and docstring; right when the problem's own tests pass.

The tests run in the sandbox, never in this process. In a folder: tasks/HumanEval.jsonl[.gz]; on the Hub:
openai/openai_humaneval. All 164 problems are for testing.
"""

import re

from pynanochat.errors import DataError
from pynanochat.tasks.base import TaskData
from pynanochat.tasks.rows import RowsTask, field, find_file, find_rows

NAMES = ["HumanEval", "humaneval"]
SECONDS = 5.0  # for a problem's tests; the slowest canonical solution takes well under one
_FENCE = re.compile(r"```[^\n`]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)


class HumanEval(RowsTask):
    """Rows {"prompt", "entry_point", "canonical_solution", "test"}."""

    name = "HumanEval"
    kind = "generate"
    runs_code = True

    def conversation(self, row: dict) -> dict:
        prompt, solution, entry_point, test = (
            field(row, name, str, "HumanEval") for name in ("prompt", "canonical_solution", "entry_point", "test")
        )
        return {
            "messages": [
                {"role": "user", "content": prompt},
                {"role": "assistant", "content": f"```python\n{prompt}{solution}\n```"},
            ],
            "entry_point": entry_point,
            "test": test,
        }

    def grade(self, conversation: dict, answer: str) -> bool:
        """Whether the program that `answer` gives passes the problem's tests in the sandbox."""
        from pynanochat.tools import sandbox

        code = program(conversation["messages"][0]["content"], conversation["entry_point"], answer)
        check = f"{conversation['test']}\ncheck({conversation['entry_point']})\n"
        return sandbox.passes(code, check, timeout=SECONDS).passed


def extract(answer: str, entry_point: str) -> str:
    """The code of an answer: its code fence that defines the function, else its first fence, else all of it."""
    blocks = _FENCE.findall(answer)
    return next((block for block in blocks if defines(block, entry_point)), blocks[0] if blocks else answer)


def defines(code: str, function: str) -> bool:
    return re.search(rf"^def\s+{re.escape(function)}\s*\(", code, re.MULTILINE) is not None


def program(prompt: str, entry_point: str, answer: str) -> str:
    """What is run before the tests. An answer that defines the function follows the imports and helpers that the
    prompt has before it; any other is taken to go on where the prompt ends."""
    code = extract(answer, entry_point)
    if not defines(code, entry_point):
        return f"{prompt}{code}\n"
    begin = re.search(rf"^def\s+{re.escape(entry_point)}\s*\(", prompt, re.MULTILINE)
    return f"{prompt[: begin.start()] if begin else ''}\n{code}\n"


def open_humaneval(split: str, where: TaskData) -> HumanEval:
    if split != "test":
        raise DataError(f"HumanEval has no {split} part, all of it is for testing; leave it out of the training tasks")
    return HumanEval(find_rows(where, "HumanEval", NAMES, "openai/openai_humaneval", ["openai_humaneval/test-"]))


def has_humaneval(where: TaskData) -> bool:
    return find_file(where.folder / "tasks", NAMES) is not None
