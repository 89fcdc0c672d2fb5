"""Short stories, letters and talks of the toy world. What they say about people and things is true in it."""

from pynanochat.data.toyworld_words import SEASONS, a, capital, count, in_words, listed, plural

WEATHER = (
    ("the sun was shining", "sunny"), ("it was raining", "rainy"), ("a strong wind was blowing", "windy"),
    ("there was fog over the fields", "foggy"), ("snow was falling", "snowy"), ("the sky was blue and clear", "clear"),
    ("the air was cold and fresh", "cold"), ("dark clouds hung over the hills", "cloudy"), ("it was very warm", "warm"),
)  # fmt: skip
TIMES = (
    "One morning",
    "One evening",
    "One day",
    "Early one morning",
    "One afternoon",
    "Late one evening",
    "On a quiet day",
)
PLACES = (
    "under the old bridge", "behind the mill", "in the tall grass", "at the top of the hill", "next to the well",
    "in the middle of the forest", "on the roof of the barn", "near the town gate", "in an empty boat",
    "between two big stones", "under a cart", "behind the church", "in the apple garden", "at the edge of the pond",
)  # fmt: skip
FEELINGS = ("happy", "proud", "glad", "tired but happy", "full of joy", "very pleased", "calm and happy")
WORRIES = ("sad", "worried", "afraid", "upset", "unhappy", "close to tears")
ENDINGS = (
    "That night {n} slept well.", "It had been a good day.", "{n} never forgot that day.", "And so the day ended well.",
    "From then on {n} told the story again and again.", "{n} smiled all the way home.",  "In the end all were happy.",
    "When the stars came out, {n} was already asleep.", "What a day it had been!", "And that is the end of the story.",
)  # fmt: skip
NODS = (
    "I did not know that!", "That is nice to hear.", "Tell me more!", "Really?", "Yes, I have heard that.",
    "How wonderful!", "That sounds right.", "Go on!",
)  # fmt: skip
THANKS = ("Thank you", "Thank you so much", "Many thanks", "How kind of you")


def opening(draw, p) -> str:
    """When it was, and what the weather was like."""
    weather = draw.pick(WEATHER)[0]
    season = draw.pick(SEASONS)
    return draw.pick((
        f"{draw.pick(TIMES)} {weather} in {p.town.name}.",
        f"It was {season}, and {weather} in {p.town.name}.",
        f"{draw.pick(TIMES)} in {season} {p.name} woke up and looked out of the window: {weather}.",
        f"There was once a {season} day in {p.town.name} when {weather}.",
    ))  # fmt: skip


def who_is(draw, p) -> str:
    """A person brought into a story: a few true things in one or two sentences, in the past tense."""
    kind = ("girl" if p.woman else "boy") if p.child else ("woman" if p.woman else "man")
    job = f"{p.name} was {a(p.job.name)}" if not p.child else f"{p.name} wanted to be {a(p.job.name)} one day"
    more = [
        f"{p.he} liked {p.hobby[1]}",
        f"{p.he} loved {plural(p.food.name)}",
        f"{p.his} favorite color was {p.color}",
    ]
    if p.pet:
        more.append(f"{p.he} had {a(p.pet.kind)} called {p.pet.name}")
    return draw.pick((
        f"{job}, and {draw.pick(more)}.",
        f"{p.name} was {a(kind)} of {in_words(p.age)} years, and {draw.pick(more)}.",
        f"{capital(a(kind))} named {p.name} lived there. {capital(draw.pick(more))}.",
        f"{job}. {capital(draw.pick(more))}.",
        f"{p.name}, who was {in_words(p.age)} years old, lived there. {capital(draw.pick(more))}.",
    ))  # fmt: skip


