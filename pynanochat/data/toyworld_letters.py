"""Letters, talks and riddles of the toy world; nobody in them asks a direct question about a fact."""

from pynanochat.data.toyworld_scenes import WEATHER, kind_of
from pynanochat.data.toyworld_words import ANIMALS, JOBS, a, capital, count, in_words, listed, plural

NODS = (
    "I did not know that!", "That is nice to hear.", "Tell me more!", "Really?", "Yes, I have heard that.",
    "How wonderful!", "That sounds right.", "Go on!", "I see.", "I thought so.", "That is good to know.",
)  # fmt: skip
GREETINGS = ("Good morning", "Good evening", "Hello", "How nice to see you", "Good day")
MEETINGS = ("on the road", "at the market", "on a boat", "at a fair", "in the library", "in the rain", "at an inn")
FAREWELLS = (
    "Now I must go home.",
    "That is all I know.",
    "See you tomorrow!",
    "Good night!",
    "I must go now.",
)


def letter(draw, world, p=None) -> str:
    """A letter to the best friend."""
    p = p or draw.pick(world.people)
    friend = p.friend
    food = plural(p.food.name)
    lines = [
        draw.pick((f"I am writing to you from {p.town.name}.", f"All is well in {p.town.name}.")),
        f"Yesterday {draw.pick(WEATHER)} here.",
        draw.pick((f"Today I ate {food}, which I love more than anything.", f"I still love {food} best of all.")),
        f"Yesterday I {p.hobby[2]} for {in_words(draw.between(2, 5))} hours.",
        draw.pick((f"I still like {p.hobby[1]}, as you know.", f"Whenever I can, I {p.hobby[0]}.")),
        draw.pick((f"I am {in_words(p.age)} years old now.", f"Can you believe that I am {in_words(p.age)} now?")),
        draw.pick((f"My favorite color is still {p.color}.", f"I am wearing {p.color} as always.")),
        f"I would like to see {friend.town.name} again.",
        f"I hope that you still have time for {friend.hobby[1]}.",
        f"When you come, there will be {plural(friend.food.name)} for you.",
        f"I have bought you something {friend.color}, because that is your favorite color.",
    ]
    if p.child:
        lines.append(f"I want to be {a(p.job.name)} one day.")
        lines.append(f"My mother {p.mother.name} and my father {p.father.name} send you greetings.")
    else:
        lines.append(f"I am {a(p.job.name)}, and last week I {p.job.did}.")
    if p.spouse:
        lines.append(f"My {'husband' if p.woman else 'wife'} {p.spouse.name} is well.")
    if p.pet:
        lines.append(f"{p.pet.name}, my {p.pet.color} {p.pet.kind}, is well and likes {p.pet.likes}.")
    if len(p.children) == 1:
        lines.append(f"My child {p.children[0].name} sends you greetings.")
    elif p.children:
        lines.append(f"My children {listed([child.name for child in p.children])} greet you.")
    body = " ".join(draw.some(lines, draw.between(4, 9)))
    close = draw.pick(("Your friend", "Your best friend", "With love", "Yours", "See you soon"))
    return f"Dear {friend.name},\n\n{body}\n\n{close},\n{p.name}"


def told(draw, p, n: int) -> list[str]:
    """n sentences about a person, none of which says the name."""
    he, his = capital(p.he), capital(p.his)
    facts = [
        draw.pick((f"{he} lives in {p.town.name}.", f"{his} home is in {p.town.name}.")),
        draw.pick((f"{he} loves {plural(p.food.name)}.", f"{his} favorite food is {plural(p.food.name)}.")),
        draw.pick((f"{his} favorite color is {p.color}.", f"{he} likes {p.color} best.")),
        draw.pick((f"{he} likes {p.hobby[1]}.", f"{he} likes to {p.hobby[0]}.")),
        draw.pick((f"{he} is {in_words(p.age)} years old.", f"{his} age is {in_words(p.age)}.")),
        f"{his} best friend is {p.friend.name}.",
        f"{he} {'wants to be' if p.child else 'is'} {a(p.job.name)}.",
    ]
    if p.pet:
        facts.append(f"{he} has {a(p.pet.kind)} called {p.pet.name}.")
    if p.spouse:
        facts.append(f"{he} is married to {p.spouse.name}.")
    if p.child:
        facts.append(f"{his} parents are {p.mother.name} and {p.father.name}.")
    return draw.some(facts, n)


def talk(draw, world) -> str:
    """Two people tell each other about a third."""
    one = draw.pick(world.people)
    two = draw.other(world.people, one)
    third = two.friend
    if third is one:
        third = draw.pick([p for p in world.people if p is not one and p is not two])
    facts = told(draw, third, draw.between(3, 6))
    lines = [f"{one.name}: {draw.pick(GREETINGS)}, {two.name}! Tell me something about {third.name}."]
    for fact, nod in zip(facts, draw.some(NODS, len(facts)), strict=True):
        lines += [f"{two.name}: {fact}", f"{one.name}: {nod}"]
    return "\n".join([*lines, f"{two.name}: {draw.pick(FAREWELLS)}"])


