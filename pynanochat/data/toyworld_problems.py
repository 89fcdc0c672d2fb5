"""Word problems and sums of the toy world, solved step by step with the calculator.

    problem = word_problem(draw, names)
    problem.question, problem.parts, problem.answer        "Mira buys ...", the solution's parts, "12"

Every step is a tool call, and the solution ends with `#### ANSWER`. A problem is one to three steps long. Numbers and
wordings are drawn, so that there are many millions of problems; those whose question has a CRC-32 divisible by eight
are kept for evaluation, in the same way as the pretraining text divides its documents.
"""

from dataclasses import dataclass
from zlib import crc32

from pynanochat.data.toyworld import EXCLUSIVE, Draw
from pynanochat.tools.calculator import calculate


@dataclass(frozen=True)
class Problem:
    """One problem: its text, the assistant's solution as parts of a message, and the number that is asked for."""

    question: str
    parts: list
    answer: str


class Solution:
    """A solution in the making: text, and calculations whose results the later steps use."""

    def __init__(self):
        self.parts: list[dict] = []
        self.value = "0"

    def step(self, before: str, expression: str, after: str) -> "Solution":
        """`before`, the calculation, its result and `after`. {v} in an expression is the last result."""
        expression = expression.format(v=self.value)
        self.value = calculate(expression)
        before = f" {before}" if self.parts else before
        self.parts += [
            {"type": "text", "text": f"{before} "},
            {"type": "python", "text": expression},
            {"type": "python_output", "text": self.value},
            {"type": "text", "text": f"{self.value}{after}"},
        ]
        return self

    def problem(self, question: str) -> Problem:
        self.parts[-1]["text"] += f"\n#### {self.value}"
        return Problem(question, self.parts, self.value)


GOODS = ("candles", "spoons", "cups", "plates", "pots", "books", "stones", "feathers", "beads", "nails", "pins")
"""None is an entity of any world, so that no problem can name a held-out one."""
HOLDERS = ("baskets", "boxes", "bags", "jars", "chests")


def total_price(draw: Draw, name: str) -> Problem:
    n, price, what = draw.between(2, 19), draw.between(2, 19), draw.pick(GOODS)
    question = draw.pick((
        f"{name} buys {n} {what}. Each costs {price} coins. How many coins does {name} pay?",
        f"One of the {what} costs {price} coins. How much must {name} pay for {n} {what}?",
        f"At the market {name} takes {n} {what} for {price} coins each. How many coins is that?",
    ))  # fmt: skip
    return Solution().step(f"The {n} {what} cost", f"{n} * {price}", " coins.").problem(question)


def change(draw: Draw, name: str) -> Problem:
    n, price, what = draw.between(2, 12), draw.between(2, 12), draw.pick(GOODS)
    purse = n * price + draw.between(1, 60)
    question = draw.pick((
        f"{name} has {purse} coins and buys {n} {what} for {price} coins each. How many coins are left?",
        f"{name} buys {n} {what} at {price} coins each and pays with {purse} coins. How many coins come back?",
        f"With {purse} coins {name} goes to the market. There {name} buys {n} {what}, and each costs {price} coins. "
        f"How many coins does {name} still have?",
    ))  # fmt: skip
    solution = Solution().step(f"The {n} {what} cost", f"{n} * {price}", " coins.")
    return solution.step("There remain", f"{purse} - {{v}}", " coins.").problem(question)


def two_kinds(draw: Draw, name: str) -> Problem:
    (one, two), n, m = draw.some(GOODS, 2), draw.between(2, 60), draw.between(2, 60)
    question = draw.pick((
        f"{name} has {n} {one} and {m} {two}. How many things is that in all?",
        f"There are {n} {one} and {m} {two} on the table of {name}. How many things are there on the table?",
    ))  # fmt: skip
    return Solution().step("In all there are", f"{n} + {m}", " things.").problem(question)