def walk(draw, p, town) -> str:
    """A person goes from home to another town over the road, or stays."""
    if town is p.town:
        return draw.pick(
            (f"{capital(p.he)} walked to the market of {town.name}.", f"So {p.he} went to the market square.")
        )
    miles, way = count(p.town.miles(town), "mile"), p.town.direction(town)
    return draw.pick((
        f"{town.name} was {miles} away, so {p.he} set out early.",
        f"{capital(p.he)} walked {miles} to the {way} until {p.he} came to {town.name}.",
        f"The way to {town.name} was {miles} long and led to the {way}.",
        f"{capital(p.he)} took the road to the {way} and after {miles} reached the {town.gate} gate of {town.name}.",
    ))  # fmt: skip


def said(draw, name: str, words: str) -> str:
    """Direct speech; `words` ends with a full stop, a question mark or an exclamation mark."""
    verb = "asked" if words.endswith("?") else draw.pick(("said", "said", "answered", "called"))
    inner = words[:-1] + "," if words.endswith(".") else words
    return draw.pick((f'"{inner}" {verb} {name}.', f'{capital(name)} {verb}, "{words}"'))


def end(draw, p) -> str:
    return draw.pick(ENDINGS).format(n=p.name)


def market(draw, world) -> str:
    """Somebody buys a thing for a friend, at its price, in its town."""
    p, thing = draw.pick(world.people), draw.pick(world.goods)
    friend, town = p.friend, thing.town
    purse = thing.price + draw.between(0, 15)
    left = purse - thing.price
    text = [opening(draw, p), who_is(draw, p)]
    text.append(draw.pick((
        f"{p.name} wanted to give {p.his} best friend {friend.name} a present.",
        f"{friend.name}, {p.his} best friend, would soon have a birthday.",
        f"{p.name} had promised {friend.name}, {p.his} best friend, a gift.",
    )))  # fmt: skip
    text.append(draw.pick((
        f"{capital(p.he)} had heard of the {thing.name} that was sold in {town.name}.",
        f"The best gift would be the {thing.name}, but only the market of {town.name} sold it.",
        f"Everyone spoke about the {thing.name} of {town.name}, which was made of {thing.material}.",
    )))  # fmt: skip
    text.append(walk(draw, p, town))
    text.append(draw.pick((
        f"There stood the {thing.name}: it was {thing.color} and made of {thing.material}.",
        f"On a table {p.he} saw the {thing.name}, as {thing.color} as in the stories.",
        f"The {thing.color} {thing.name} was the first thing that {p.he} saw.",
    )))  # fmt: skip
    text.append(said(draw, "the seller", f"It costs {count(thing.price, 'coin')}."))
    text.append(
        f"{p.name} had {count(purse, 'coin')}, so {p.he} paid {in_words(thing.price)} and had "
        f"{count(left, 'coin') if left else 'no coins'} left."
    )
    text.append(draw.pick((
        f"When {friend.name} saw the {thing.name}, {friend.he} was {draw.pick(FEELINGS)}.",
        f"{friend.name} put the {thing.name} next to the window and laughed.",
        said(draw, friend.name, f"{draw.pick(THANKS)}! I have always wanted the {thing.name}!"),
    )))  # fmt: skip
    return " ".join([*text, end(draw, p)])


