"""Chat tasks against a plain loop of one item at a time, rigged models, and prompts longer than the context."""

import math

import pytest
import torch

from pynanochat.engine import Engine
from pynanochat.errors import DataError
from pynanochat.evals.chat import evaluate
from pynanochat.tasks.base import Task
from pynanochat.tokenizer import render_for_completion
from tests.engine.fakes import ByteTokenizer, Scripted, small_model
from tests.evals.fakes import Echo, Letters, Rigged

SPECIAL = ByteTokenizer.special_tokens


def one_by_one(engine, task):
    """index -> the letter, by the logits of the whole prompt run alone."""
    found = []
    for i in range(len(task)):
        ids = render_for_completion(engine.tokenizer, task[i]["messages"][:-1])
        logits = engine.model(torch.tensor([ids]))[0, -1]
        found.append(max(task.letters, key=lambda letter: logits[ord(letter)].item()))
    return found


@torch.inference_mode()
@pytest.mark.parametrize("arch", ["2025", "2026"])
def test_choices_are_those_of_one_prompt_at_a_time(arch):
    engine, task = Engine(small_model(3, arch), ByteTokenizer()), Letters(60, most=16)
    expected = one_by_one(engine, task)
    assert len(set(expected)) > 1
    score = evaluate(engine, task, rows=7)
    assert score.correct == sum(letter == gold for letter, (_, gold) in zip(expected, task.rows, strict=True))
    assert score.total == 60 and score.cut == 0
    for example in score.examples:
        at = [question for question, _ in task.rows].index(example["prompt"])
        assert example["answer"] == expected[at] and example["correct"] == (expected[at] == example["reference"])
        assert math.isclose(sum(example["letters_probabilities"].values()), 1, abs_tol=1e-5)


def test_a_model_that_knows_the_letter_scores_exactly_that():
    task = Letters(30)
    gold = {question: letter for question, letter in task.rows}

    def knows(ids):
        logits = torch.zeros(265)
        assert ids[-1] == SPECIAL["<|assistant_start|>"]  # nothing but the last position of the prompt is asked for
        question = bytes(i for i in ids if i < 256).decode()
        logits[ord(gold[question])] = 3.0
        logits[ord("Z")] = 50.0  # no letter of the choice: it does not count
        return logits

    score = evaluate(Engine(Rigged(knows), ByteTokenizer()), task)
    assert (score.correct, score.total, score.score, score.centred) == (30, 30, 1.0, 1.0)
    p = math.exp(3) / (math.exp(3) + 3)
    assert score.reliability == [
        {"low": 0.8, "high": 0.9, "count": 30, "confidence": pytest.approx(p), "accuracy": 1.0}
    ]


class Answers(Task):
    """Whole answers of several lengths to choose from."""

    name, kind, baseline = "Answers", "choice", 0.25
    options = ("a dog.", "an ox.", "a very long animal indeed.", "cat")

    def __len__(self):
        return 20

    def __getitem__(self, index):
        asked = {"role": "user", "content": "which" * (index % 5) + "?" + str(index)}
        answer = {"role": "assistant", "content": self.options[index % 4]}
        return {"messages": [asked, answer], "choices": list(self.options)}


@torch.inference_mode()
def test_whole_answers_are_compared_by_their_probability():
    task = Answers()
    engine = Engine(small_model(3), ByteTokenizer())
    end, right = SPECIAL["<|assistant_end|>"], 0
    for i in range(len(task)):
        prompt = render_for_completion(engine.tokenizer, task[i]["messages"][:-1])
        sums = []
        for option in task.options:
            ids = torch.tensor([[*prompt, *option.encode(), end]])
            log = engine.model(ids)[0].log_softmax(-1)
            sums.append(sum(log[at - 1, ids[0, at]].item() for at in range(len(prompt), ids.size(1))))
        right += task.options[sums.index(max(sums))] == task[i]["messages"][-1]["content"]
    score = evaluate(engine, task, rows=3)
    assert (score.correct, score.total, score.cut) == (right, 20, 0)
    for example in score.examples:
        assert math.isclose(sum(example["letters_probabilities"].values()), 1, abs_tol=1e-5)


def test_long_prompts_leave_room_for_whole_answers():
    task = Answers()
    task.options = ("x" * 20, "y", "z", "w")
    engine = Engine(small_model(sequence_len=32), ByteTokenizer())
    score = evaluate(engine, task)
    assert score.total == 20 and score.cut > 0


