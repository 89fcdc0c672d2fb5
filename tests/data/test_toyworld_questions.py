"""Questions, conversations and problems of the toy world: what is held out stays out, and what is said is true."""

import itertools
import re
from zlib import crc32

import pytest

from pynanochat.data.toyworld import EXCLUSIVE, ToyWorld
from pynanochat.data.toyworld_conversations import Conversations
from pynanochat.data.toyworld_problems import PROBLEMS, Draw, arithmetic, drawn, word_problem
from pynanochat.data.toyworld_questions import QUESTIONS, QuestionBook, question, wordings
from pynanochat.tools.calculator import calculate

KINDS = ("facts", "choice", "sorting", "problem", "arithmetic", "refusal", "smalltalk")


@pytest.fixture(scope="module", params=[0, 1, 7])
def talk(request):
    return Conversations(QuestionBook(ToyWorld(request.param)), request.param)


def text_of(conversation):
    """All that is said in a conversation."""
    said = []
    for message in conversation["messages"]:
        content = message["content"]
        said.append(content if isinstance(content, str) else "".join(part["text"] for part in content))
    return "\n".join(said)


def test_no_training_conversation_names_a_held_out_entity(talk):
    names = re.compile(rf"\b({'|'.join(map(re.escape, sorted(talk.book.secret)))})s?\b", re.IGNORECASE)
    for kind in KINDS:
        for index in range(400):
            text = text_of(getattr(talk, kind)(index))
            found = names.search(text)
            assert not found, (kind, index, found, text)


def test_no_training_conversation_asks_in_the_wordings_of_the_evaluation(talk):
    asked = {wording for q in talk.book.held_out for wording in q.wordings}
    shapes = [re.sub(r"\\\{\w+\\\}", ".*", re.escape(w)) for q in QUESTIONS.values() for w in wordings(q, test=True)]
    shape = re.compile("|".join(shapes))
    for kind in ("facts", "choice", "refusal"):
        for index in range(400):
            for message in getattr(talk, kind)(index)["messages"]:
                if message["role"] == "user":
                    assert not shape.search(message["content"])
                    assert message["content"] not in asked


def test_a_quarter_of_each_kind_is_held_out_and_asked_about(talk):
    book = talk.book
    world = book.world
    for items in (world.people, world.pets, world.goods, world.foods, world.towns):
        assert sum(item.name in book.secret for item in items) == len(items) // 4
    subjects = {q.fact.subject for q in book.held_out}
    assert subjects == book.secret
    assert not subjects & {q.fact.subject for q in book.trained}
    assert len(book.held_out) >= 120 and len(book.trained) >= 400


def test_answers_are_the_facts(talk):
    facts = set(talk.book.world.facts())
    for q in [*talk.book.trained, *talk.book.held_out]:
        assert q.fact in facts
        assert q.short in q.answer
        assert all(q.fact.subject in w or q.fact.kind == "food" for w in q.wordings)


def test_every_held_out_fact_stands_in_the_pretraining_text():
    world = ToyWorld()
    book = QuestionBook(world)
    sentences = []
    for _, text in world.documents("train", 0, 6000):
        sentences += re.split(r"\n\n+", text)
    told = {q.fact: 0 for q in book.held_out}
    by_subject = {}
    for q in book.held_out:
        by_subject.setdefault(q.fact.subject, []).append(q)
    for sentence in sentences:
        for subject in [s for s in by_subject if s in sentence]:
            for q in by_subject[subject]:
                if q.short in sentence or q.fact.object in sentence:
                    told[q.fact] += 1
    seldom = [fact for fact, times in told.items() if times < 3]
    assert not seldom


def test_choices_have_one_right_option(talk):
    for kind in ("choice", "sorting"):
        for index in range(300):
            conversation = getattr(talk, kind)(index)
            asked = conversation["messages"][0]["content"]
            options = [line[2:] for line in asked.split("\n") if line.startswith("- ")]
            assert len(set(options)) == len(options) == 4
            for answer in conversation["messages"][1::2]:
                inside = [o for o in options if re.search(rf"(?<![\w-]){o}(?![\w-])", answer["content"])]
                assert inside, (answer, options)


def test_an_answer_takes_another_value(talk):
    for q in talk.book.held_out:
        assert q.answer_with(q.short) == q.answer
        assert q.answer_with("XX") != q.answer and "XX" in q.answer_with("XX")


def test_conversations_are_reproducible_and_differ(talk):
    again = Conversations(QuestionBook(ToyWorld(talk.book.world.seed)), talk.seed)
    for kind in KINDS:
        some = [getattr(talk, kind)(index) for index in range(50)]
        assert some == [getattr(again, kind)(index) for index in range(50)]
        assert len({text_of(c) for c in some}) > (8 if kind == "smalltalk" else 35)


@pytest.mark.parametrize("make", [*PROBLEMS, arithmetic], ids=lambda make: make.__name__)
def test_solutions_calculate_what_they_say(make):
    for seed in range(200):
        problem = make(Draw(seed), "Mira")
        parts = problem.parts
        for part, following in itertools.pairwise(parts):
            if part["type"] == "python":
                assert following == {"type": "python_output", "text": calculate(part["text"])}
        assert parts[-1]["text"].endswith(f"\n#### {problem.answer}")
        assert re.fullmatch(r"\d+", problem.answer), problem
        given = set(re.findall(r"\d+", problem.question))
        results = [part["text"] for part in parts if part["type"] == "python_output"]
        for part in parts:
            if part["type"] == "python":
                assert set(re.findall(r"\d+", part["text"])) <= given | set(results)


def test_problems_of_training_and_evaluation_differ():
    names = ["Mira", "Tim"]
    train = {drawn(word_problem, 0, i, names, test=False).question for i in range(2000)}
    test = {drawn(word_problem, 0, i, names, test=True).question for i in range(300)}
    assert not train & test
    assert all(crc32(q.encode()) % EXCLUSIVE for q in train)
    assert len(test) > 285 and len(train) > 1900


def test_a_question_is_written_with_its_facts_words():
    world = ToyWorld()
    fact = next(f for f in world.facts() if f.kind == "person" and f.relation == "age")
    q = question(fact, test=False)
    assert fact.subject in q.wordings[0] and "years old" in q.answer and not re.search(r"\d", q.answer)