def give_and_get(draw: Draw, name: str) -> Problem:
    n, what = draw.between(20, 90), draw.pick(GOODS)
    given, got = draw.between(2, 19), draw.between(2, 40)
    question = draw.pick((
        f"{name} has {n} {what}, gives away {given} and then gets {got} more. How many {what} does {name} have now?",
        f"{name} had {n} {what}. Then {name} lost {given} of them and found {got} others. How many are there now?",
    ))  # fmt: skip
    solution = Solution().step("After giving there are" if "gives" in question else "After the loss there are",
                               f"{n} - {given}", f" {what}.")  # fmt: skip
    return solution.step("Then there are", f"{{v}} + {got}", f" {what}.").problem(question)


def share(draw: Draw, name: str) -> Problem:
    friends, each, what = draw.between(2, 9), draw.between(2, 15), draw.pick(GOODS)
    question = draw.pick((
        f"{name} shares {friends * each} {what} equally among {friends} friends. How many does each of them get?",
        f"{friends} friends of {name} divide {friends * each} {what} equally. How many {what} does each friend get?",
    ))  # fmt: skip
    return Solution().step("Each gets", f"{friends * each} / {friends}", f" {what}.").problem(question)


def holders(draw: Draw, name: str) -> Problem:
    n, each, what, holder = draw.between(2, 12), draw.between(3, 12), draw.pick(GOODS), draw.pick(HOLDERS)
    broken = draw.between(1, n * each - 1)
    question = draw.pick((
        f"{name} has {n} {holder} with {each} {what} in each. Of these, {broken} are broken. How many are whole?",
        f"There are {each} {what} in each of the {n} {holder} of {name}. {name} sells {broken} {what}. "
        f"How many {what} are left?",
    ))  # fmt: skip
    solution = Solution().step(f"The {holder} hold", f"{n} * {each}", f" {what}.")
    return solution.step("There remain", f"{{v}} - {broken}", f" {what}.").problem(question)


def walk(draw: Draw, name: str) -> Problem:
    a_day, days, more = draw.between(3, 19), draw.between(2, 9), draw.between(1, 15)
    question = draw.pick((
        f"{name} walks {a_day} miles a day for {days} days and then {more} miles more. How many miles is that?",
        f"For {days} days {name} walks {a_day} miles every day. On the last day {name} walks another {more} miles. "
        f"How long is the whole way in miles?",
    ))  # fmt: skip
    solution = Solution().step(f"In {days} days it is", f"{a_day} * {days}", " miles.")
    return solution.step("The whole way is", f"{{v}} + {more}", " miles.").problem(question)


