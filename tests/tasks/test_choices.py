"""ARC and MMLU: the prompt, the letters, and the published rows in their several shapes."""

import pytest

from pynanochat.errors import DataError
from pynanochat.tasks import TaskData, open_task
from pynanochat.tasks.arc import ARC
from pynanochat.tasks.choices import choice, chosen
from pynanochat.tasks.mmlu import MMLU
from pynanochat.tasks.smoltalk import SmolTalk

from .small import arc_rows, mmlu_rows, write_folder


def test_the_prompt_and_the_answer():
    conversation = choice("What is wet?", ["fire", "rain", "a = b"], 1)
    assert conversation["messages"] == [
        {
            "role": "user",
            "content": "What is wet?\n- fire=A\n- rain=B\n- a = b=C\n\n"
            "Answer with the letter of the right option and with nothing else.",
        },
        {"role": "assistant", "content": "B"},
    ]
    assert conversation["letters"] == ["A", "B", "C"]


@pytest.mark.parametrize("right", [-1, 2])
def test_the_right_option_must_be_one(right):
    with pytest.raises(ValueError, match=f"option {right} of 2"):
        choice("?", ["a", "b"], right)


@pytest.mark.parametrize(("answer", "right"), [("B", 1), (" b.", 1), ("A", 0), ("", 0), ("BB", 0), ("The B", 0)])
def test_a_written_answer_is_graded(answer, right):
    assert chosen(choice("?", ["a", "b"], 1), answer) == bool(right)


def test_the_letters_are_single_tokens_of_any_byte_level_tokenizer():
    from pynanochat.tokenizer import Tokenizer, render_conversation

    tokenizer = Tokenizer.train(["- rain=B\n- fire=A\nA B C D E"] * 50, vocab_size=300)
    conversation = choice("What is wet?", ["fire", "rain"], 1)
    ids, mask = render_conversation(tokenizer, conversation)
    said = [token for token, kept in zip(ids, mask, strict=True) if kept]
    assert said == [*tokenizer.encode("B"), tokenizer.special_id("<|assistant_end|>")] and len(said) == 2
    assert all(len(tokenizer.encode(letter)) == 1 for letter in conversation["letters"])


def test_arc_rows_with_letters_numbers_and_of_the_core_bundle():
    rows = [*arc_rows("a", 2), {"query": "Question: What is wet?", "choices": ["fire", "rain"], "gold": 1}]
    task = ARC("ARC-Easy", rows)
    assert [len(task[i]["letters"]) for i in range(3)] == [3, 4, 2]
    assert [task[i]["messages"][1]["content"] for i in range(3)] == ["B", "D", "B"]
    assert task[2]["question"] == "What is wet?"
    assert all(task.grade(task[i], task[i]["messages"][1]["content"]) for i in range(3))
    assert (task.name, task.kind, task.baseline) == ("ARC-Easy", "choice", 0.25)


def test_mmlu_rows_of_both_shapes():
    row = mmlu_rows("a", 3)[2]
    task = MMLU([row, {"train": row}])
    assert task[0] == task[1] and task[0]["messages"][1]["content"] == "C" and task[0]["subject"] == "trees"


@pytest.mark.parametrize(
    ("task", "row", "said"),
    [
        (MMLU, {"question": "a", "choices": ["b"], "answer": 1}, "the answer 1 is none of 1 options"),
        (MMLU, {"question": "a", "choices": ["b"], "answer": "A"}, "without a proper 'answer'"),
        (MMLU, {"choices": ["b"], "answer": 0}, "without a proper 'question'"),
        (lambda rows: ARC("ARC-Easy", rows), arc_rows("a", 1)[0] | {"answerKey": "Z"}, "'Z' is none of"),
        (lambda rows: ARC("ARC-Easy", rows), {"question": "a"}, "without a proper 'choices'"),
        (lambda rows: ARC("ARC-Easy", rows), arc_rows("a", 1)[0] | {"choices": {}}, "row 0 is not as published"),
        (lambda rows: ARC("ARC-Easy", rows), {"query": 3, "choices": ["b"], "gold": 0}, "row 0 is not as published"),
        (lambda rows: ARC("ARC-Easy", rows), {"query": "a", "choices": ["b"], "gold": 7}, "row 0 is not as published"),
        (MMLU, {"question": "a", "choices": ["b"] * 30, "answer": 1}, "row 0 is not as published"),
        (SmolTalk, {"messages": [{"role": "user"}]}, "row 0 is not as published"),
    ],
)
def test_a_row_that_is_not_right_is_a_data_error(task, row, said):
    with pytest.raises(DataError, match=said):
        task([row])[0]


def test_parts_of_a_folder(tmp_path):
    where = TaskData(str(write_folder(tmp_path)))
    assert [len(open_task("MMLU", split, where)) for split in ("train", "val", "test")] == [6, 5, 9]
    assert len(open_task("ARC-Easy", "val", where)) == 4
    assert open_task("ARC-Easy", "test", where)[0]["question"] == "What is wet?"
    with pytest.raises(DataError, match=r"no arc_easy_train.jsonl\[.gz\] for ARC-Easy; put it there"):
        open_task("ARC-Easy", "train", where)
