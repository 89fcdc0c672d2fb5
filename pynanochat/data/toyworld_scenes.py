"""The parts that stories of the toy world are made of: beginnings, ways, speech, endings."""

from pynanochat.data.toyworld_words import SEASONS, a, capital, count, in_words, plural

WEATHER = (
    "the sun was shining", "it was raining", "a strong wind was blowing", "there was fog over the fields",
    "the sky was blue and clear", "the air was cold and fresh", "dark clouds hung over the hills", "it was very warm",
    "the birds were singing", "the streets were still empty", "a rainbow stood over the houses", "the leaves were wet",
)  # fmt: skip
TIMES = (
    "One morning", "One evening", "One day", "Early one morning", "One afternoon", "Late one evening", "On a quiet day",
    "On Monday", "On Tuesday", "On Wednesday", "On Thursday", "On Friday", "On Saturday", "On Sunday", "Long ago",
)  # fmt: skip
PLACES = (
    "under the old bridge", "behind the mill", "in the tall grass", "at the top of the hill", "next to the well",
    "in the middle of the forest", "on the roof of the barn", "near the town gate", "in an empty boat",
    "between two big stones", "under a cart", "behind the bakery", "in the apple garden", "at the edge of the pond",
    "in a basket full of wool", "on the stairs of the school", "in the hay", "under the kitchen table",
)  # fmt: skip
FEELINGS = (
    "happy", "proud", "glad", "tired but happy", "full of joy", "very pleased", "calm and happy", "as happy as a bird",
)  # fmt: skip
WORRIES = ("sad", "worried", "afraid", "upset", "unhappy", "close to tears", "very quiet", "angry")
ENDINGS = (
    "That night {n} slept well.", "It had been a good day.", "{n} never forgot that day.", "And so the day ended well.",
    "From then on {n} told the story again and again.", "{n} smiled all the way home.", "In the end all were happy.",
    "When the stars came out, {n} was already asleep.", "What a day it had been!", "And that is the end of the story.",
    "{n} thought about it for a long time.", "Since then {n} has been a little wiser.", "Everything was well again.",
    "Then {n} put out the light and went to bed.", "The next morning the sun was shining again.",
    "People in {t} still talk about it.", "In {t} nobody was happier than {n}.",
)  # fmt: skip
THANKS = ("Thank you", "Thank you so much", "Many thanks", "How kind of you", "That is very kind")
WAYS = ("on foot", "by cart", "on a horse", "with a friend", "all alone", "with a song")


def kind_of(p) -> str:
    """`woman`, `boy`: what a person is."""
    return ("girl" if p.woman else "boy") if p.child else ("woman" if p.woman else "man")


def trait(draw, p) -> str:
    """Something true about a person, in the past tense, without its subject: `liked to swim`."""
    traits = [
        f"liked to {p.hobby[0]}",
        f"loved {plural(p.food.name)}",
        f"liked the color {p.color} best",
        f"was {in_words(p.age)} years old",
        f"had a best friend called {p.friend.name}",
        f"wanted to be {a(p.job.name)} one day" if p.child else f"worked as {a(p.job.name)}",
    ]
    if p.pet:
        traits.append(f"had {a(p.pet.kind)} called {p.pet.name}")
    if p.spouse:
        traits.append(f"was married to {p.spouse.name}")
    if p.child:
        traits.append(f"was the {'daughter' if p.woman else 'son'} of {p.mother.name} and {p.father.name}")
    return draw.pick(traits)


def begin(draw, p) -> str:
    """The beginning of a story: time, weather, and who it is about, in one to three sentences."""
    time, weather, town = draw.pick(TIMES), draw.pick(WEATHER), p.town.name
    one, two = trait(draw, p), trait(draw, p)
    while two == one:
        two = trait(draw, p)
    kind = a(kind_of(p))
    return draw.pick((
        f"{time} {weather} in {town}. {p.name}, {kind} who {one}, looked out of the window.",
        f"In {town} there lived {kind} named {p.name}, who {one}. {time} {weather}, and {p.name} went out.",
        f"It was {draw.pick(SEASONS)} in {town}, and {weather}. {p.name} {one}.",
        f"One morning in {draw.pick(SEASONS)} {p.name} woke up, and {weather}. {capital(p.he)} {one} and {two}.",
        f"This is a story about {p.name} from {town}, who {one} and {two}.",
        f"{p.name} lived in {town} and {one}. {time} {weather}.",
        f"Once there was {kind} in {town} who {one}. The name of this {kind_of(p)} was {p.name}.",
        f"Everyone in {town} knew {p.name}, because {p.he} {one}. {time} {weather}.",
    ))  # fmt: skip


def way(draw, p, town) -> str:
    """How a person gets from home to a town."""
    if town is p.town:
        return draw.pick((
            f"{capital(p.he)} walked to the market square of {town.name}.",
            f"It was not far, because {p.he} lived in {town.name} too.",
            f"{capital(p.he)} only had to cross two streets of {town.name}.",
        ))  # fmt: skip
    miles, to = count(p.town.miles(town), "mile"), p.town.direction(town)
    return draw.pick((
        f"{town.name} was {miles} away, so {p.he} set out early.",
        f"{capital(p.he)} walked {miles} to the {to} until {p.he} came to {town.name}.",
        f"The way to {town.name} was {miles} long and led to the {to}.",
        f"{capital(p.he)} took the road to the {to} and after {miles} reached the {town.gate} gate of {town.name}.",
        f"{capital(p.he)} traveled {draw.pick(WAYS)} from {p.town.name} to {town.name}, which is {miles}.",
        f"After {miles} {p.he} saw {town.name}, which lies {town.water}.",
        f"At noon {p.he} went through the {town.gate} gate of {town.name}.",
    ))  # fmt: skip


def said(draw, name: str, words: str) -> str:
    """Direct speech; `words` ends with a full stop, a question mark or an exclamation mark."""
    verb = "asked" if words.endswith("?") else "called" if words.endswith("!") and draw.chance(0.5) else "said"
    inner = words[:-1] + "," if words.endswith(".") else words
    return draw.pick((f'"{inner}" {verb} {name}.', f'{capital(name)} {verb}, "{words}"'))


def end(draw, p) -> str:
    """The last sentence of a story about a person."""
    return draw.pick(ENDINGS).format(n=p.name, t=p.town.name)


def it(food: str) -> str:
    """The pronoun for what one likes to eat: `apples` are them, `rice` is it."""
    return "it" if plural(food) == food else "them"