def savings(draw: Draw, name: str) -> Problem:
    a_day, days = draw.between(3, 15), draw.between(3, 12)
    friends = draw.between(2, 6)
    spent = (a_day * days) % friends + friends * draw.between(0, max(0, a_day * days // friends - 2))
    question = draw.pick((
        f"{name} earns {a_day} coins a day for {days} days, spends {spent} coins and shares the rest equally among "
        f"{friends} children. How many coins does each child get?",
        f"Working {days} days for {a_day} coins a day, {name} fills a purse. {name} pays {spent} coins for bread, and "
        f"{friends} children divide what is left. How many coins are there for each child?",
    ))  # fmt: skip
    solution = Solution().step(f"In {days} days {name} earns", f"{a_day} * {days}", " coins.")
    solution.step("There remain", f"{{v}} - {spent}", " coins.")
    return solution.step("Each child gets", f"{{v}} / {friends}", " coins.").problem(question)


def times_as_many(draw: Draw, name: str) -> Problem:
    n, times, what = draw.between(2, 20), draw.between(2, 6), draw.pick(GOODS)
    question = draw.pick((
        f"{name} has {n} {what}. A friend has {times} times as many. How many {what} do the two have together?",
        f"A friend of {name} found {times} times as many {what} as {name}, who found {n}. How many did both find?",
    ))  # fmt: skip
    solution = Solution().step("The friend has", f"{n} * {times}", f" {what}.")
    return solution.step("Together they have", f"{{v}} + {n}", f" {what}.").problem(question)


def two_prices(draw: Draw, name: str) -> Problem:
    (one, two) = draw.some(GOODS, 2)
    n, price, m, other = draw.between(2, 9), draw.between(2, 12), draw.between(2, 9), draw.between(2, 12)
    question = draw.pick((
        f"{name} buys {n} {one} for {price} coins each and {m} {two} for {other} coins each. "
        f"How many coins is that in all?",
        f"One of the {one} costs {price} coins and one of the {two} costs {other} coins. {name} takes {n} {one} and "
        f"{m} {two}. How many coins does {name} pay?",
    ))  # fmt: skip
    solution = Solution().step(f"The {one} cost", f"{n} * {price}", " coins.")
    first = solution.value
    solution.step(f"The {two} cost", f"{m} * {other}", " coins.")
    return solution.step("In all that is", f"{first} + {{v}}", " coins.").problem(question)


def older(draw: Draw, name: str) -> Problem:
    age, years = draw.between(6, 60), draw.between(2, 30)
    question = draw.pick((
        f"{name} is {age} years old. How old will {name} be in {years} years?",
        f"In {years} years, what will be the age of {name}, who is {age} now?",
    ))  # fmt: skip
    return Solution().step(f"{name} will be", f"{age} + {years}", " years old.").problem(question)


EVENTS = (  # what happens to things: the operation, and how it is told
    ("+", ("{p} finds {n} more.", "Then {p} gets {n} from a friend.", "{p} buys {n} others at the market.")),
    ("-", ("{p} gives away {n}.", "Then {p} loses {n} of them.", "{n} of them break.", "{p} sells {n}.")),
    ("*", ("Then {p} has {n} times as many.", "A lucky day makes them {n} times as many.")),
)


def events(draw: Draw, name: str) -> Problem:
    """Things that become more and fewer, two to four times."""
    have, what = draw.between(10, 60), draw.pick(GOODS)
    told = [draw.pick((f"{name} has {have} {what}.", f"In the house of {name} there are {have} {what}."))]
    solution, now = Solution(), have
    for number in range(draw.between(2, 4)):
        possible = [e for e in EVENTS if (e[0] != "*" or now < 200) and (e[0] != "-" or now > 2)]
        sign, wordings = draw.pick(possible)
        n = {"+": draw.between(2, 30), "-": draw.between(1, min(30, now - 1)), "*": draw.between(2, 4)}[sign]
        told.append(draw.pick(wordings).format(p=name, n=n))
        before, value = ("Then there are", "{v}") if number else ("First there are", have)
        solution.step(before, f"{value} {sign} {n}", f" {what}.")
        now = int(solution.value)
    ask = draw.pick(("How many {} are there now?", "How many {} does {} have in the end?"))
    return solution.problem(f"{' '.join(told)} {ask.format(what, name)}")


PROBLEMS = (
    events, events, events, events,
    total_price, change, two_kinds, give_and_get, share, holders, walk, savings, times_as_many, two_prices, older,
)  # fmt: skip


def arithmetic(draw: Draw, _name: str) -> Problem:
    """A bare sum, of one or two operations."""
    x, y, z = draw.between(2, 99), draw.between(2, 99), draw.between(2, 20)
    expression = draw.pick((
        f"{x} + {y}", f"{max(x, y)} - {min(x, y)}", f"{x} * {z}", f"{x * z} / {z}", f"({x} + {y}) * {z}",
        f"{x} * {z} - {min(x, y)}", f"{x} + {y} * {z}",
    ))  # fmt: skip
    question = draw.pick((
        "What is {}?", "Calculate {}.", "How much is {}?", "Please work out {}.", "Tell me the result of {}.",
    )).format(expression)  # fmt: skip
    return Solution().step("The result is", expression, ".").problem(question)


def word_problem(draw: Draw, name: str) -> Problem:
    """A problem about somebody called `name`."""
    return draw.pick(PROBLEMS)(draw, name)


def drawn(make, seed: int, index: int, names: list[str], test: bool) -> Problem:
    """Problem `index` of a split: drawn again until its question belongs to that split."""
    attempt = 0
    while True:
        draw = Draw((seed & (1 << 64) - 1) << 64 | index << 20 | attempt << 1 | test)
        problem = make(draw, draw.pick(names))
        if (crc32(problem.question.encode()) % EXCLUSIVE == 0) == test:
            return problem
        attempt += 1
