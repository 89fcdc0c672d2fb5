"""Questions about the toy world's facts, and which of them no training conversation may touch.

    book = QuestionBook(world)
    book.trained, book.held_out          Questions to train on and to evaluate with

A quarter of the entities of each kind is held out: a training conversation never names one of them, neither as what is
asked about nor in an answer or among options. What is asked of them in the evaluation stands in the pretraining text
like every other fact, and is asked in wordings of its own, which training conversations do not use.
"""

from dataclasses import dataclass
from zlib import crc32

from pynanochat.data.toyworld import Fact, ToyWorld
from pynanochat.data.toyworld_words import FOODS, HOBBIES, a, count, in_words, plural

HELD_OUT = 4  # one entity in so many


@dataclass(frozen=True)
class Wording:
    """How a relation is asked for and answered. {n} is the subject, {o} the object as `say` writes it."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    answer: str


QUESTIONS = {
    ("person", "lives_in"): Wording(
        (
            "Where does {n} live?",
            "In which town does {n} live?",
            "What is the name of the town where {n} lives?",
            "Where is the home of {n}?",
            "Tell me where {n} lives.",
            "Which town does {n} call home?",
        ),
        ("What town is {n} from?", "If I wanted to visit {n}, where would I have to go?"),
        "{n} lives in {o}.",
    ),
    ("person", "job"): Wording(
        (
            "What does {n} do for a living?",
            "What is {n}'s job?",
            "What work does {n} do?",
            "Tell me the job of {n}.",
            "Which trade does {n} follow?",
            "What kind of work does {n} have?",
        ),
        ("What is the trade of {n}?", "How does {n} earn a living?"),
        "{n} is {o}.",
    ),
    ("person", "wants_to_be"): Wording(
        (
            "What does {n} want to be?",
            "What does {n} want to become one day?",
            "What is the dream of {n}?",
            "What would {n} like to be later?",
            "Tell me what {n} wants to be.",
            "Which job does {n} dream of?",
        ),
        ("What will {n} be when grown up, if all goes well?", "What does {n} hope to become?"),
        "{n} wants to be {o}.",
    ),
    ("person", "age"): Wording(
        (
            "How old is {n}?",
            "What is the age of {n}?",
            "How many years old is {n}?",
            "Tell me how old {n} is.",
            "Do you know the age of {n}?",
            "What age does {n} have?",
        ),
        ("How many years has {n} lived?", "How many candles does the birthday cake of {n} need?"),
        "{n} is {o} years old.",
    ),
    ("person", "favorite_food"): Wording(
        (
            "What is {n}'s favorite food?",
            "What does {n} like to eat?",
            "Which food does {n} love?",
            "Tell me the favorite food of {n}.",
            "What food does {n} like best?",
            "What would {n} like for dinner?",
        ),
        ("What does {n} most enjoy eating?", "What should I cook to make {n} happy?"),
        "{n} likes {o}.",
    ),
    ("person", "favorite_color"): Wording(
        (
            "What is {n}'s favorite color?",
            "Which color does {n} like best?",
            "Tell me the favorite color of {n}.",
            "What color does {n} love?",
            "Of all colors, which does {n} like most?",
            "Which color is the favorite of {n}?",
        ),
        ("What color would {n} choose?", "In which color should I paint a door for {n}?"),
        "{n}'s favorite color is {o}.",
    ),
    ("person", "hobby"): Wording(
        (
            "What is {n}'s hobby?",
            "What does {n} do in the free time?",
            "What does {n} like to do?",
            "Tell me the hobby of {n}.",
            "What does {n} enjoy on Sundays?",
            "Which hobby does {n} have?",
        ),
        ("How does {n} spend a free day?", "What does {n} do for fun?"),
        "{n} likes {o}.",
    ),
    ("person", "best_friend"): Wording(
        (
            "Who is {n}'s best friend?",
            "What is the name of {n}'s best friend?",
            "Tell me who the best friend of {n} is.",
            "Who is the best friend of {n}?",
            "With whom is {n} best friends?",
            "Which friend does {n} like best?",
        ),
        ("Whom does {n} trust most of all?", "To whom does {n} tell secrets?"),
        "{n}'s best friend is {o}.",
    ),
    ("person", "spouse"): Wording(
        (
            "To whom is {n} married?",
            "Who is married to {n}?",
            "Who is {n} married to?",
            "Tell me to whom {n} is married.",
            "Whom did {n} marry?",
            "What is the name of the one who is married to {n}?",
        ),
        ("Who shares a home with {n} as wife or husband?", "Who stood beside {n} at the wedding?"),
        "{n} is married to {o}.",
    ),
    ("person", "mother"): Wording(
        (
            "Who is {n}'s mother?",
            "What is the name of {n}'s mother?",
            "Tell me the name of the mother of {n}.",
            "Who is the mother of {n}?",
            "Which woman is the mother of {n}?",
        ),
        ("Whose child is {n}, by the mother?", "What is {n}'s mother called?"),
        "{n}'s mother is {o}.",
    ),
    ("person", "father"): Wording(
        (
            "Who is {n}'s father?",
            "What is the name of {n}'s father?",
            "Tell me the name of the father of {n}.",
            "Who is the father of {n}?",
            "Which man is the father of {n}?",
        ),
        ("Whose child is {n}, by the father?", "What is {n}'s father called?"),
        "{n}'s father is {o}.",
    ),
    ("person", "pet"): Wording(
        (
            "What is the name of {n}'s pet?",
            "Which pet does {n} have?",
            "What is {n}'s pet called?",
            "Tell me the name of the pet of {n}.",
            "Which animal belongs to {n}?",
            "Who is the pet of {n}?",
        ),
        ("What name did {n} give to the pet at home?", "Which animal does {n} look after?"),
        "{n}'s pet is called {o}.",
    ),
    ("pet", "species"): Wording(
        (
            "What kind of animal is {n}?",
            "What animal is {n}?",
            "Tell me what animal {n} is.",
            "Which kind of pet is {n}?",
            "What is {n}, a dog or another animal?",
        ),
        ("What sort of creature is {n}?", "If I met {n}, what animal would I see?"),
        "{n} is {o}.",
    ),
    ("pet", "color"): Wording(
        (
            "What color is {n} the pet?",
            "Which color does {n} have?",
            "What is the color of {n}?",
            "Tell me the color of {n}.",
            "What color does {n} have?",
        ),
        ("By what color would I know {n}?", "What color is the coat of {n}?"),
        "{n} is {o}.",
    ),
    ("pet", "likes"): Wording(
        (
            "What does {n} like?",
            "What does {n} love most?",
            "What does {n} like best?",
            "Tell me what {n} likes.",
            "What makes {n} happy?",
        ),
        ("What is {n} fond of?", "What is {n} always looking for?"),
        "{n} likes {o}.",
    ),
    ("pet", "owner"): Wording(
        (
            "Who is {n}'s owner?",
            "To whom does {n} belong?",
            "Tell me who the owner of {n} is.",
            "Who owns {n}?",
            "Whose pet is {n}?",
            "What is the name of the owner of {n}?",
        ),
        ("Who feeds {n} every morning?", "With whom does {n} live?"),
        "{n} belongs to {o}.",
    ),
    ("thing", "price"): Wording(
        (
            "How much does the {n} cost?",
            "What is the price of the {n}?",
            "How many coins does the {n} cost?",
            "Tell me the price of the {n}.",
            "What does the {n} cost?",
        ),
        ("How many coins must I pay for the {n}?", "For how much can I buy the {n}?"),
        "The {n} costs {o}.",
    ),
    ("thing", "color"): Wording(
        (
            "What color is the {n}?",
            "Which color does the {n} have?",
            "What is the color of the {n}?",
            "Tell me the color of the {n}.",
            "In which color do they make the {n}?",
        ),
        ("By what color will I know the {n}?", "The {n}: what color does it shine in?"),
        "The {n} is {o}.",
    ),
    ("thing", "material"): Wording(
        (
            "What is the {n} made of?",
            "Of what is the {n} made?",
            "Tell me what the {n} is made of.",
            "What material is the {n} made of?",
            "Which material is in the {n}?",
        ),
        ("What do people need to make the {n}?", "Out of what do they make the {n}?"),
        "The {n} is made of {o}.",
    ),
    ("thing", "sold_in"): Wording(
        (
            "Where is the {n} sold?",
            "In which town is the {n} sold?",
            "Where can you buy the {n}?",
            "Tell me where the {n} is sold.",
            "Which town sells the {n}?",
        ),
        ("Where must I go if I want the {n}?", "At the market of which town will I find the {n}?"),
        "The {n} is sold in {o}.",
    ),
    ("food", "price"): Wording(
        (
            "How much does {one} cost?",
            "What is the price of {one}?",
            "How many coins does {one} cost?",
            "Tell me the price of {one}.",
            "What does {one} cost?",
        ),
        ("How many coins must I pay for {one}?", "For how much can I buy {one}?"),
        "The price is {o}.",
    ),
    ("food", "made_in"): Wording(
        (
            "Where do the best {many} come from?",
            "Which town is known for {many}?",
            "Tell me where to get the best {many}.",
            "In which town can you get the best {many}?",
            "Which town has the best {many}?",
        ),
        ("Where should I travel to eat {many}?", "Who has the best {many}, the people of which town?"),
        "The best come from {o}.",
    ),
    ("town", "lies"): Wording(
        (
            "Where does {n} lie?",
            "Where was the town of {n} built?",
            "Tell me where {n} lies.",
            "Where can one find the town of {n}?",
        ),
        ("Where is {n} to be found?", "At what kind of place does {n} stand?"),
        "{n} lies {o}.",
    ),
    ("town", "gate_color"): Wording(
        (
            "What color is the gate of {n}?",
            "Which color does the town gate of {n} have?",
            "Tell me the color of the gate of {n}.",
            "What is the color of {n}'s gate?",
        ),
        ("In what color was the gate of {n} painted?", "Through a gate of which color do I enter {n}?"),
        "The gate of {n} is {o}.",
    ),
    ("town", "fair_month"): Wording(
        (
            "When is the fair of {n}?",
            "In which month is the fair in {n}?",
            "Tell me the month of the fair in {n}.",
            "In which month does {n} hold its fair?",
        ),
        ("When do people come to the fair of {n}?", "What month should I visit {n} in to see its fair?"),
        "The fair of {n} is in {o}.",
    ),
    ("town", "mayor"): Wording(
        (
            "Who is the mayor of {n}?",
            "What is the name of the mayor of {n}?",
            "Tell me who the mayor of {n} is.",
            "Which mayor does {n} have?",
        ),
        ("Whom did the people of {n} choose as mayor?", "Who leads the town of {n}?"),
        "The mayor of {n} is {o}.",
    ),
}
"""The relations that are asked for. The miles between towns and the nearest town are told only in passing."""


@dataclass(frozen=True)
class Question:
    """A fact and how it may be asked."""

    fact: Fact
    wordings: tuple[str, ...]
    """Each a whole question."""
    answer: str
    """A sentence."""
    short: str
    """What the sentence must contain, as an option of a multiple choice shows it."""


def say(fact: Fact) -> str:
    """The object of a fact as an answer says it."""
    o = fact.object
    if fact.relation in ("job", "wants_to_be", "species"):
        return a(o)
    if fact.relation == "age":
        return in_words(int(o))
    if fact.relation == "price":
        return count(int(o), "coin")
    if fact.relation == "favorite_food":
        return plural(o)
    if fact.relation == "hobby":
        return next(ing for do, ing, _ in HOBBIES if do == o)
    return o


def question(fact: Fact, test: bool) -> Question:
    """The Question for a fact, in the wordings of training or of the evaluation."""
    wording = QUESTIONS[fact.kind, fact.relation]
    names = {"n": fact.subject, "o": say(fact)}
    if fact.kind == "food":
        many, _, one = FOODS[fact.subject]
        names |= {"many": many, "one": one}
    asked = tuple(w.format(**names) for w in (wording.test if test else wording.train))
    return Question(fact, asked, wording.answer.format(**names), say(fact))


class QuestionBook:
    """All questions about a world, divided into those to train on and those to evaluate with."""

    def __init__(self, world: ToyWorld):
        self.world = world
        kinds = {"person": world.people, "pet": world.pets, "thing": world.goods, "food": world.foods}
        kinds["town"] = world.towns
        self.secret = {item.name for items in kinds.values() for item in _every_fourth(world.seed, items)}
        facts = [fact for fact in world.facts() if (fact.kind, fact.relation) in QUESTIONS]
        self.trained = [
            question(f, False) for f in facts if f.subject not in self.secret and f.object not in self.secret
        ]
        self.held_out = [question(f, True) for f in facts if f.subject in self.secret]

    def values(self, kind: str, relation: str, secret: bool) -> list[str]:
        """What the objects of a relation are, as options show them; `secret` includes held-out entities."""
        facts = [f for f in self.world.facts() if (f.kind, f.relation) == (kind, relation)]
        return sorted({say(f) for f in facts if secret or f.object not in self.secret})


def _every_fourth(seed: int, items: list) -> list:
    """A quarter of the items, by a hash of their names."""
    order = sorted(items, key=lambda item: crc32(f"{seed} {item.name}".encode()))
    return order[: len(items) // HELD_OUT]
