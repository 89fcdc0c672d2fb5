"""Games of repeating: what one says, another says again, word for word.

Much of what a model does later is copying: a name from a question into its answer, numbers into a calculation. Stories
seldom ask for it, since most of what they say next is known by heart. Here nothing is: words that nobody has heard
before, rows of numbers and of things.
"""

from pynanochat.data.toyworld_words import ANIMALS, FOODS, HOBBIES, JOBS, PET_LIKES, REPAIRS, SOUNDS, WATERS, listed

_TOLD = [*(text for job in JOBS for text in job), *(text for hobby in HOBBIES for text in hobby), *REPAIRS.values()]
_TOLD += [*PET_LIKES, *WATERS, *ANIMALS, *ANIMALS.values(), *FOODS, *(text for food in FOODS.values() for text in food)]
WORDS = sorted({word for text in _TOLD for word in text.split() if len(word) > 2})
"""Words of what people do and like."""


def new_word(draw) -> str:
    """A word that means nothing."""
    return "".join(draw.pick(SOUNDS) for _ in range(draw.between(2, 4))) + draw.pick(("", "", "n", "s", "x", "th"))


def known_word(draw, world) -> str:
    """Something of the world."""
    if draw.chance(0.5):
        return draw.pick(WORDS)
    kind = draw.pick((world.people, world.pets, world.towns, world.goods, world.foods))
    return draw.pick((draw.pick(kind).name, draw.pick(world.people).color, draw.pick(world.people).job.name))


def row(draw, world) -> str:
    """Some words or numbers, or both."""
    make = draw.pick((
        lambda: new_word(draw),
        lambda: str(draw.between(2, 300)),
        lambda: known_word(draw, world),
        lambda: draw.pick((new_word(draw), str(draw.between(2, 99)), known_word(draw, world))),
    ))  # fmt: skip
    return draw.pick((", ", ", ", " ", " + ")).join(dict.fromkeys(make() for _ in range(draw.between(1, 6))))


def echo(draw, world) -> str:
    """Two play: one says a row, the other repeats it."""
    one, two = draw.some(world.people, 2)
    lines = [
        draw.pick((
            f"{one.name} and {two.name} play a game: {two.name} says again what {one.name} says.",
            f"{two.name} repeats every word of {one.name}.",
            "A game of echoes",
        ))
    ]  # fmt: skip
    form = draw.pick(('{}: "{}"', "{} says: {}", "{} writes '{}'.", "{} - {}"))
    for _ in range(draw.between(4, 7)):
        said = row(draw, world)
        lines += [form.format(one.name, said), form.format(two.name, said)]
    return "\n".join(lines)


def memory(draw, world) -> str:
    """Who brought what, and then all of it again in another order."""
    people = draw.some(world.people, draw.between(3, 5))
    brought = [(p, draw.pick((new_word(draw), str(draw.between(2, 300)), known_word(draw, world)))) for p in people]
    tell = draw.pick(("{} says {}.", "{} chose {}.", "The secret word of {} is {}.", "{} wrote {} on a card."))
    lines = [f"{listed([p.name for p in people])} each choose something to remember."]
    lines += [tell.format(p.name, what) for p, what in brought]
    lines += ["Now let us see who remembers."]
    lines += [tell.format(p.name, what) for p, what in draw.some(brought, len(brought))]
    return "\n".join(lines)


GAMES = (echo, echo, memory)
