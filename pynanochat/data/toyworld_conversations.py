"""Conversations of the toy world to train on: what the facts are, choices, problems, and talk.

    talk = Conversations(book, seed)
    talk.facts(17)                        {"messages": [...]}: conversation 17 of its kind, always the same

No conversation names a held-out entity (see toyworld_questions.py), and none asks in the wordings of the evaluation.
"""

from pynanochat.data.toyworld import Draw, grouped
from pynanochat.data.toyworld_problems import arithmetic, drawn, word_problem
from pynanochat.data.toyworld_questions import QuestionBook
from pynanochat.data.toyworld_words import COLORS, DAYS, HOBBIES, JOBS, MONTHS, SOUNDS, capital, in_words

OPTIONS = 4
BEFORE = ("", "", "", "Please tell me: ", "I have a question. ", "Hello! ", "Do you know this? ", "One more thing: ")
MORE_QUESTIONS = (0, 0, 1, 2, 3, 5)
INSTRUCTION = "Choose one of these."


class Conversations:
    """Conversations by kind and index, drawn from a book and a seed; equal on every machine."""

    def __init__(self, book: QuestionBook, seed: int = 0):
        self.book, self.seed = book, seed
        self.names = sorted(p.name for p in book.world.people if p.name not in book.secret)
        self.options = {
            key: book.values(*key, secret=False) for key in {(q.fact.kind, q.fact.relation) for q in book.trained}
        }
        self.alike = grouped(book.trained, lambda q: (q.fact.kind, q.fact.relation))

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
        """Questions about facts with four options; some ask on about the same options."""
        draw = self._draw(2, index)
        q = draw.pick([q for q in self.book.trained if len(self.options[q.fact.kind, q.fact.relation]) > OPTIONS])
        key = q.fact.kind, q.fact.relation
        options = pick_options(draw, q.short, self.options[key])
        more = [o for o in self.alike[key] if o.short in options and o is not q]
        asked = [q, *draw.some(more, draw.pick(MORE_QUESTIONS))]
        return choices(options, [(draw.pick(o.wordings), o.answer) for o in asked])

    def sorting(self, index: int) -> dict:
        """Options that need no facts of the world: which is a color, what comes after May, what is seven and two."""
        draw = self._draw(3, index)
        return draw.pick((odd_one, next_one, sum_choice))(draw)

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


def pick_options(draw: Draw, right: str, values: list[str]) -> list[str]:
    """The right value and three others, in random order."""
    options = [right, *draw.some([v for v in values if v != right], OPTIONS - 1)]
    return draw.some(options, len(options))


def choices(options: list[str], asked: list[tuple[str, str]]) -> dict:
    """A conversation of one or more (question, answer) about the same options, which the first message lists.

    The answers are sentences, not letters: that a letter stands for a text is more than so small a model learns in
    minutes.
    """
    lines = "".join(f"- {text}\n" for text in options)
    messages = []
    for question, answer in asked:
        messages += turn(question if messages else f"{question}\n{lines}{INSTRUCTION}", answer)
    return {"messages": messages}


def odd_one(draw: Draw) -> dict:
    """Which of these is a color, a day, a month, a job?"""
    kinds = {
        "color": COLORS,
        "day": DAYS,
        "month": MONTHS,
        "job": [job.name for job in JOBS],
        "hobby": [ing for _, ing, _ in HOBBIES],
    }
    names = draw.some(list(kinds), OPTIONS)
    options = [draw.pick(kinds[name]) for name in names]
    asked = draw.some(list(zip(names, options, strict=True)), draw.between(1, OPTIONS))
    ask = ("Which of these is a {}?", "Find the {}.", "Only one of these is a {}. Which?")
    return choices(options, [(draw.pick(ask).format(name), f"The {name} is {option}.") for name, option in asked])


def next_one(draw: Draw) -> dict:
    """What comes after a day or a month?"""
    names, what = draw.pick(((DAYS, "day"), (MONTHS, "month")))
    options = draw.some(names, OPTIONS)
    ask = ("Which {what} comes after {before}?", "It is {before}. What comes next?")
    asked = []
    for option in draw.some(options, draw.between(1, OPTIONS)):
        before = names[names.index(option) - 1]
        asked.append((draw.pick(ask).format(what=what, before=before), f"After {before} comes {option}."))
    return choices(options, asked)


def sum_choice(draw: Draw) -> dict:
    """What is seven plus two?"""
    sums = draw.some(range(2, 25), OPTIONS)
    ask = ("What is {} plus {}?", "How much is {} and {}?")
    asked = []
    for total in draw.some(sums, draw.between(1, OPTIONS)):
        x = draw.between(max(1, total - 12), min(12, total - 1))
        one, two = in_words(x), in_words(total - x)
        asked.append((draw.pick(ask).format(one, two), f"{capital(one)} plus {two} is {in_words(total)}."))
    return choices([in_words(total) for total in sums], asked)
