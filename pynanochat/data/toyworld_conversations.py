"""Conversations of the toy world to train on: what the facts are, choices, problems, and talk.

    talk = Conversations(book, seed)
    talk.facts(17)                        {"messages": [...]}: conversation 17 of its kind, always the same

No conversation names a held-out entity (see toyworld_questions.py), and none asks in the wordings of the evaluation.
"""

from pynanochat.data.toyworld import Draw
from pynanochat.data.toyworld_problems import arithmetic, drawn, word_problem
from pynanochat.data.toyworld_questions import QuestionBook
from pynanochat.data.toyworld_words import COLORS, DAYS, HOBBIES, JOBS, MONTHS, SOUNDS, capital, in_words

LETTERS = "ABCD"
BEFORE = ("", "", "", "Please tell me: ", "I have a question. ", "Hello! ", "Do you know this? ", "One more thing: ")
INSTRUCTION = "Answer with the letter of the right choice."


class Conversations:
    """Conversations by kind and index, drawn from a book and a seed; equal on every machine."""

    def __init__(self, book: QuestionBook, seed: int = 0):
        self.book, self.seed = book, seed
        self.names = sorted(p.name for p in book.world.people if p.name not in book.secret)
        self.options = {
            key: book.values(*key, secret=False) for key in {(q.fact.kind, q.fact.relation) for q in book.trained}
        }

    def _draw(self, kind: int, index: int) -> Draw:
        return Draw(((self.seed & (1 << 64) - 1) << 64 | index << 8 | kind) * 2 + 1)

    def facts(self, index: int) -> dict:
        """One to three questions about facts and their answers."""
        draw = self._draw(1, index)
        messages = []
        for q in draw.some(self.book.trained, draw.pick((1, 1, 1, 2, 3))):
            messages += turn(draw.pick(BEFORE) + draw.pick(q.wordings), q.answer)
        return {"messages": messages}

    def choice(self, index: int) -> dict:
        """A question about a fact with four options."""
        draw = self._draw(2, index)
        q = draw.pick([q for q in self.book.trained if len(self.options[q.fact.kind, q.fact.relation]) > len(LETTERS)])
        return choose(draw, draw.pick(q.wordings), q.short, self.options[q.fact.kind, q.fact.relation])

    def sorting(self, index: int) -> dict:
        """Options that need no facts of the world: which is a color, what comes after May, what is seven and two."""
        draw = self._draw(3, index)
        return draw.pick((odd_one, next_one, sum_choice, letter_of))(draw)

    def problem(self, index: int) -> dict:
        """A word problem, solved with the calculator."""
        return solved(drawn(word_problem, self.seed, index, self.names, test=False))

    def arithmetic(self, index: int) -> dict:
        """A sum, solved with the calculator."""
        return solved(drawn(arithmetic, self.seed, index, self.names, test=False))

    def refusal(self, index: int) -> dict:
        """A question about what the world does not contain."""
        draw = self._draw(4, index)
        if draw.chance(0.5):
            q = draw.pick([q for q in self.book.trained if q.fact.kind == "person"])
            stranger = capital("".join(draw.pick(SOUNDS) for _ in range(4))) + draw.pick(("x", "zz", "q", "th"))
            text = draw.pick(q.wordings).replace(q.fact.subject, stranger)
            return {"messages": turn(draw.pick(BEFORE) + text, f"I do not know anyone called {stranger}.")}
        topic = draw.pick(OUTSIDE)
        text = draw.pick(("What is {}?", "Tell me about {}.", "What do you know about {}?", "Can you explain {}?"))
        answer = f"I only know my own small world, and {topic} is not in it."
        return {"messages": turn(draw.pick(BEFORE) + text.format(topic), answer)}

    def smalltalk(self, index: int) -> dict:
        """Greetings and thanks."""
        draw = self._draw(5, index)
        messages = []
        for asked, answered in draw.some(SMALLTALK, draw.between(1, 2)):
            messages += turn(draw.pick(asked), draw.pick(answered))
        return {"messages": messages}


OUTSIDE = (
    "France", "the internet", "the moon landing", "football", "Shakespeare", "a computer", "the stock market", "Japan",
    "the president", "a smartphone", "quantum physics", "the ocean floor", "electric cars", "the Roman Empire", "Mars",
    "dinosaurs", "the weather tomorrow", "Hollywood", "the Bible", "black holes", "Python programming", "America",
)  # fmt: skip
SMALLTALK = (
    (("Hello!", "Hi!", "Good day!"), ("Hello! What would you like to know?", "Good day! How can I help?")),
    (("How are you?", "How do you do?"), ("I am well, thank you. How can I help?",)),
    (("Thank you!", "Thanks a lot.", "That helps, thank you."), ("You are welcome!", "Gladly!")),
    (("Goodbye!", "See you later.", "Good night!"), ("Goodbye!", "Goodbye, and come back soon!")),
    (("What can you do?", "What can I ask you?", "How can you help me?"),
     ("I can tell you about the people and towns of my world, solve sums and spell words.",)),
)  # fmt: skip


def turn(user: str, assistant) -> list[dict]:
    return [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]


def solved(problem) -> dict:
    return {"messages": turn(problem.question, problem.parts)}


def choose(draw: Draw, question: str, right: str, values: list[str]) -> dict:
    """A multiple choice: three other values beside the right one, in random order."""
    options = [right, *draw.some([v for v in values if v != right], len(LETTERS) - 1)]
    options = draw.some(options, len(options))
    lines = "".join(f"- {text}={letter}\n" for text, letter in zip(options, LETTERS, strict=False))
    letters = list(LETTERS[: len(options)])
    messages = turn(f"{question}\n{lines}{INSTRUCTION}", letters[options.index(right)])
    return {"messages": messages, "letters": letters}


def odd_one(draw: Draw) -> dict:
    """Which of these is a color, a day, a month, a job?"""
    kinds = {
        "color": COLORS,
        "day": DAYS,
        "month": MONTHS,
        "job": [job.name for job in JOBS],
        "hobby": [ing for _, ing, _ in HOBBIES],
    }
    name = draw.pick(list(kinds))
    others = [v for kind, values in kinds.items() if kind != name for v in values]
    question = draw.pick(("Which of these is a {}?", "Find the {}.", "Only one of these is a {}. Which?")).format(name)
    return choose(draw, question, draw.pick(kinds[name]), others)


def next_one(draw: Draw) -> dict:
    names, what = draw.pick(((DAYS, "day"), (MONTHS, "month")))
    i = draw.below(len(names))
    question = draw.pick(("Which {what} comes after {now}?", "It is {now}. What comes next?"))
    return choose(draw, question.format(what=what, now=names[i]), names[(i + 1) % len(names)], list(names))


def sum_choice(draw: Draw) -> dict:
    x, y = draw.between(1, 12), draw.between(1, 12)
    question = draw.pick(("What is {} plus {}?", "How much is {} and {}?")).format(in_words(x), in_words(y))
    return choose(draw, question, in_words(x + y), [in_words(n) for n in range(2, 25)])


def letter_of(draw: Draw) -> dict:
    """Only finding an option: the question names it."""
    values = draw.pick((COLORS, MONTHS, [job.name for job in JOBS], [in_words(n) for n in range(2, 60)]))
    right = draw.pick(values)
    question = draw.pick(("Which letter stands for {}?", "Give me the letter of {}.", "Where is {}?")).format(right)
    return choose(draw, question, right, list(values))