def test_first_examples_of_a_shuffled_order():
    engine, task = Engine(small_model(), ByteTokenizer()), Letters(60)
    few, more = (evaluate(engine, task, max_examples=n) for n in (5, 60))
    assert few.total == 5 and len(few.examples) == 5 and len(more.examples) == 10
    assert [e["prompt"] for e in few.examples] != [question for question, _ in task.rows[:5]]
    again = evaluate(engine, task, max_examples=5)
    assert again.examples == few.examples


def test_long_prompts_lose_their_beginning_and_are_counted():
    task = Letters(12, most=60)
    engine = Engine(small_model(sequence_len=64), ByteTokenizer())
    long = sum(len(render_for_completion(engine.tokenizer, task[i]["messages"][:-1])) > 64 for i in range(12))
    assert 0 < long < 12
    assert evaluate(engine, task).cut == long

    def knows(ids):
        assert ids[:2] == [256, SPECIAL["<|user_start|>"]] and ids[-2:] == [SPECIAL["<|user_end|>"], 259]
        logits = torch.zeros(265)
        logits[ord("A")] = 1.0
        return logits

    score = evaluate(Engine(Rigged(knows, context=64), ByteTokenizer()), task)
    assert score.correct == sum(gold == "A" for _, gold in task.rows)


def test_a_letter_of_two_tokens_is_refused():
    with pytest.raises(DataError, match="'Ä' is 2 tokens"):
        evaluate(Engine(small_model(), ByteTokenizer()), Letters(3, letters="Ä"))


def script(*parts):
    """Tokens from text and names of specials."""
    return [i for part in parts for i in ([SPECIAL[part]] if part in SPECIAL else list(part.encode()))]


def scripted(questions, *parts, context=256):
    length = len(render_for_completion(ByteTokenizer(), [{"role": "user", "content": questions[0]}]))
    return Engine(Scripted(script(*parts), length, context), ByteTokenizer())


def test_only_what_the_model_says_is_graded():
    questions = ["how much?"] * 3
    # the tool forces <|output_start|>42<|output_end|> behind the call: four tokens that the script cannot choose
    engine = scripted(questions, "y", "<|python_start|>", "6*7", "<|python_end|>", "....", "es", "<|assistant_end|>")
    task = Echo(questions)
    score = evaluate(engine, task)
    assert task.graded == ["yes"] * 3 and score.score == 1.0
    assert score.examples[0]["answer"] == "y<<6*7=42>>es"
    assert score.examples[0]["reference"] == "so <<1+1=2>>yes"


def test_wrong_answers_are_shown_too():
    engine = scripted(["q"], "no", "<|assistant_end|>")
    score = evaluate(engine, Echo(["q"]))
    assert score.correct == 0 and score.low == 0 and score.high > 0.5
    assert score.examples == [{"prompt": "q", "answer": "no", "reference": "so <<1+1=2>>yes", "correct": False}]


def test_answers_of_a_model_that_never_stops_and_of_prompts_too_long():
    task = Echo(["x" * 300, "y" * 20, "z" * 80])
    score = evaluate(Engine(small_model(), ByteTokenizer()), task)  # a context of 96
    assert score.total == 3 and score.cut == 2 and len(task.graded) == 3


def test_samples_give_pass_at_k():
    engine, task = Engine(small_model(), ByteTokenizer()), Echo([f"q{i}" for i in range(6)])
    task.max_tokens = 4
    task.grade = lambda conversation, answer: sum(answer.encode()) % 3 == 0
    score = evaluate(engine, task, samples=4, temperature=1.0, rows=8)
    alone = [
        engine.generate_batch(
            [render_for_completion(engine.tokenizer, task[i]["messages"][:-1])],
            samples=4, max_tokens=4, temperature=1.0, seed=1337 + i,
        )[0]
        for i in range(6)
    ]  # fmt: skip
    text = lambda one: bytes(i for i in one.ids if i < 256).decode(errors="replace")  # noqa: E731
    rights = [sum(task.grade({}, text(one)) for one in answers) for answers in alone]
    assert 0 < sum(rights) < 24
    assert score.correct == sum(right > 0 for right in rights)
    assert score.pass_at["1"] == pytest.approx(sum(rights) / 24)
    assert score.pass_at["4"] == pytest.approx(score.score)
    assert list(score.pass_at) == ["1", "2", "3", "4"]


def test_a_chat_task_has_nothing_to_grade():
    task = Task()
    task.name = "SmolTalk"
    with pytest.raises(DataError, match="SmolTalk"):
        evaluate(Engine(small_model(), ByteTokenizer()), task)
