"""HumanEval: the code is found in the answer, joined to what the prompt gives, and run in the sandbox."""

import pytest

from pynanochat.errors import DataError
from pynanochat.tasks import TaskData, open_task
from pynanochat.tasks.humaneval import HumanEval, extract, program

from .small import HUMANEVAL_ROWS, write_folder

HALF = "def half(x):\n    return 1\n"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (HALF, HALF),
        (f"Here it is:\n```python\n{HALF}```\nDone.", HALF),
        (f"```\n{HALF}\n```", HALF + "\n"),
        (f"```python\n{HALF}", HALF),
        (f"```\nx = 1\n```\nor\n```py\n{HALF}```", HALF),
        ("```\nx = 1\n```\n```\ny = 2\n```", "x = 1\n"),
        ("```python\n```", ""),
        ("", ""),
    ],
)
def test_the_code_of_an_answer(answer, code):
    assert extract(answer, "half") == code


def test_imports_and_helpers_of_the_prompt_come_before_an_answer_that_is_whole():
    prompt = HUMANEVAL_ROWS[1]["prompt"]
    made = program(prompt, "unrot", "def unrot(s):\n    return s\n")
    assert made.count("def rot(") == 1 and made.count("def unrot(") == 1 and made.index("rot(") < made.index("unrot(")


def test_any_other_answer_continues_the_prompt():
    prompt = HUMANEVAL_ROWS[0]["prompt"]
    assert program(prompt, "half", "    return 1") == prompt + "    return 1\n"
    assert program(prompt, "half", "def halfway(x): pass").startswith(prompt)


@pytest.fixture
def task():
    return HumanEval(HUMANEVAL_ROWS)


@pytest.mark.parametrize("index", range(len(HUMANEVAL_ROWS)))
def test_reference_answers_pass_however_they_are_written(task, index):
    row, conversation = HUMANEVAL_ROWS[index], task[index]
    bare = row["prompt"][row["prompt"].index(f"def {row['entry_point']}") :] + row["canonical_solution"]
    for answer in (conversation["messages"][-1]["content"], f"```\n{bare}```", bare, row["canonical_solution"]):
        assert task.grade(conversation, answer), answer


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "I do not know.",
        "    return 3\n",
        "    import sys; sys.exit(0)\n",
        "    return floor(x / 2) if x != -1 else 0\n",
        "def half(x):\n    while True: pass\n",
        "```python\ndef half(x)\n    return 3\n```",
        "def check(f): pass\n\ndef half(x):\n    return 3\n",
    ],
)
def test_wrong_answers_fail(task, answer, monkeypatch):
    monkeypatch.setattr("pynanochat.tasks.humaneval.SECONDS", 2.0)
    assert not task.grade(task[0], answer)


def test_it_is_for_testing_only(tmp_path):
    where = TaskData(str(write_folder(tmp_path)))
    assert len(open_task("HumanEval", "test", where)) == 2
    for split in ("train", "val"):
        with pytest.raises(DataError, match=f"no {split} part, all of it is for testing"):
            open_task("HumanEval", split, where)
