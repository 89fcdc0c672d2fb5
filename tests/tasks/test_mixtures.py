"""What the stages train on: for the toy world, for a folder, and, in test_on_the_hub.py, from the Hub."""

from collections import Counter

import pytest

from pynanochat.data import ToyWorld
from pynanochat.data.conversations import render
from pynanochat.errors import DataError, UsageError
from pynanochat.tasks import NAMES, TaskData, available, mixtures, open_task
from pynanochat.tasks.hygiene import leaks
from pynanochat.tasks.mixtures import reward_tasks, training, training_parts, validation
from pynanochat.tokenizer import Tokenizer

from .small import chats, gsm8k_rows, mmlu_rows, write_folder, write_jsonl

FORMS = [("midtrain", False), ("sft", False), ("sft", True)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return TaskData(str(write_folder(tmp_path_factory.mktemp("data"))))


@pytest.fixture(scope="module")
def toy():
    return TaskData("toyworld", seed=5, world=ToyWorld(5, entities=60))


@pytest.fixture(autouse=True)
def fewer(monkeypatch):
    """A tenth of the toy world's conversations is enough to see what they are."""
    for name in ("TOY_MIDTRAIN", "TOY_SPELLING"):
        monkeypatch.setattr(mixtures, name, {task: n // 10 for task, n in getattr(mixtures, name).items()})


def asked(conversation):
    return conversation["messages"][0]["content"]


def questions(task):
    return {asked(task[i]) for i in range(len(task))}


def test_what_can_be_evaluated(folder, toy, tmp_path):
    assert available(folder) == ["ARC-Easy", "MMLU", "GSM8K", "HumanEval", "SpellingBee", "SimpleSpelling"]
    assert set(available(toy)) == {name for name in NAMES if name.startswith(("ToyWorld", "Spell", "Simple"))} - {
        "ToyWorld-Sorting",
        "ToyWorld-Chat",
        "ToyWorld-Text",
    }
    assert set(available(TaskData("hub"))) == set(available(folder)) | {"ARC-Challenge"}
    assert available(TaskData(str(tmp_path))) == []
    for where in (folder, toy):
        for name in available(where):
            task = open_task(name, "test", where)
            assert task.name == name and len(task) > 0 and task.kind in ("choice", "generate")


def test_reference_answers_are_right(folder, toy):
    for where in (folder, toy):
        for name in available(where):
            task = open_task(name, "test", where)
            for i in range(len(task)):
                content = task[i]["messages"][-1]["content"]
                said = (
                    content if isinstance(content, str) else "".join(p["text"] for p in content if p["type"] == "text")
                )
                assert task.kind == "choice" or task.grade(task[i], said), (name, i)
                assert task.kind == "generate" or content in (task[i].get("letters") or task[i]["choices"]), (name, i)


@pytest.mark.parametrize(("stage", "merged"), FORMS)
def test_every_conversation_can_be_trained_on(folder, toy, stage, merged):
    tokenizer = Tokenizer.train(["a b c"], vocab_size=265)
    for where in (folder, toy):
        mixture = training(stage, where, merged)
        for index in range(0, len(mixture), max(1, len(mixture) // 300)):
            ids, mask = render(tokenizer, mixture[index], 100_000)
            assert len(ids) == len(mask) and sum(mask) > 1


@pytest.mark.parametrize(("stage", "merged"), FORMS)
def test_no_test_question_is_trained_on(folder, toy, stage, merged):
    for where in (folder, toy):
        tests = [open_task(name, "test", where) for name in available(where)]
        assert leaks(training(stage, where, merged), tests) == []
    assert leaks(training(stage, folder, merged), [open_task("Conversations", "val", folder)]) == []


def test_a_leak_in_the_files_is_left_out(tmp_path):
    write_folder(tmp_path)
    where = TaskData(str(tmp_path))
    before = len(training("midtrain", where))
    test, talk = (
        gsm8k_rows("test", 5),
        {"messages": [{"role": "user", "content": mmlu_rows("test_sample", 1)[0]["question"]}]},
    )
    talk["messages"].append({"role": "assistant", "content": "The oak."})
    write_jsonl(tmp_path / "tasks" / "gsm8k_train.jsonl.gz", [*gsm8k_rows("train", 8), test[0], test[3]])
    write_jsonl(tmp_path / "sft" / "leak.jsonl", [talk])
    assert len(training("midtrain", where)) == before
    tests = [open_task(name, "test", where) for name in ("GSM8K", "MMLU")]
    assert len(reward_tasks(where)[0]) == 8
    found = [leaks(part, tests) for part, _ in training_parts("midtrain", where, False)]
    assert Counter(task for part in found for task, _ in part) == {"GSM8K": 2, "MMLU": 1}


def test_a_folder_gives_what_it_has_in_the_proportions_of_the_recipe(folder):
    def counts(stage, merged=False):
        mixture = training(stage, folder, merged)
        return Counter(next((name for name, there in kinds.items() if asked(c) in there), "spelling") for c in mixture)

    kinds = {
        name: questions(open_task(name, "train", folder)) for name in ("GSM8K", "MMLU", "Conversations", "Identity")
    }
    talk = len(open_task("Conversations", "train", folder))
    assert counts("midtrain") == {"GSM8K": 8, "MMLU": 6, "Conversations": talk, "Identity": 2000, "spelling": 2000}
    assert counts("sft") == {"GSM8K": 8, "Conversations": talk, "Identity": 1000, "spelling": 600}
    assert counts("sft", True) == {"GSM8K": 32, "MMLU": 18, "Conversations": talk, "Identity": 2000, "spelling": 2000}


def test_arc_is_trained_on_only_where_its_training_part_is(folder, tmp_path):
    from .small import arc_rows

    held = questions(open_task("ARC-Easy", "val", folder)) | questions(open_task("ARC-Easy", "test", folder))
    for stage, merged in FORMS:
        assert not held & {asked(c) for c in training(stage, folder, merged)}
    write_folder(tmp_path)
    write_jsonl(tmp_path / "tasks" / "arc_easy_train.jsonl", [*arc_rows("train", 4), *arc_rows("test", 1)])
    write_jsonl(tmp_path / "tasks" / "arc_easy_test.jsonl", arc_rows("test", 3))
    found = [c for c in training("sft", TaskData(str(tmp_path))) if "place number" in asked(c)]
    assert sorted(c["question"] for c in found) == sorted(row["question"] for row in arc_rows("train", 4))


def test_validation_of_a_folder(folder):
    watched = {asked(c) for c in validation("midtrain", folder)}
    for name in ("Conversations", "MMLU", "GSM8K", "Identity"):
        assert questions(open_task(name, "val", folder)) <= watched


def test_the_conversations_of_a_folder_are_divided_by_question_not_by_place(tmp_path):
    rows = chats("Rome", 200)
    write_jsonl(tmp_path / "sft" / "a.jsonl", rows)
    train, val = (questions(open_task("Conversations", split, TaskData(str(tmp_path)))) for split in ("train", "val"))
    assert not train & val and len(train) + len(val) == 200 and 2 <= len(val) <= 25
    again = [{"messages": [m | {"content": m["content"].upper()} for m in row["messages"]]} for row in rows[::-1]]
    write_jsonl(tmp_path / "sft" / "b.jsonl.gz", again)
    both = open_task("Conversations", "val", TaskData(str(tmp_path)))
    assert len(both) == 2 * len(val) and {text.lower() for text in questions(both)} == {t.lower() for t in val}


def test_a_mixture_is_the_same_every_time_and_another_for_another_seed(folder, toy):
    for where in (folder, toy):
        one, two = training("sft", where), training("sft", where)
        assert one.hash() == two.hash() and [one[i] for i in range(20)] == [two[i] for i in range(20)]
    other = TaskData(folder.data, seed=1)
    assert training("sft", other).hash() != training("sft", folder).hash()


def test_the_hash_of_a_folder_changes_with_its_files(tmp_path):
    where = TaskData(str(write_folder(tmp_path)))
    before = training("sft", where).hash()
    write_jsonl(tmp_path / "tasks" / "gsm8k_train.jsonl.gz", gsm8k_rows("other", 8))
    assert training("sft", where).hash() != before


def test_reward_tasks_are_training_tasks(folder, toy, tmp_path):
    assert [task.name for task in reward_tasks(folder)] == ["GSM8K"] and len(reward_tasks(folder)[0]) == 8
    assert [task.name for task in reward_tasks(toy)] == ["ToyWorld-Math", "SpellingBee"]
    (write_folder(tmp_path) / "tasks" / "gsm8k_train.jsonl.gz").unlink()
    assert [task.name for task in reward_tasks(TaskData(str(tmp_path)))] == ["SpellingBee"]
    for where in (folder, toy):
        for task in reward_tasks(where):
            test = questions(open_task(task.name, "test", where))
            assert not test & {asked(task[i]) for i in range(min(len(task), 2000))}


def test_what_is_not_there_is_said(folder, toy, tmp_path):
    with pytest.raises(UsageError, match="--tasks Chess: no such task; use ARC-Easy, "):
        open_task("Chess", "test", folder)
    with pytest.raises(ValueError, match="split 'dev'"):
        open_task("GSM8K", "dev", folder)
    with pytest.raises(ValueError, match="stage 'rl'"):
        training("rl", folder)
    with pytest.raises(
        DataError, match=r"GSM8K is not in the toy world; use --data hub, or a folder with tasks/gsm8k_"
    ):
        open_task("GSM8K", "train", toy)
    with pytest.raises(DataError, match="SmolTalk is on the Hub only; use Conversations"):
        open_task("SmolTalk", "train", folder)
    with pytest.raises(DataError, match="put .jsonl or .jsonl.gz files into FOLDER/sft"):
        open_task("Conversations", "train", TaskData(str(tmp_path)))
    with pytest.raises(DataError, match=r"no mmlu_test.jsonl\[.gz\] or mmlu_test_sample.jsonl\[.gz\] for MMLU"):
        open_task("MMLU", "test", TaskData(str(tmp_path)))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "gsm8k_test.jsonl").write_text("\n")
    with pytest.raises(DataError, match="gsm8k_test.jsonl: it has no rows"):
        open_task("GSM8K", "test", TaskData(str(tmp_path)))


def test_text_without_english_words_leaves_spelling_out(tmp_path):
    where = TaskData(str(write_folder(tmp_path)))
    write_jsonl(tmp_path / "pretrain" / "a.jsonl", [{"text": "나는 집에 간다. 비가 온다."} for _ in range(40)])
    assert available(where) == ["ARC-Easy", "MMLU", "GSM8K", "HumanEval"]
    assert not any("key" in c for c in training("midtrain", where))
    with pytest.raises(DataError, match="0 words to spell in the pretraining text"):
        open_task("SpellingBee", "test", where)
