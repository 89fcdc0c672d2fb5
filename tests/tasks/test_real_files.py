"""The published files, where a copy lies beside the repository (../shared/data) or at $PYNANOCHAT_TEST_DATA."""

import os
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest

from pynanochat.tasks import TaskData, available, open_task
from pynanochat.tasks.gsm8k import said
from pynanochat.tasks.hygiene import leaks
from pynanochat.tasks.mixtures import training, validation

BESIDE = [Path(os.environ.get("PYNANOCHAT_TEST_DATA", "")), *(p / "shared" / "data" for p in Path(__file__).parents)]
FOLDER = next((folder for folder in BESIDE if (folder / "tasks" / "HumanEval.jsonl.gz").is_file()), None)
pytestmark = pytest.mark.skipif(FOLDER is None, reason="no shared/data beside the repository")


@pytest.fixture(scope="module")
def where():
    return TaskData(str(FOLDER))


def test_everything_is_there(where):
    sizes = {name: len(open_task(name, "test", where)) for name in available(where)}
    assert sizes == {
        "ARC-Easy": 2376, "ARC-Challenge": 1172, "MMLU": 1501, "GSM8K": 1319, "HumanEval": 164, "SpellingBee": 256,
        "SimpleSpelling": 256,
    }  # fmt: skip


@pytest.mark.parametrize(("split", "count"), [("train", 7473), ("test", 1319)])
def test_all_reference_answers_of_gsm8k_are_right(where, split, count):
    task = open_task("GSM8K", split, where)
    right = sum(task.grade(task[i], said(task[i]["messages"][-1]["content"])) for i in range(len(task)))
    assert right == len(task) == count


def test_the_calculator_gives_the_outputs_of_gsm8k(where):
    """Where it does not, the data itself is rounded or wrong: fewer than one step in a hundred."""
    from pynanochat.tools.calculator import calculate

    task, steps, equal = open_task("GSM8K", "train", where), 0, 0
    for i in range(len(task)):
        content = task[i]["messages"][-1]["content"]
        for call, output in pairwise(content):
            if call["type"] == "python":
                steps, equal = steps + 1, equal + (calculate(call["text"]) == output["text"])
    assert steps > 20_000 and equal / steps > 0.97


@pytest.mark.parametrize("kind", ["canonical", "mutated"])
def test_canonical_solutions_pass_164_of_164_and_broken_ones_fail(where, kind):
    task = open_task("HumanEval", "test", where)

    def passes(i):
        conversation, row = task[i], task.rows[i]
        body = row["canonical_solution"] if kind == "canonical" else "    return None\n"
        return task.grade(conversation, f"```python\n{row['prompt']}{body}```")

    with ThreadPoolExecutor(2) as pool:
        right = list(pool.map(passes, range(len(task))))
    assert len(right) == 164 and sum(right) == (164 if kind == "canonical" else 0)


@pytest.mark.parametrize(("stage", "merged"), [("midtrain", False), ("sft", False), ("sft", True)])
def test_no_test_question_in_any_mixture(where, stage, merged):
    tests = [open_task(name, "test", where) for name in available(where)]
    tests += [open_task(name, "val", where) for name in ("Conversations", "ARC-Easy", "ARC-Challenge", "MMLU")]
    mixture = training(stage, where, merged)
    assert len(mixture) > 18_000 and leaks(mixture, tests) == []
    assert len(validation(stage, where, merged)) > 2000
