"""The embedded toy world: people, towns, pets, goods and foods made from a seed, and text that tells of them.

    world = ToyWorld(seed=0, entities=128)
    world.facts()                        # Fact(subject, relation, object) for everything the text tells
    world.document("train", 17)          # document 17 of the training split: the same on every machine and Python

Pages, stories, letters, lists and sums are written by toyworld_text.py and the files beside it; what they say agrees
with the facts. toyworld_source.py hands the text to the loader. The text asks nobody about a fact in a direct question
("What is ...?"), so that questions can be held out for evaluation.
A training document is one whose CRC-32 is not divisible by eight and a validation document one whose CRC-32 is: no
document of one split can occur in the other.
"""

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from zlib import crc32

from pynanochat.data import toyworld_words as words
from pynanochat.errors import UsageError

DEFAULT_ENTITIES = 128
FEWEST_ENTITIES, MOST_ENTITIES = 60, 20_000
VERSION = 2  # of the text; part of the data hash: raise it whenever the text of a seed changes
EXCLUSIVE = 8  # one text in so many may only stand in validation


@dataclass(frozen=True)
class Fact:
    """One thing that is true in the world, such as ("Mira", "lives_in", "Ashford"). `kind` is the subject's kind."""

    subject: str
    relation: str
    object: str
    kind: str = "person"


@dataclass(eq=False)
class Town:
    name: str
    x: int
    y: int
    water: str
    gate: str
    month: str
    mayor: "Person" = None
    people: list = field(default_factory=list)
    roads: list = field(default_factory=list)  # the nearest towns
    goods: list = field(default_factory=list)
    foods: list = field(default_factory=list)

    def miles(self, other: "Town") -> int:
        """The length of the road to another town."""
        return max(1, round(math.hypot(self.x - other.x, self.y - other.y)))

    def direction(self, other: "Town") -> str:
        """Where the other town lies, seen from this one."""
        dx, dy = other.x - self.x, other.y - self.y
        if abs(dx) > abs(dy):
            return "east" if dx > 0 else "west"
        return "north" if dy > 0 else "south"


@dataclass(eq=False)
class Person:
    name: str
    woman: bool
    age: int
    town: Town
    food: "Food"
    color: str
    hobby: tuple[str, str, str]
    job: words.Job  # for a child: what the child wants to be
    spouse: "Person" = None
    mother: "Person" = None
    father: "Person" = None
    friend: "Person" = None
    pet: "Pet" = None
    children: list = field(default_factory=list)

    @property
    def child(self) -> bool:
        return self.mother is not None

    @property
    def he(self) -> str:
        return "she" if self.woman else "he"

    @property
    def him(self) -> str:
        return "her" if self.woman else "him"

    @property
    def his(self) -> str:
        return "her" if self.woman else "his"


@dataclass(eq=False)
class Pet:
    name: str
    kind: str
    color: str
    likes: str
    owner: Person


@dataclass(eq=False)
class Thing:
    name: str
    price: int
    color: str
    material: str
    town: Town


@dataclass(eq=False)
class Food:
    name: str
    price: int
    town: Town


class Draw:
    """Random choices from a seed, equal on every Python: only `Random(int).random()` is used, which never changes."""

    def __init__(self, seed: int):
        self.random = Random(seed).random

    def below(self, n: int) -> int:
        return int(self.random() * n)

    def between(self, low: int, high: int) -> int:
        return low + int(self.random() * (high - low + 1))

    def chance(self, share: float) -> bool:
        return self.random() < share

    def pick(self, items):
        return items[int(self.random() * len(items))]

    def some(self, items, n: int) -> list:
        """n different items in random order (all of them if there are fewer)."""
        left = list(items)
        return [left.pop(self.below(len(left))) for _ in range(min(n, len(left)))]

    def other(self, items, than):
        """An item that is not `than`."""
        while (item := self.pick(items)) is than:
            pass
        return item


