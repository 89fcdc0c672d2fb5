"""SpellingBee and SimpleSpelling: right by construction, fixed by the seed, and tested on words of their own."""

from collections import Counter

import pytest

from pynanochat.errors import DataError
from pynanochat.tasks import TaskData, open_task
from pynanochat.tasks.gsm8k import said
from pynanochat.tasks.spellingbee import SimpleSpelling, SpellingBee, counted
from pynanochat.tasks.words import part, word_list
from pynanochat.tools.calculator import calculate

from .small import write_folder, write_jsonl

WORDS = ["apple", "banana", "cherry", "plum", "strawberry"]


def test_the_answer_spells_counts_and_verifies():
    assert counted("plum", "l") == [
        {
            "type": "text",
            "text": "The letters of 'plum': p, l, u, m\n- p no 0\n- l yes 1\n- u no 1\n- m no 1\n"
            "That makes 1. The tool says ",
        },
        {"type": "python", "text": "'plum'.count('l')"},
        {"type": "python_output", "text": "1"},
        {"type": "text", "text": ".\n#### 1"},
    ]


def test_the_tool_agrees_with_every_answer_and_the_question_names_word_and_letter():
    bee = SpellingBee(WORDS, 300, 0, "train")
    for i in range(300):
        question, answer = (message["content"] for message in bee[i]["messages"])
        _, letter, _, word = bee[i]["key"].split()
        assert word in question and letter in question and word in WORDS
        assert answer[1]["text"] == f"'{word}'.count('{letter}')"
        assert calculate(answer[1]["text"]) == answer[2]["text"] == str(word.count(letter))
        assert bee.grade(bee[i], said(answer)) and not bee.grade(bee[i], f"#### {word.count(letter) + 1}")


def test_there_are_many_phrasings_and_letters_that_are_not_there():
    bee = SpellingBee(WORDS, 2000, 0, "train")
    wordings, absent = set(), 0
    for i in range(2000):
        _, letter, _, word = bee[i]["key"].split()
        wordings.add(bee[i]["messages"][0]["content"].replace(word, "W").replace(letter, "L", 1))
        absent += letter not in word
    assert len(wordings) > 100 and 500 < absent < 800


def test_spelling_is_graded_strictly():
    simple = SimpleSpelling(["plum"], 3, 0, "test")
    assert simple[0]["messages"][1]["content"] == "The letters of 'plum': p, l, u, m"
    for right in ("The letters of 'plum': p, l, u, m", "plum: p, l, u, m.\n", "p, l, u, m"):
        assert simple.grade(simple[0], right)
    for wrong in ("plum: p, l, u", "p, l, u, m, plum", "plum: p, u, l, m", "", "plum", "p, l, u, m: plum"):
        assert not simple.grade(simple[0], wrong)


@pytest.mark.parametrize("kind", [SpellingBee, SimpleSpelling])
def test_items_and_hash_depend_on_seed_split_and_words_only(kind):
    def first(words=WORDS, seed=1, split="train"):
        task = kind(words, 20, seed, split)
        return [task[i] for i in range(20)], task.hash()

    assert first() == first()
    for other in (first(seed=2), first(seed=-1), first(words=WORDS[:3])):
        assert other[0] != first()[0] and other[1] != first()[1]
    assert first(split="test")[1] != first()[1]
    with pytest.raises(IndexError, match="item 20 of 20"):
        kind(WORDS, 20, 0, "train")[20]


def test_a_test_asks_about_each_word_in_turn_and_never_twice_the_same():
    bee = SpellingBee(WORDS, 20, 0, "test")
    keys = [bee[i]["key"] for i in range(20)]
    assert len(set(keys)) == 20 and [key.split()[3] for key in keys] == WORDS * 4


def test_the_words_of_a_folder_are_counted_and_divided(tmp_path):
    where = TaskData(str(write_folder(tmp_path)))
    words = word_list(where)
    assert list(words) == sorted(set(words)) and {"quick", "merchants", "the"} <= set(words)
    parts = {name: part(words, name) for name in ("train", "bee", "simple")}
    assert sorted(word for words in parts.values() for word in words) == list(words) and all(parts.values())

    def asked(name, split):
        task = open_task(name, split, where)
        return {task[i]["key"].split()[-1] for i in range(min(len(task), 3000))}

    assert asked("SpellingBee", "test") == set(parts["bee"]) == asked("SpellingBee", "val")
    assert asked("SpellingBee", "train") == set(parts["train"])
    assert asked("SimpleSpelling", "test") == set(parts["simple"])
    assert asked("SimpleSpelling", "train") == set(parts["train"]) | set(parts["bee"])
    assert len(open_task("SpellingBee", "train", where)) == 80_000


def test_rare_words_names_and_pieces_of_words_are_not_asked_about(tmp_path):
    text = "Paris misprnt don't naïve well-known x1 under_score " + " ".join(f"word{c * 3}" for c in "abcdefgh")
    rows = [{"text": text.replace("misprnt", "oak") if i else text} for i in range(40)]
    write_jsonl(tmp_path / "pretrain" / "a.jsonl", rows)
    with pytest.raises(DataError, match="words to spell in the pretraining text, 40 are needed; add English text"):
        word_list(TaskData(str(tmp_path)))
    more = " ".join(a + b + c for a in "bcf" for b in "aeiou" for c in "nprt")
    write_jsonl(tmp_path / "pretrain" / "a.jsonl", [{"text": f"{row['text']} {more}"} for row in rows])
    words = set(word_list(TaskData(str(tmp_path), seed=1)))
    assert {"oak", "wordaaa", "well", "known"} <= words
    assert not words & {"misprnt", "paris", "don", "don't", "naïve", "ve", "under", "score"}


def test_the_toy_world_has_words():
    from pynanochat.data import ToyWorld

    words = word_list(TaskData("toyworld", world=ToyWorld(3, entities=60)))
    assert len(words) > 300 and min(len(part(words, name)) for name in ("bee", "simple")) > 25


def test_guessing_does_not_pay():
    words = [a + b + c + d for a in "bcd" for b in "aeiou" for c in "ntd" for d in ("", "ing", "er", "eed")]
    bee = SpellingBee(words, 256, 0, "test")
    answers = Counter(said(bee[i]["messages"][1]["content"])[-1] for i in range(256))
    assert max(answers.values()) < 0.5 * 256 and len(answers) >= 3
