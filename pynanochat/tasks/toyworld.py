"""The toy world's own tasks: multiple choice and free questions about its facts, word problems, sums, talk.

The training split of each is generated without end in sight (`SIZES` conversations of it are used); the test split asks
what training does not: facts of held-out entities in held-out wordings (data/toyworld_questions.py), and problems whose
question is kept for evaluation (data/toyworld_problems.py).
"""

import re
from functools import lru_cache

from pynanochat.data.toyworld import Draw, ToyWorld
from pynanochat.data.toyworld_conversations import OPTIONS, Conversations, choices, pick_options, solved, turn
from pynanochat.data.toyworld_problems import arithmetic, drawn, word_problem
from pynanochat.data.toyworld_questions import Question, QuestionBook
from pynanochat.errors import UsageError
from pynanochat.tasks.base import Task, TaskData
from pynanochat.tasks.gsm8k import final_number, said

SIZES = {"train": 10_000, "val": 200, "test": 200}
VALIDATION_START = 1_000_000  # the index from which validation conversations are drawn


@lru_cache(maxsize=4)
def conversations(world: ToyWorld) -> Conversations:
    """The conversations of a world; the same object for the same world."""
    return Conversations(QuestionBook(world), world.seed)


def open_toyworld(name: str, split: str, where: TaskData) -> Task:
    """Task `name` ("ToyWorld-Choice", ...) of a split. Raises UsageError where the data is not the toy world."""
    if where.world is None:
        raise UsageError(f"{name} needs the toy world; use --data toyworld")
    return TASKS[name](conversations(where.world), split)


class _Generated(Task):
    """A task whose training conversations are drawn by index; of `test`, see each."""

    def __init__(self, talk: Conversations, split: str):
        self.talk, self.split = talk, split
        self.first = VALIDATION_START if split == "val" else 0

    def __len__(self) -> int:
        return SIZES[self.split]


class Choice(_Generated):
    name, kind, baseline = "ToyWorld-Choice", "choice", 0.25

    def __init__(self, talk, split):
        super().__init__(talk, split)
        self.asked = [pair for pair in held_out(talk.book) if len(self._options(pair[0])) >= OPTIONS]

    def __len__(self) -> int:
        return len(self.asked) if self.split == "test" else super().__len__()

    def __getitem__(self, index: int) -> dict:
        if self.split != "test":
            return self.talk.choice(self.first + index)
        q, wording = self.asked[index]
        options = pick_options(Draw(self.talk.seed * 2 << 32 | index), q.short, self._options(q))
        return choices(options, [(wording, q.answer)]) | {"choices": [q.answer_with(o) for o in options]}

    def _options(self, q: Question) -> list[str]:
        return self.talk.book.values(q.fact.kind, q.fact.relation, secret=True)


class Facts(_Generated):
    name, kind, max_tokens = "ToyWorld-Facts", "generate", 48

    def __init__(self, talk, split):
        super().__init__(talk, split)
        self.asked = held_out(talk.book)

    def __len__(self) -> int:
        return len(self.asked) if self.split == "test" else super().__len__()

    def __getitem__(self, index: int) -> dict:
        if self.split != "test":
            return self.talk.facts(self.first + index)
        q, wording = self.asked[index]
        others = [v for v in self.talk.book.values(q.fact.kind, q.fact.relation, secret=True) if v != q.short]
        return {"messages": turn(wording, q.answer), "right": q.short, "subject": q.fact.subject, "wrong": others}

    def grade(self, conversation, answer) -> bool:
        """The right value stands in the answer, and no other value of the same relation does."""
        if not contains(answer, conversation["right"]):
            return False
        without = re.sub(whole_words(conversation["right"]), "", answer)
        return not any(contains(without, v) for v in conversation["wrong"] if v != conversation["subject"])


class Problems(_Generated):
    """Problems whose answer is the number after ####."""

    kind, max_tokens = "generate", 160
    make = None

    def __getitem__(self, index: int) -> dict:
        talk, test = self.talk, self.split == "test"
        problem = drawn(type(self).make, talk.seed, self.first + index, talk.names, test)
        return solved(problem)

    def grade(self, conversation, answer) -> bool:
        return final_number(answer) == final_number(said(conversation["messages"][-1]["content"]))


class Math(Problems):
    name = "ToyWorld-Math"
    make = staticmethod(word_problem)


class Arithmetic(Problems):
    name = "ToyWorld-Arithmetic"
    make = staticmethod(arithmetic)


class Sorting(_Generated):
    """Choices that need no facts. Only trained on."""

    name = "ToyWorld-Sorting"

    def __getitem__(self, index: int) -> dict:
        return self.talk.sorting(self.first + index)


class Chat(_Generated):
    """Greetings, and questions about what the world does not contain. Only trained on."""

    name = "ToyWorld-Chat"

    def __getitem__(self, index: int) -> dict:
        make = self.talk.refusal if index % 2 else self.talk.smalltalk
        return make(self.first + index)


class Text(_Generated):
    """Documents of the pretraining text, which tell of held-out entities too. Read beside the conversations, they keep
    what those do not ask for from being forgotten. Only trained on."""

    name = "ToyWorld-Text"

    def __getitem__(self, index: int) -> dict:
        return {"text": self.talk.book.world.document("train", self.first + index)}


TASKS = {task.name: task for task in (Choice, Facts, Math, Arithmetic, Sorting, Chat, Text)}


def held_out(book: QuestionBook) -> list[tuple[Question, str]]:
    """Every held-out question in each of its wordings."""
    return [(q, wording) for q in book.held_out for wording in q.wordings]


def contains(text: str, value: str) -> bool:
    """`value` stands in `text` as whole words."""
    return re.search(whole_words(value), text, re.IGNORECASE) is not None


def whole_words(value: str) -> str:
    """A pattern for `value` where it is not a part of longer or hyphenated words."""
    return rf"(?<![\w-]){re.escape(value)}(?![\w-])"
