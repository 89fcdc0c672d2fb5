"""No test question in training: what counts as the same question, and what is done about it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynanochat.data.mixture import Mixture
from pynanochat.tasks.arc import ARC
from pynanochat.tasks.choices import choice
from pynanochat.tasks.gsm8k import GSM8K
from pynanochat.tasks.hygiene import Questions, leaks, normalised, without
from pynanochat.tasks.identity import Identity
from pynanochat.tasks.mmlu import MMLU
from pynanochat.tasks.spellingbee import SimpleSpelling, SpellingBee

from .small import arc_rows, gsm8k_rows, mmlu_rows


def said(*texts):
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("How many nuts?", "  how MANY\nnuts ", True),
        ("Ann’s 5 nuts, please!", "Ann's 5 nuts please", True),
        ("What is 3 + 4?", "What is 3 - 4?", False),
        ("What is 3-4?", "what is 3 - 4", True),
        ("a well-known fact", "a well known fact", True),
        ("1.5", "15", False),
        ("???", "!!!", False),
        ("Straße", "STRASSE", True),
        ("", " ", True),
    ],
)
def test_what_is_the_same_question(one, other, same):
    assert (normalised(one) == normalised(other)) is same


@given(st.text())
def test_normalising_twice_changes_nothing(text):
    assert normalised(normalised(text)) == normalised(text)


def test_a_planted_question_is_found_wherever_it_stands():
    test = GSM8K(gsm8k_rows("test", 5))
    question = test[2]["messages"][0]["content"]
    planted = [
        said(question, "no"),
        said(question.upper().replace(" ", "\n"), "no"),
        said("Hello", "Hi", question, "no"),
        test[2],
    ]
    innocent = [said("Hello", "Hi"), said(question + " And why?", "no"), *GSM8K(gsm8k_rows("train", 5))]
    found = leaks(Mixture([(planted, 1), (innocent, 3)]), [test])
    assert [task for task, _ in found] == ["GSM8K"] * 4
    assert leaks(Mixture([(innocent, 3)]), [test]) == []


def test_a_choice_is_known_by_its_words_or_if_short_with_its_options():
    test = MMLU([*mmlu_rows("test", 1), {"question": "Which is true?", "choices": ["a", "b"], "answer": 0}])
    long = test[0]["question"]
    asks = Questions([test]).asks
    assert asks(choice(long, ["other", "options", "here"], 0)) == "MMLU"
    assert asks(said(long, "oak")) == "MMLU"
    assert asks(choice("which is TRUE", ["b", "a"], 1)) == "MMLU"
    assert asks(choice("Which is true?", ["c", "d"], 1)) is None
    assert asks(said("Which is true?", "a")) is None


def test_a_letter_in_a_word_is_the_same_in_any_phrasing():
    bee = SpellingBee(["plum"], 5, 0, "test")
    asks = Questions([bee]).asks
    others = SpellingBee(["plum"], 300, 7, "train")
    tested = {bee[i]["key"] for i in range(5)}
    for i in range(300):
        assert (asks(others[i]) == "SpellingBee") == (others[i]["key"] in tested)
    spelling = SimpleSpelling(["plum"], 30, 7, "train")
    assert all(asks(spelling[i]) is None for i in range(30))


def test_of_a_chat_only_the_opening_counts():
    held_out = Identity([said("Who is Ada?", "I", "Thank you!", "Welcome")])
    asks = Questions([held_out]).asks
    assert asks(said("who is Ada", "Me")) == "Identity"
    assert asks(said("Hello", "Hi", "Thank you!", "Welcome")) is None
    assert asks(said("Thank you!", "Welcome")) is None
    assert asks(said("Hello", "Hi", "Who is Ada?", "Me")) is None


def test_without_leaves_out_what_is_asked_and_nothing_else():
    train, test = arc_rows("a", 6), arc_rows("b", 3)
    kept = without(ARC("ARC-Easy", [*train, test[1], *train[:2]]), Questions([ARC("ARC-Easy", test)]))
    assert [c["question"] for c in kept] == [row["question"] for row in [*train, *train[:2]]]
    clean = ARC("ARC-Easy", train)
    assert without(clean, Questions([ARC("ARC-Easy", test)])) is clean