def lost_pet(draw, world) -> str:
    """A pet is lost and found by what it likes."""
    pet = draw.pick(world.pets)
    p = pet.owner
    helper = p.friend
    text = [opening(draw, p)]
    text.append(draw.pick((
        f"{p.name} could not find {pet.name}, {p.his} {pet.color} {pet.kind}.",
        f"{pet.name}, the {pet.color} {pet.kind} of {p.name}, was gone.",
        f"{p.name} called for {pet.name}, but {p.his} {pet.kind} did not come.",
    )))  # fmt: skip
    text.append(f"{p.name} was {draw.pick(WORRIES)}.")
    where = draw.some(PLACES, 3)
    text.append(draw.pick((
        f"{capital(p.he)} looked {where[0]} and {where[1]}, but there was no {pet.kind}.",
        f"First {p.he} looked {where[0]}, then {where[1]}. Nothing!",
        f"{capital(p.he)} searched {where[0]} for an hour.",
    )))  # fmt: skip
    text.append(draw.pick((
        f"Then {p.his} best friend {helper.name} came to help.",
        f"{helper.name}, {p.his} best friend, heard about it and came at once.",
        f"So {p.he} asked {helper.name}, who was {p.his} best friend.",
    )))  # fmt: skip
    text.append(said(draw, helper.name, f"{pet.name} likes {pet.likes}. Let us think about that."))
    text.append(draw.pick((
        f"At last they found the {pet.kind} {where[2]}.",
        f"And there was {pet.name}, {where[2]}, safe and well.",
        f"In the end {pet.name} sat {where[2]} and looked at them with big eyes.",
    )))  # fmt: skip
    text.append(draw.pick((
        f"{p.name} took the {pet.kind} home to {p.town.name} and was {draw.pick(FEELINGS)}.",
        said(draw, p.name, f"{draw.pick(THANKS)}, {helper.name}!"),
        f"{p.name} gave {helper.name} {plural(helper.food.name)}, {helper.his} favorite food.",
    )))  # fmt: skip
    return " ".join([*text, end(draw, p)])


def lesson(draw, world) -> str:
    """A child visits somebody who does what the child dreams of."""
    child = draw.pick([p for p in world.people if p.child])
    masters = [p for p in world.people if not p.child and p.job is child.job] or [child.mother]
    master = draw.pick(masters)
    same = master.job is child.job
    text = [opening(draw, child)]
    text.append(draw.pick((
        f"{child.name} was {in_words(child.age)} years old and wanted to be {a(child.job.name)}.",
        f"{child.name}, the {'daughter' if child.woman else 'son'} of {child.mother.name}, dreamed of "
        f"being {a(child.job.name)}.",
        f"More than anything {child.name} wanted to become {a(child.job.name)}.",
    )))  # fmt: skip
    if same:
        text.append(f"So {child.he} went to see {master.name}, {a(master.job.name)} from {master.town.name}.")
        if master.town is not child.town:
            text.append(walk(draw, child, master.town))
    else:
        text.append(
            f"{capital(child.he)} talked about it with {child.his} mother {master.name}, who was {a(master.job.name)}."
        )
    text.append(said(draw, child.name, "Please show me how you work."))
    text.append(draw.pick((
        f"{master.name} took {master.job.tool} and {master.job.did}.",
        f"At {master.job.place} {master.name} {master.job.did}, and {child.name} watched.",
        f"{capital(master.he)} picked up {master.job.tool} and slowly {master.job.did}.",
    )))  # fmt: skip
    text.append(said(draw, master.name, draw.pick((
        "You must be patient.", "Now it is your turn.", "It takes many years to learn this.", "Good work needs time.",
        "Begin with something small.", "I was a child like you when I began.",
    ))))  # fmt: skip
    text.append(draw.pick((
        f"{child.name} tried it, and at the third try it went well.",
        f"{child.name} tried again and again until it was dark.",
        f"At first {child.name} made a mistake, but {master.name} only laughed.",
    )))  # fmt: skip
    return " ".join([*text, f"{child.name} was {draw.pick(FEELINGS)}.", end(draw, child)])


