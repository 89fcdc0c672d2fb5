"""GSM8K: solutions become parts with tool calls; the number after #### is what counts."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynanochat.tasks.gsm8k import GSM8K, final_number, parts, said

SOLUTION = "She sold 48/2 = <<48/2=24>>24 clips.\nThat makes 48+24 = <<48+24=72>>72.\n#### 72"
ROW = {"question": "How many clips?", "answer": SOLUTION}


def test_annotations_become_calls_and_outputs():
    assert GSM8K([ROW])[0]["messages"] == [
        {"role": "user", "content": "How many clips?"},
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "She sold 48/2 = "},
                {"type": "python", "text": "48/2"},
                {"type": "python_output", "text": "24"},
                {"type": "text", "text": "24 clips.\nThat makes 48+24 = "},
                {"type": "python", "text": "48+24"},
                {"type": "python_output", "text": "72"},
                {"type": "text", "text": "72.\n#### 72"},
            ],
        },
    ]


def test_unusual_annotations():
    assert parts("<<1+1=2>>2") == [
        {"type": "python", "text": "1+1"},
        {"type": "python_output", "text": "2"},
        {"type": "text", "text": "2"},
    ]
    assert parts("a <<3*4>> b")[1:2] == [{"type": "python", "text": "3*4"}]
    assert [p["text"] for p in parts("<<x=3=3>>")] == ["x=3", "3"]
    assert parts("no step, 3 << 4") == [{"type": "text", "text": "no step, 3 << 4"}]
    assert parts("") == []


@given(st.lists(st.text(st.characters(exclude_characters="<>"), min_size=1), min_size=1, max_size=9))
def test_nothing_of_a_solution_is_lost(pieces):
    solution = "".join(p if i % 2 == 0 else f"<<{p}=1>>" for i, p in enumerate(pieces))
    back = "".join(
        {"text": "{}", "python": "<<{}=", "python_output": "{}>>"}[p["type"]].format(p["text"]) for p in parts(solution)
    )
    assert back == solution


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### 18", 18),
        ("so 5\n####18", 18),
        ("#### -3", -3),
        ("#### 1,234,567", 1234567),
        ("#### $1,000.50", Fraction("1000.5")),
        ("#### 18.", 18),
        ("#### 18.00 dollars", 18),
        ("#### 7\n#### 8", 7),
        ("18", None),
        ("### 18", None),
        ("#### eighteen", None),
        ("#### ...", None),
        ("#### 1.2.3", None),
        ("#### -", None),
        ("#### ", None),
        ("#### " + "9" * 5000, None),
    ],
)
def test_the_number_after_the_marks(text, number):
    assert final_number(text) == number


@given(st.text())
def test_any_answer_is_graded(answer):
    task = GSM8K([ROW])
    assert task.grade(task[0], answer) in (True, False)
    assert task.grade(task[0], "#### 72" + " " + answer.replace("####", "")) is True


def test_grades_and_rewards():
    task = GSM8K([ROW])
    assert task.grade(task[0], said(task[0]["messages"][-1]["content"]))
    assert task.grade(task[0], "72 it is\n#### 72.0")
    for wrong in ("72", "#### 27", "#### 720", "#### 7 2", ""):
        assert not task.grade(task[0], wrong), wrong
    assert task.reward(task[0], "#### 72") == 1.0 and task.reward(task[0], "#### 71") == 0.0


def test_the_tool_gives_the_outputs_that_the_data_has():
    from pynanochat.tools.calculator import calculate

    steps = [p["text"] for p in parts("<<48/2=24>> <<.5*60=30>> <<1,200*2=2400>> <<10/4=2.5>>")]
    calls, outputs = steps[0::3], steps[1::3]
    assert [calculate(call) for call in calls] == outputs