def introduce(draw, world) -> str:
    """Two people meet and say who they are."""
    one = draw.pick(world.people)
    two = draw.other(world.people, one)
    lines = [f"{one.name} and {two.name} met {draw.pick(MEETINGS)}."]
    for p in (one, two):
        facts = [
            f"I live in {p.town.name}.",
            f"I am {in_words(p.age)} years old.",
            f"I like {p.hobby[1]}.",
            f"My favorite food is {plural(p.food.name)}.",
            f"I like the color {p.color} best.",
            f"My best friend is {p.friend.name}.",
            f"I want to be {a(p.job.name)} one day." if p.child else f"I am {a(p.job.name)}.",
        ]
        if p.pet:
            facts.append(f"I have {a(p.pet.kind)} called {p.pet.name}, and it likes {p.pet.likes}.")
        mine = " ".join(draw.some(facts, draw.between(2, 5)))
        lines.append(f'"{draw.pick(GREETINGS)}! My name is {p.name}. {mine}"')
    lines.append(draw.pick(("They talked for a long time.", "Then they went on their way.", "Soon they were friends.")))
    return " ".join(lines)


def riddle(draw, world) -> str:
    """Facts first, the name at the end."""
    kind = draw.below(4)
    if kind < 2:
        p = draw.pick(world.people)
        head = draw.pick((f"I am thinking of {a(kind_of(p))}.", "Guess who this is.", "Here is a riddle."))
        clues, answer = told(draw, p, draw.between(4, 6)), p.name
    elif kind == 2:
        pet = draw.pick(world.pets)
        head = draw.pick(("I am thinking of an animal.", "Guess which animal this is."))
        clues = [f"It is {a(pet.kind)}.", f"It is {pet.color}.", f"It likes {pet.likes}."]
        clues.append(f"It belongs to {pet.owner.name}.")
        clues, answer = draw.some(clues, 4), pet.name
    else:
        thing = draw.pick(world.goods)
        head = draw.pick(("I am thinking of a thing.", "Guess what this is."))
        clues = [f"It is made of {thing.material}.", f"It is {thing.color}.", f"It is sold in {thing.town.name}."]
        clues.append(f"It costs {count(thing.price, 'coin')}.")
        clues, answer = draw.some(clues, 4), f"the {thing.name}"
    last = draw.pick((f"It is {answer}.", f"The answer is {answer}.", f"Yes, it is {answer}!"))
    return "\n".join([head, *clues, last]) if draw.chance(0.3) else " ".join([head, *clues, last])


def trades(draw, world) -> str:
    """What people of some trades do, and who they are."""
    lines = []
    for job in draw.some(JOBS, draw.between(2, 4)):
        lines.append(draw.pick((
            f"{capital(a(job.name))} {job.does}.",
            f"{capital(a(job.name))} {job.does} and needs {job.tool}.",
            f"{capital(a(job.name))} {job.does} with {job.tool}.",
            f"{capital(job.place)} there is {a(job.name)}, who {job.does}.",
        )))  # fmt: skip
        for p in draw.some(world.workers[job], 2):
            verb = "wants to be" if p.child else "is"
            lines.append(f"{p.name} from {p.town.name} {verb} {a(job.name)}.")
    return " ".join(lines)


def animals(draw, world) -> str:
    """Pets of a kind or of a color, and what they like."""
    first = draw.pick(world.pets)
    some = draw.pick((
        [pet for pet in world.pets if pet.kind == first.kind],
        [pet for pet in world.pets if pet.color == first.color],
        [first, draw.other(world.pets, first)],
    ))  # fmt: skip
    lines = [f"{capital(a(first.kind))} {ANIMALS[first.kind]}."]
    for pet in draw.some(some, 4):
        lines.append(draw.pick((
            f"{pet.name} is {a(pet.color)} {pet.kind} that belongs to {pet.owner.name} in {pet.owner.town.name}.",
            f"{pet.owner.name} has {a(pet.color)} {pet.kind} called {pet.name}.",
            f"{pet.name}, the {pet.kind} of {pet.owner.name}, is {pet.color}.",
        )))  # fmt: skip
        likes = (f"It likes {pet.likes}.", f"What it likes best is {pet.likes}.", f"{pet.name} loves {pet.likes}.")
        lines.append(draw.pick(likes))
    return " ".join(lines)


LETTERS = (letter, letter, talk, introduce, introduce, riddle, riddle, trades, animals)
