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
from pynanochat.data.toyworld_words import FOODS, HOBBIES, a, capital, count, in_words, plural

HELD_OUT = 4  # one entity in so many


@dataclass(frozen=True)
class Wording:
    """How a relation is asked for and answered. {n} is the subject, {o} the object as `say` writes it."""

    things: tuple[str, ...]
    """What is asked for, as a noun: each goes into every frame of training."""
    asks: tuple[str, ...]
    """Whole questions of training."""
    test_thing: str
    """A noun of the evaluation, which goes into the frames of the evaluation."""
    test_ask: str
    """A whole question of the evaluation."""
    answer: str
    who: str = "what"


FRAMES = (
    "{W} is {t}?",
    "Tell me {t}.",
    "Can you tell me {t}?",
    "I would like to know {t}.",
    "Please name {t}.",
    "Tell me {w} {t} is.",
    "Do you know {w} {t} is?",
    "Please say {w} {t} is.",
)
TEST_FRAMES = ("I wonder {w} {t} is.", "Could you say {w} {t} is?")

QUESTIONS = {
    ("person", "lives_in"): Wording(
        ("the home of {n}", "{n}'s town", "the name of the town where {n} lives", "the place where {n} sleeps"),
        (
            "Where does {n} live?",
            "In which town does {n} live?",
            "Where is the home of {n}?",
            "Which town does {n} call home?",
            "Where do I have to go if I want to visit {n}?",
            "From which town is {n}?",
            "Where can you find {n}?",
        ),
        "the town that {n} calls home",
        "To which town should I go to find {n}?",
        "{n} lives in {o}.",
    ),
    ("person", "job"): Wording(
        ("{n}'s job", "the job of {n}", "the work of {n}", "{n}'s trade"),
        (
            "What does {n} do for a living?",
            "What work does {n} do?",
            "Which trade does {n} follow?",
            "What does {n} work as?",
            "How does {n} earn bread?",
            "What kind of work does {n} have?",
            "As what do people know {n}?",
        ),
        "the trade of {n}",
        "What does {n} do every day to earn a living?",
        "{n} is {o}.",
    ),
    ("person", "wants_to_be"): Wording(
        ("{n}'s dream", "the dream of {n}", "the job that {n} dreams of", "what {n} wants to be"),
        (
            "What does {n} want to be?",
            "What does {n} want to become one day?",
            "What would {n} like to be later?",
            "Which job does {n} dream of?",
            "What does {n} hope to become?",
            "What will {n} be one day?",
        ),
        "the job that {n} wants one day",
        "What does {n} dream of being?",
        "{n} wants to be {o}.",
    ),
    ("person", "age"): Wording(
        ("{n}'s age", "the age of {n}", "the number of years {n} has lived", "how old {n} is"),
        (
            "How old is {n}?",
            "How many years old is {n}?",
            "What age does {n} have?",
            "For how many years has {n} lived?",
            "How many candles were on {n}'s birthday cake?",
            "What did {n} turn on the last birthday?",
        ),
        "the number of candles on {n}'s cake",
        "How many years has {n} lived?",
        "{n} is {o} years old.",
    ),
    ("person", "favorite_food"): Wording(
        ("{n}'s favorite food", "the favorite food of {n}", "the food that {n} likes best", "what {n} likes to eat"),
        (
            "What does {n} like to eat?",
            "Which food does {n} love?",
            "What food does {n} like best?",
            "What would {n} like for dinner?",
            "What could {n} eat every day?",
            "What tastes best to {n}?",
            "What should I cook for {n}?",
        ),
        "the food that {n} loves",
        "What does {n} like to eat more than anything else?",
        "{n} likes {o}.",
    ),
    ("person", "favorite_color"): Wording(
        ("{n}'s favorite color", "the favorite color of {n}", "the color that {n} likes best", "the color {n} loves"),
        (
            "Which color does {n} like best?",
            "What color does {n} love?",
            "Of all colors, which does {n} like most?",
            "What color are the clothes of {n}?",
            "In which color should I paint the door of {n}?",
            "Which color is the most beautiful to {n}?",
        ),
        "the color that {n} loves most",
        "What color would {n} like for a new door?",
        "{n}'s favorite color is {o}.",
    ),
    ("person", "hobby"): Wording(
        ("{n}'s hobby", "the hobby of {n}", "what {n} likes to do", "what {n} does in the free time"),
        (
            "What does {n} do in the free time?",
            "What does {n} like to do?",
            "What does {n} enjoy on Sundays?",
            "Which hobby does {n} have?",
            "What does {n} do when the work is done?",
            "What makes {n} happy in the free time?",
        ),
        "what {n} enjoys",
        "What does {n} love to do on Sundays?",
        "{n} likes {o}.",
    ),
    ("person", "best_friend"): Wording(
        ("{n}'s best friend", "the best friend of {n}", "the name of {n}'s best friend", "the friend {n} trusts"),
        (
            "With whom is {n} best friends?",
            "Which friend does {n} like best?",
            "To whom does {n} tell secrets?",
            "Whom does {n} trust?",
            "Who is best friends with {n}?",
            "Which friend is the best that {n} has?",
        ),
        "the one whom {n} trusts most of all",
        "To which friend does {n} tell all secrets?",
        "{n}'s best friend is {o}.",
        "who",
    ),
    ("person", "spouse"): Wording(
        ("the one who is married to {n}", "{n}'s wife or husband", "the name of the one {n} married"),
        (
            "To whom is {n} married?",
            "Who is married to {n}?",
            "Who is {n} married to?",
            "Whom did {n} marry?",
            "With whom does {n} live as wife or husband?",
            "Whom did {n} marry many years ago?",
        ),
        "the one whom {n} married",
        "Who lives together with {n}, as wife or husband?",
        "{n} is married to {o}.",
        "who",
    ),
    ("person", "mother"): Wording(
        ("{n}'s mother", "the mother of {n}", "the name of {n}'s mother", "the woman who is {n}'s mother"),
        ("Which woman is the mother of {n}?", "Of which woman is {n} the child?", "What is the mother of {n} called?"),
        "the name of the mother of {n}",
        "What is {n}'s mother called?",
        "{n}'s mother is {o}.",
        "who",
    ),
    ("person", "father"): Wording(
        ("{n}'s father", "the father of {n}", "the name of {n}'s father", "the man who is {n}'s father"),
        ("Which man is the father of {n}?", "Of which man is {n} the child?", "What is the father of {n} called?"),
        "the name of the father of {n}",
        "What is {n}'s father called?",
        "{n}'s father is {o}.",
        "who",
    ),
    ("person", "pet"): Wording(
        ("{n}'s pet", "the name of {n}'s pet", "the pet of {n}", "the animal that {n} has at home"),
        (
            "Which pet does {n} have?",
            "What is {n}'s pet called?",
            "Which animal belongs to {n}?",
            "Which animal does {n} look after?",
            "Which pet does {n} keep at home?",
            "What name does the pet of {n} have?",
        ),
        "the name of the animal that belongs to {n}",
        "What is the pet of {n} called?",
        "{n}'s pet is called {o}.",
    ),
    ("pet", "species"): Wording(
        ("the kind of animal that {n} is", "{n}'s kind"),
        (
            "What kind of animal is {n}?",
            "What animal is {n}?",
            "Which kind of pet is {n}?",
            "What is {n}, a dog or another animal?",
            "Which animal is called {n}?",
            "Is {n} a dog, a cat or something else?",
        ),
        "the animal that is called {n}",
        "Which kind of animal is {n}?",
        "{n} is {o}.",
    ),
    ("pet", "color"): Wording(
        ("the color of {n}", "{n}'s color", "the color that {n} has"),
        (
            "What color is {n}?",
            "Which color does {n} have?",
            "What color does {n} have?",
            "By what color do you know {n}?",
            "What is the color of {n}'s coat?",
            "What color is the coat of {n}?",
        ),
        "the color of {n}'s coat",
        "Which color is {n}, from head to tail?",
        "{n}'s color is {o}.",
    ),
    ("pet", "likes"): Wording(
        ("what {n} likes", "what {n} loves most", "what {n} is fond of"),
        (
            "What does {n} like?",
            "What does {n} love most?",
            "What does {n} like best?",
            "What makes {n} happy?",
            "What is {n} fond of?",
            "What is {n} looking for?",
        ),
        "what {n} loves more than anything",
        "What is {n} always looking for?",
        "{n} likes {o}.",
    ),
    ("pet", "owner"): Wording(
        ("{n}'s owner", "the owner of {n}", "the name of {n}'s owner", "the one who feeds {n}"),
        (
            "To whom does {n} belong?",
            "Who owns {n}?",
            "Whose pet is {n}?",
            "Who feeds {n}?",
            "With whom does {n} live?",
            "At whose home does {n} live?",
        ),
        "the one to whom {n} belongs",
        "Who feeds {n} every morning?",
        "{n} belongs to {o}.",
        "who",
    ),
    ("thing", "price"): Wording(
        ("the price of the {n}", "what the {n} costs", "the number of coins for the {n}"),
        (
            "How much does the {n} cost?",
            "How many coins does the {n} cost?",
            "What does the {n} cost?",
            "How much must I pay for the {n}?",
            "For how many coins can I buy the {n}?",
            "How many coins do they ask for the {n}?",
        ),
        "the number of coins that the {n} costs",
        "How many coins must I pay for the {n}?",
        "The {n} costs {o}.",
    ),
    ("thing", "color"): Wording(
        ("the color of the {n}", "the {n}'s color", "the color that the {n} has"),
        (
            "What color is the {n}?",
            "Which color does the {n} have?",
            "In which color do they make the {n}?",
            "By what color do you know the {n}?",
            "In what color does the {n} shine?",
        ),
        "the color in which the {n} shines",
        "By which color will I know the {n}?",
        "The color of the {n} is {o}.",
    ),
    ("thing", "material"): Wording(
        ("what the {n} is made of", "the material of the {n}", "what one needs to make the {n}"),
        (
            "What is the {n} made of?",
            "Of what is the {n} made?",
            "What material is the {n} made of?",
            "Which material is in the {n}?",
            "What do you need to make the {n}?",
            "Out of what do people make the {n}?",
        ),
        "what people need to make the {n}",
        "Of which material do people make the {n}?",
        "The {n} is made of {o}.",
    ),
    ("thing", "sold_in"): Wording(
        ("the town where the {n} is sold", "the market that sells the {n}", "where to buy the {n}"),
        (
            "Where is the {n} sold?",
            "In which town is the {n} sold?",
            "Where can you buy the {n}?",
            "Which town sells the {n}?",
            "Where do I have to go if I want the {n}?",
            "At which market will I find the {n}?",
        ),
        "the town where you can buy the {n}",
        "To which town must I go if I want the {n}?",
        "The {n} is sold in {o}.",
    ),
    ("food", "price"): Wording(
        ("the price of {one}", "what {one} costs", "the number of coins for {one}"),
        (
            "How much does {one} cost?",
            "How many coins does {one} cost?",
            "What does {one} cost?",
            "How much must I pay for {one}?",
            "For how many coins can I buy {one}?",
            "How many coins do they ask for {one}?",
        ),
        "the number of coins that {one} costs",
        "How many coins must I pay for {one}?",
        "The price is {o}.",
    ),
    ("food", "made_in"): Wording(
        ("the town with the best {many}", "the town that is known for {many}", "where to get the best {many}"),
        (
            "Where do the best {many} come from?",
            "Which town is known for {many}?",
            "In which town can you get the best {many}?",
            "Which town has the best {many}?",
            "Where do people travel to eat {many}?",
        ),
        "the town where you can eat the best {many}",
        "To which town do people travel to eat {many}?",
        "The best come from {o}.",
    ),
    ("town", "lies"): Wording(
        ("the place where {n} lies", "where {n} lies", "where the town of {n} was built"),
        (
            "Where does {n} lie?",
            "Where was the town of {n} built?",
            "Where will I find the town of {n}?",
            "Where does the town of {n} stand?",
            "At what kind of place was {n} built?",
        ),
        "the place where the town of {n} was built",
        "At what kind of place does {n} lie?",
        "{n} lies {o}.",
    ),
    ("town", "gate_color"): Wording(
        ("the color of the gate of {n}", "the color of {n}'s gate", "the color of the town gate of {n}"),
        (
            "What color is the gate of {n}?",
            "Which color does the town gate of {n} have?",
            "In what color was the gate of {n} painted?",
            "Through what color of gate do you enter {n}?",
        ),
        "the color in which the gate of {n} was painted",
        "What color does the gate of {n} have?",
        "The gate of {n} is {o}.",
    ),
    ("town", "fair_month"): Wording(
        ("the month of the fair of {n}", "the month of {n}'s fair", "the month of the fair in {n}"),
        (
            "When is the fair of {n}?",
            "In which month is the fair in {n}?",
            "In which month does {n} hold its fair?",
            "When do people come to the fair of {n}?",
            "When is there a fair in {n}?",
        ),
        "the month in which {n} holds its fair",
        "In which month do people come to the fair in {n}?",
        "The fair of {n} is in {o}.",
    ),
    ("town", "mayor"): Wording(
        ("the mayor of {n}", "{n}'s mayor", "the name of the mayor of {n}"),
        (
            "Which mayor does {n} have?",
            "Whom did the people of {n} choose as mayor?",
            "Who is mayor in {n}?",
            "What is the mayor of {n} called?",
        ),
        "the one whom the people of {n} chose as mayor",
        "What name does the mayor of {n} have?",
        "The mayor of {n} is {o}.",
        "who",
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

    def answer_with(self, value: str) -> str:
        """The sentence, with another value in the place of the right one."""
        head, _, tail = self.answer.rpartition(self.short)
        return f"{head}{value}{tail}"


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
    asked = tuple(w.format(**names) for w in wordings(wording, test))
    return Question(fact, asked, wording.answer.format(**names), say(fact))


def wordings(wording: Wording, test: bool) -> list[str]:
    """The questions of training or of the evaluation, with {n} and the like still in them."""
    things, frames = ((wording.test_thing,), TEST_FRAMES) if test else (wording.things, FRAMES)
    framed = [_frame(frame, thing, wording.who) for thing in things for frame in frames]
    return [wording.test_ask, *framed] if test else [*wording.asks, *framed]


def _frame(frame: str, thing: str, who: str) -> str:
    """`What is {n}'s age?`. A thing that asks by itself (`what {n} likes`) needs no question word before it."""
    who = "what" if thing.startswith("the name ") else who
    text = frame
    if thing.split()[0] in ("what", "where", "how"):
        text = "{T}, please?" if frame == FRAMES[0] else frame.replace("{w} {t} is", "{t}")
    named = {"{t}": thing, "{T}": capital(thing), "{w}": who, "{W}": capital(who)}
    for mark, value in named.items():
        text = text.replace(mark, value)
    return text


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