class ToyWorld:
    """The world of a seed. entities: how many people, towns, pets, goods and foods it has in all (60 to 20,000)."""

    def __init__(self, seed: int = 0, entities: int = DEFAULT_ENTITIES):
        if not FEWEST_ENTITIES <= entities <= MOST_ENTITIES:
            raise UsageError(
                f"--toyworld-entities {entities}: the toy world has {FEWEST_ENTITIES} to {MOST_ENTITIES:,} entities"
            )
        self.seed, self.entities = seed, entities
        draw = Draw(seed * 2 + 1 if seed >= 0 else -2 * seed)
        foods, towns = min(len(words.FOODS), entities // 8), max(6, entities // 16)
        left = entities - foods - towns
        pets, goods = left * 22 // 100, min(left * 26 // 100, len(words.THING_HEADS) * len(words.THING_TAILS))
        self.towns = self._make_towns(draw, towns)
        self.foods = [Food(name, draw.between(1, 9), draw.pick(self.towns)) for name in draw.some(words.FOODS, foods)]
        self.people = self._make_people(draw, left - pets - goods)
        self.children = [p for p in self.people if p.child]
        self.mothers = [p for p in self.people if p.woman and p.spouse]
        self.menders = [p for p in self.people if not p.child and p.job.name in words.REPAIRS]
        self.workers = grouped(self.people, lambda p: p.job)
        self.eaters = grouped(self.people, lambda p: p.food)
        self.wearers = grouped(self.people, lambda p: p.color)
        self.pets = self._make_pets(draw, pets)
        self.goods = self._make_goods(draw, goods)
        self.colored = grouped(self.goods, lambda thing: thing.color)
        self._befriend(draw)
        for made in (*self.foods, *self.goods):
            (made.town.foods if isinstance(made, Food) else made.town.goods).append(made)

    def _make_towns(self, draw: Draw, n: int) -> list[Town]:
        names = draw.some([head + tail for head in words.TOWN_HEADS for tail in words.TOWN_TAILS], n)
        while len(names) < n:  # more than the words give: newer towns
            names.append("New " + names[len(names) - len(words.TOWN_HEADS) * len(words.TOWN_TAILS)])
        width = 4 * math.isqrt(n) + 8
        spots = draw.some(range(width * width), n)
        towns = [
            Town(
                name,
                spot % width,
                spot // width,
                draw.pick(words.WATERS),
                draw.pick(words.COLORS),
                draw.pick(words.MONTHS),
            )
            for name, spot in zip(names, spots, strict=True)
        ]
        for town in towns:
            near = sorted(
                (other for other in towns if other is not town), key=lambda other: (town.miles(other), other.name)
            )
            town.roads = near[:3]
        return towns

    def _make_people(self, draw: Draw, n: int) -> list[Person]:
        """Families of two parents and up to three children; the last ones live alone."""
        women, men = names_for(draw, words.WOMEN, n), names_for(draw, words.MEN, n)
        people: list[Person] = []
        turn = draw.below(len(self.towns))

        def person(woman: bool, age: int, town: Town) -> Person:
            someone = Person(
                (women if woman else men).pop(),
                woman,
                age,
                town,
                draw.pick(self.foods),
                draw.pick(words.COLORS),
                draw.pick(words.HOBBIES),
                draw.pick(words.JOBS),
            )
            people.append(someone)
            town.people.append(someone)
            return someone

        while len(people) < n:
            turn += 1
            town = self.towns[turn % len(self.towns)]
            if n - len(people) < 2 or draw.chance(0.15):
                person(draw.chance(0.5), draw.between(19, 79), town)
                continue
            wife, husband = person(True, draw.between(26, 52), town), person(False, draw.between(26, 52), town)
            wife.spouse, husband.spouse = husband, wife
            for _ in range(min(draw.below(4), n - len(people))):
                child = person(draw.chance(0.5), draw.between(6, min(15, min(wife.age, husband.age) - 18)), town)
                child.mother, child.father = wife, husband
                wife.children.append(child)
                husband.children.append(child)
        for town in self.towns:
            grown = [someone for someone in town.people if not someone.child] or [p for p in people if not p.child]
            town.mayor = draw.pick(grown)
        return people

    def _make_pets(self, draw: Draw, n: int) -> list[Pet]:
        pets = []
        for name, owner in zip(names_for(draw, words.PET_NAMES, n), draw.some(self.people, n), strict=False):
            owner.pet = Pet(
                name, draw.pick(list(words.ANIMALS)), draw.pick(words.COLORS), draw.pick(words.PET_LIKES), owner
            )
            pets.append(owner.pet)
        return pets

    def _make_goods(self, draw: Draw, n: int) -> list[Thing]:
        names = draw.some([(head, tail) for head in words.THING_HEADS for tail in words.THING_TAILS], n)
        return [
            Thing(
                f"{head} {tail}",
                draw.between(2, 30),
                draw.pick(words.COLORS),
                draw.pick(words.THING_TAILS[tail].split()),
                draw.pick(self.towns),
            )
            for head, tail in names
        ]

    def _befriend(self, draw: Draw) -> None:
        """Everyone has a best friend of the same generation outside the family."""
        for group in (self.children, [p for p in self.people if not p.child]):
            for someone in group:
                for _ in range(100):
                    friend = draw.pick(group)
                    related = friend is someone.spouse or (someone.child and friend.mother is someone.mother)
                    if friend is not someone and not related:
                        break
                else:  # a world with a single family of children
                    friend = draw.other([p for p in self.people if p is not someone.spouse], someone)
                someone.friend = friend

    def facts(self) -> list[Fact]:
        """Every fact, in a fixed order: people, pets, goods, foods, towns."""
        facts = []
        for p in self.people:
            pairs = [
                ("lives_in", p.town.name),
                ("wants_to_be" if p.child else "job", p.job.name),
                ("age", str(p.age)),
                ("favorite_food", p.food.name),
                ("favorite_color", p.color),
                ("hobby", p.hobby[0]),
                ("best_friend", p.friend.name),
            ]
            pairs += [("spouse", p.spouse.name)] if p.spouse else []
            pairs += [("mother", p.mother.name), ("father", p.father.name)] if p.child else []
            pairs += [("pet", p.pet.name)] if p.pet else []
            facts += [Fact(p.name, relation, value, "person") for relation, value in pairs]
        for pet in self.pets:
            pairs = [("species", pet.kind), ("color", pet.color), ("likes", pet.likes), ("owner", pet.owner.name)]
            facts += [Fact(pet.name, relation, value, "pet") for relation, value in pairs]
        for thing in self.goods:
            pairs = [("price", str(thing.price)), ("color", thing.color), ("material", thing.material)]
            pairs += [("sold_in", thing.town.name)]
            facts += [Fact(thing.name, relation, value, "thing") for relation, value in pairs]
        for food in self.foods:
            pairs = [("price", str(food.price)), ("made_in", food.town.name)]
            facts += [Fact(food.name, relation, value, "food") for relation, value in pairs]
        for town in self.towns:
            pairs = [("lies", town.water), ("gate_color", town.gate), ("fair_month", town.month)]
            pairs += [("mayor", town.mayor.name), ("nearest_town", town.roads[0].name)]
            pairs += [("miles_to_nearest_town", str(town.miles(town.roads[0])))]
            facts += [Fact(town.name, relation, value, "town") for relation, value in pairs]
        return facts

    def document(self, split: str, index: int) -> str:
        """Document `index` (0 and up) of a split."""
        from pynanochat.data.toyworld_text import write

        attempt = 0
        while True:
            seed = (((self.seed & (1 << 64) - 1) << 80) | (index << 16) | attempt) * 2 + (split == "val")
            text = write(self, Draw(seed))
            if (crc32(text.encode()) % EXCLUSIVE == 0) == (split == "val"):
                return text
            attempt += 1

    def documents(
        self, split: str, start: int = 0, stop: int | None = None, step: int = 1
    ) -> Iterator[tuple[int, str]]:
        """(index, text) of documents start, start + step, ... before stop; without end for stop None."""
        index = start
        while stop is None or index < stop:
            yield index, self.document(split, index)
            index += step


def grouped(items: list, key) -> defaultdict:
    """The items by key, in their order."""
    groups = defaultdict(list)
    for item in items:
        groups[key(item)].append(item)
    return groups


def names_for(draw: Draw, known: list[str], n: int) -> list[str]:
    """n different names: known ones first, then ones made of sounds."""
    names = draw.some(known, n)
    taken = {*words.WOMEN, *words.MEN, *words.PET_NAMES}
    ending = {"Ada": "na", "Abel": "ron", "Amber": "ky"}[
        known[0]
    ]  # so that women, men and pets never share a made-up name
    while len(names) < n:
        made = words.capital("".join(draw.pick(words.SOUNDS) for _ in range(draw.between(2, 3))) + ending)
        if made not in taken:
            taken.add(made)
            names.append(made)
    return names