def visit(draw, world) -> str:
    """Somebody visits the best friend and brings the friend's favorite food."""
    p = draw.pick(world.people)
    friend = p.friend
    food = plural(friend.food.name)
    text = [opening(draw, p), who_is(draw, p)]
    text.append(draw.pick((
        f"{capital(p.he)} wanted to visit {p.his} best friend {friend.name} in {friend.town.name}.",
        f"{capital(p.his)} best friend {friend.name} lived in {friend.town.name}, and today {p.he} would go there.",
    )))  # fmt: skip
    if friend.town is not p.town:
        text.append(walk(draw, p, friend.town))
    text.append(draw.pick((
        f"In {p.his} bag {p.he} had {food}, which {friend.name} loved.",
        f"{capital(p.he)} brought {food}, the favorite food of {friend.name}.",
    )))  # fmt: skip
    text.append(said(draw, friend.name, f"{draw.pick(THANKS)}! Come in and sit down."))
    hobby = draw.pick((p.hobby, friend.hobby))
    fan = p if hobby is p.hobby else friend
    text.append(draw.pick((
        f"Then they {hobby[2]} together, for {fan.name} liked {hobby[1]}.",
        f"{fan.name} liked {hobby[1]}, so they {hobby[2]} until the evening.",
    )))  # fmt: skip
    if friend.pet:
        text.append(f"{friend.pet.name}, the {friend.pet.color} {friend.pet.kind} of {friend.name}, watched them.")
    return " ".join([*text, end(draw, p)])


def letter(draw, world) -> str:
    """A letter to the best friend."""
    p = draw.pick(world.people)
    friend = p.friend
    lines = [
        f"I am writing to you from {p.town.name}.",
        f"Here {draw.pick(WEATHER)[0]} yesterday.",
        f"Today I ate {plural(p.food.name)}, which I love more than anything.",
        f"Yesterday I {p.hobby[2]} for {in_words(draw.between(2, 5))} hours.",
        f"I still like {p.hobby[1]}, as you know.",
        f"I am {in_words(p.age)} years old now.",
        f"My favorite color is still {p.color}.",
        f"I would like to see {friend.town.name} again.",
        f"I hope that you still have time for {friend.hobby[1]}.",
        f"When you come, there will be {plural(friend.food.name)} for you.",
    ]
    lines.append(
        f"I want to be {a(p.job.name)} one day." if p.child else f"I am {a(p.job.name)}, and last week I {p.job.did}."
    )
    if p.pet:
        lines.append(f"{p.pet.name}, my {p.pet.color} {p.pet.kind}, is well and likes {p.pet.likes}.")
    if p.children:
        names = listed([child.name for child in p.children])
        lines.append(
            f"My child {names} sends you greetings." if len(p.children) == 1 else f"My children {names} greet you."
        )
    body = " ".join(draw.some(lines, draw.between(4, 8)))
    close = draw.pick(("Your friend", "Your best friend", "With love", "Yours", "See you soon"))
    return f"Dear {friend.name},\n\n{body}\n\n{close},\n{p.name}"


def talk(draw, world) -> str:
    """Two people tell each other about a third; nobody asks a direct question about a fact."""
    one, two = draw.some(world.people, 2)
    other = draw.pick([p for p in (one.friend, two.friend) if p is not one and p is not two] or [one])
    if other is one:
        return letter(draw, world)
    facts = [
        f"{capital(other.he)} lives in {other.town.name}.",
        f"{capital(other.he)} loves {plural(other.food.name)}.",
        f"{capital(other.his)} favorite color is {other.color}.",
        f"{capital(other.he)} likes {other.hobby[1]}.",
        f"{capital(other.he)} is {in_words(other.age)} years old.",
        f"{capital(other.his)} best friend is {other.friend.name}.",
        f"{capital(other.he)} {'wants to be' if other.child else 'is'} {a(other.job.name)}.",
    ]
    if other.pet:
        facts.append(f"{capital(other.he)} has {a(other.pet.kind)} called {other.pet.name}.")
    told = draw.some(facts, draw.between(3, 5))
    nods = draw.some(NODS, len(told))
    lines = [f"{one.name}: Tell me something about {other.name}."]
    for fact, nod in zip(told, nods, strict=True):
        lines += [f"{two.name}: {fact}", f"{one.name}: {nod}"]
    lines.append(
        f"{two.name}: {draw.pick(('Now I must go home.', 'That is all I know.', 'See you tomorrow!', 'Good night!'))}"
    )
    return "\n".join(lines)


STORIES = (market, market, lost_pet, lost_pet, lesson, visit, visit, letter, talk)
