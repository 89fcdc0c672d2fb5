"""Short stories of the toy world. What they say about people, pets, towns and goods is true in it.

Most can be told about a given person `p`.
"""

from pynanochat.data.toyworld_scenes import FEELINGS, PLACES, THANKS, WORRIES, begin, end, it, kind_of, said, way
from pynanochat.data.toyworld_words import FOODS, REPAIRS, a, capital, count, in_words, listed, plural


def market(draw, world, p=None) -> str:
    """Somebody buys a thing for the best friend, at its price, in its town."""
    p, thing = p or draw.pick(world.people), draw.pick(world.goods)
    friend, town = p.friend, thing.town
    purse = thing.price + draw.between(0, 15)
    left = purse - thing.price
    text = [begin(draw, p)]
    text.append(draw.pick((
        f"{capital(p.he)} wanted to give {p.his} best friend {friend.name} a present.",
        f"{friend.name}, {p.his} best friend, would soon have a birthday.",
        f"{capital(p.he)} had promised {friend.name}, {p.his} best friend, a gift.",
        f"For weeks {p.he} had saved coins for a gift, because {friend.name} was {p.his} best friend.",
    )))  # fmt: skip
    text.append(draw.pick((
        f"{capital(p.he)} had heard of the {thing.name} that was sold in {town.name}.",
        f"The best gift would be the {thing.name}, but only the market of {town.name} sold it.",
        f"Everyone spoke about the {thing.name} of {town.name}, which was made of {thing.material}.",
        f"In {town.name} one could buy the {thing.name}, and nothing was more beautiful.",
    )))  # fmt: skip
    text.append(way(draw, p, town))
    text.append(draw.pick((
        f"There stood the {thing.name}: it was {thing.color} and made of {thing.material}.",
        f"On a table {p.he} saw the {thing.name}, as {thing.color} as in the stories.",
        f"The {thing.color} {thing.name} was the first thing that {p.he} saw.",
        f"An old seller held up the {thing.name}. It was {thing.color}.",
    )))  # fmt: skip
    if draw.chance(0.5):
        asked = draw.pick(
            ("How beautiful it is!", "May I see it?", "Is it for sale?", "I have come a long way for this.")
        )
        text.append(said(draw, p.name, asked))
    price = count(thing.price, "coin")
    answer = draw.pick((f"It costs {price}.", f"You can have it for {price}.", f"The price is {price}."))
    text.append(said(draw, "the seller", answer))
    text.append(draw.pick((
        f"{p.name} had {count(purse, 'coin')}, so {p.he} paid {in_words(thing.price)} and had "
        f"{count(left, 'coin') if left else 'no coins'} left.",
        f"{p.name} counted {p.his} coins and paid {in_words(thing.price)} of them.",
        f"That was not cheap, but {p.name} paid the {price} at once." if thing.price > 9
        else f"That was cheap, and {p.name} paid the {price} at once.",
    )))  # fmt: skip
    text.append(draw.pick((
        f"When {friend.name} saw the {thing.name}, {friend.he} was {draw.pick(FEELINGS)}.",
        f"{friend.name} put the {thing.name} next to the window and laughed.",
        said(draw, friend.name, f"{draw.pick(THANKS)}! I have always wanted the {thing.name}!"),
        f"The next day {friend.name} showed the {thing.name} to everyone in {friend.town.name}.",
    )))  # fmt: skip
    return " ".join([*text, end(draw, p)])


def lost_pet(draw, world) -> str:
    """A pet is lost and found by what it likes."""
    pet = draw.pick(world.pets)
    p = pet.owner
    helper = p.friend
    where = draw.some(PLACES, 3)
    text = [begin(draw, p)]
    text.append(draw.pick((
        f"But {p.he} could not find {pet.name}, {p.his} {pet.color} {pet.kind}.",
        f"Suddenly {pet.name}, {p.his} {pet.color} {pet.kind}, was gone.",
        f"{p.name} called for {pet.name}, but {p.his} {pet.kind} did not come.",
        f"The door was open, and {pet.name} the {pet.kind} had run away.",
    )))  # fmt: skip
    text.append(f"{p.name} was {draw.pick(WORRIES)}.")
    text.append(draw.pick((
        f"{capital(p.he)} looked {where[0]} and {where[1]}, but there was no {pet.kind}.",
        f"First {p.he} looked {where[0]}, then {where[1]}. Nothing!",
        f"{capital(p.he)} searched {where[0]} for an hour.",
        f"Although {p.he} looked {where[0]} and even {where[1]}, {p.he} found nothing.",
    )))  # fmt: skip
    text.append(draw.pick((
        f"Then {p.his} best friend {helper.name} came to help.",
        f"{helper.name}, {p.his} best friend, heard about it and came at once.",
        f"So {p.he} asked {helper.name}, who was {p.his} best friend.",
    )))  # fmt: skip
    text.append(said(draw, helper.name, draw.pick((
        f"{pet.name} likes {pet.likes}. Let us think about that.",
        f"We must think like {a(pet.kind)}. What {pet.name} loves most is {pet.likes}.",
        f"Do not cry. {pet.name} cannot be far, and I know that your {pet.kind} loves {pet.likes}.",
    ))))  # fmt: skip
    text.append(draw.pick((
        f"At last they found the {pet.kind} {where[2]}.",
        f"And there was {pet.name}, {where[2]}, safe and well.",
        f"In the end {pet.name} sat {where[2]} and looked at them with big eyes.",
        f"Soon they heard a small noise {where[2]}. It was {pet.name}!",
    )))  # fmt: skip
    food = plural(helper.food.name)
    text.append(draw.pick((
        f"{p.name} took the {pet.kind} home to {p.town.name} and was {draw.pick(FEELINGS)}.",
        said(draw, p.name, f"{draw.pick(THANKS)}, {helper.name}!"),
        f"{p.name} gave {helper.name} {food}, because {helper.he} loved {it(helper.food.name)}.",
    )))  # fmt: skip
    return " ".join([*text, end(draw, p)])


def lesson(draw, world) -> str:
    """A child visits somebody who does what the child dreams of."""
    if not world.children:
        return fable(draw, world)
    child = draw.pick(world.children)
    masters = [p for p in world.workers[child.job] if not p.child]
    text = [begin(draw, child)]
    text.append(draw.pick((
        f"{child.name} was {in_words(child.age)} years old and wanted to be {a(child.job.name)}.",
        f"{child.name} dreamed of being {a(child.job.name)}.",
        f"More than anything {child.name} wanted to become {a(child.job.name)}.",
    )))  # fmt: skip
    if masters:
        master = draw.pick(masters)
        text.append(f"So {child.he} went to see {master.name}, {a(master.job.name)} from {master.town.name}.")
        if master.town is not child.town:
            text.append(way(draw, child, master.town))
    else:
        master = draw.pick((child.mother, child.father))
        parent = "mother" if master.woman else "father"
        whom = f"{child.his} {parent} {master.name}, who was {a(master.job.name)}"
        text.append(f"{capital(child.he)} talked about it with {whom}.")
    wish = draw.pick(("Please show me how you work.", "May I watch you?", "Can I help you today?"))
    text.append(said(draw, child.name, wish))
    text.append(draw.pick((
        f"{master.name} took {master.job.tool} and {master.job.did}.",
        f"{capital(master.job.place)} {master.name} {master.job.did}, and {child.name} watched.",
        f"{capital(master.he)} picked up {master.job.tool} and slowly {master.job.did}.",
        f"While {child.name} held {master.job.tool}, {master.name} explained everything.",
    )))  # fmt: skip
    text.append(said(draw, master.name, draw.pick((
        "You must be patient.", "Now it is your turn.", "It takes many years to learn this.", "Good work needs time.",
        "Begin with something small.", "I was a child like you when I began.", "Do not be afraid of mistakes.",
        "If you like what you do, it is easy.", "Look first, and then do it.",
    ))))  # fmt: skip
    text.append(draw.pick((
        f"{child.name} tried it, and at the third try it went well.",
        f"{child.name} tried again and again until it was dark.",
        f"At first {child.name} made a mistake, but {master.name} only laughed.",
        f"{child.name} worked so hard that {child.he} forgot to eat.",
    )))  # fmt: skip
    return " ".join([*text, f"{child.name} was {draw.pick(FEELINGS)}.", end(draw, child)])


def visit(draw, world, p=None) -> str:
    """Somebody visits the best friend and brings the friend's favorite food."""
    p = p or draw.pick(world.people)
    friend = p.friend
    food = plural(friend.food.name)
    text = [begin(draw, p)]
    text.append(draw.pick((
        f"{capital(p.he)} wanted to visit {p.his} best friend {friend.name} in {friend.town.name}.",
        f"{capital(p.his)} best friend {friend.name} lived in {friend.town.name}, and today {p.he} would go there.",
        f"For a long time {p.he} had not seen {p.his} best friend {friend.name}, so {p.he} went to {friend.town.name}.",
    )))  # fmt: skip
    if friend.town is not p.town:
        text.append(way(draw, p, friend.town))
    text.append(draw.pick((
        f"In {p.his} bag {p.he} had {food}, because {friend.name} loved {it(friend.food.name)}.",
        f"{capital(p.he)} brought {food}, the favorite food of {friend.name}.",
        f"{capital(p.he)} knew what {friend.name} liked best and brought {food}.",
    )))  # fmt: skip
    text.append(said(draw, friend.name, draw.pick((
        f"{draw.pick(THANKS)}! Come in and sit down.", "I was just thinking of you!", "You came at the right time.",
    ))))  # fmt: skip
    hobby = draw.pick((p.hobby, friend.hobby))
    fan = p if hobby is p.hobby else friend
    text.append(draw.pick((
        f"Then they {hobby[2]} together, for {fan.name} liked {hobby[1]}.",
        f"{fan.name} liked {hobby[1]}, so they {hobby[2]} until the evening.",
        f"After they had eaten, they {hobby[2]}, because {fan.name} wanted to {hobby[0]}.",
    )))  # fmt: skip
    if friend.pet:
        text.append(f"{friend.pet.name}, the {friend.pet.color} {friend.pet.kind} of {friend.name}, watched them.")
    return " ".join([*text, end(draw, p)])


def repair(draw, world) -> str:
    """Something goes wrong, and one whose trade it is helps."""
    if not world.menders:
        return fable(draw, world)
    master = draw.pick(world.menders)
    job = master.job
    p = draw.other(world.people, master)
    text = [begin(draw, p)]
    text.append(
        f"{draw.pick(('Then', 'That day', 'But what was that? Suddenly', 'In the night'))} {REPAIRS[job.name]}."
    )
    text.append(draw.pick((
        f"{p.name} did not know what to do.",
        f"{p.name} tried to do something about it, but it was no use.",
        f"{p.name} was {draw.pick(WORRIES)}.",
    )))  # fmt: skip
    advice = draw.pick((
        f"Go and ask {master.name}, the {job.name}.",
        f"You need {a(job.name)}. {master.name} in {master.town.name} is one.",
        f"{master.name} will help you, for {master.he} is {a(job.name)}.",
    ))  # fmt: skip
    text.append(said(draw, "a neighbor" if p.friend is master else p.friend.name, advice))
    text.append(draw.pick((
        f"So {p.name} sent for {master.name}, who lived in {master.town.name}.",
        f"{p.name} ran as fast as {p.he} could and knocked at {master.name}'s door.",
    )))  # fmt: skip
    text.append(draw.pick((
        f"{master.name} came with {job.tool} and worked until it was dark.",
        f"{capital(master.he)} brought {job.tool} and did not ask for much.",
        f"{master.name} took {job.tool}, because {a(job.name)} never goes out without it.",
    )))  # fmt: skip
    fee = draw.between(2, 12)
    food = plural(master.food.name)
    text.append(draw.pick((
        said(draw, master.name, f"That makes {count(fee, 'coin')}."),
        f"{p.name} thanked {master.him} and paid {count(fee, 'coin')}.",
        f"Instead of coins {master.name} wanted {food}, because {master.he} loved {it(master.food.name)}.",
    )))  # fmt: skip
    return " ".join([*text, end(draw, p)])


def birthday(draw, world, p=None) -> str:
    """A birthday with the age in candles and guests that add up."""
    p = p or draw.pick(world.people)
    family = [q for q in (p.spouse, p.mother, p.father, *p.children) if q]
    food = plural(p.food.name)
    plate = food if it(p.food.name) == "it" else f"a big plate of {food}"
    today = draw.pick(("It was a happy day", "It was a day to remember", "The day had come at last"))
    text = [f"{today}: {p.name} from {p.town.name} turned {in_words(p.age)}."]
    text.append(draw.pick((
        f"There was a cake with {count(p.age, 'candle')}.",
        f"{capital(count(p.age, 'candle'))} burned on the cake.",
        f"{p.name} needed two breaths to blow out the {count(p.age, 'candle')}.",
    )))  # fmt: skip
    text.append(draw.pick((
        f"The whole room was {p.color}, because {p.color} is {p.his} favorite color.",
        f"On the table there were {p.color} flowers, for {p.he} likes {p.color} best.",
    )))  # fmt: skip
    text.append(draw.pick((
        f"Of course there was {plate}, which {p.he} loves.",
        f"Everyone knew that {p.he} loves {food}, and so there was enough for all.",
    )))  # fmt: skip
    if family:
        names = listed([q.name for q in family])
        text.append(f"{names} sang for {p.him}." if len(family) > 1 else f"{names} sang a song for {p.him}.")
    text.append(draw.pick((
        f"{p.friend.name}, {p.his} best friend, came from {p.friend.town.name}.",
        f"The first guest was {p.friend.name}, {p.his} best friend.",
    )))  # fmt: skip
    x, y = draw.between(2, 9), draw.between(2, 9)
    text.append(draw.pick((
        f"First {in_words(x)} guests came and then {in_words(y)} more, which makes {in_words(x + y)}.",
        f"{capital(p.he)} got {count(x, 'gift')} and later {in_words(y)} more, {in_words(x + y)} in all.",
    )))  # fmt: skip
    text.append(f"Then they all {p.hobby[2]}, because {p.he} likes {p.hobby[1]}.")
    return " ".join([*text, end(draw, p)])


def fair(draw, world, p=None) -> str:
    """Two friends go to the yearly fair of a town."""
    town = draw.pick(world.towns)
    p = p or draw.pick(world.people)
    friend = p.friend
    text = [draw.pick((
        f"It was {town.month}, the month of the fair in {town.name}.",
        f"Every {town.month} there is a fair in {town.name}, and this year it was larger than ever.",
        f"In {town.month} all roads are full, for then {town.name} holds its fair.",
    ))]  # fmt: skip
    text.append(f"{p.name} from {p.town.name} wanted to go there with {p.his} best friend {friend.name}.")
    if town is not p.town:
        text.append(way(draw, p, town))
    text.append(draw.pick((
        f"{town.mayor.name}, the mayor, stood at the {town.gate} gate and opened the fair.",
        f"The mayor of {town.name}, {town.mayor.name}, gave a short speech under the {town.gate} gate.",
        f"{town.mayor.name} rang a bell, because {town.mayor.he} is the mayor of {town.name}.",
    )))  # fmt: skip
    for food in draw.some(world.foods, draw.between(1, 2)):
        text.append(draw.pick((
            f"They bought {FOODS[food.name][2]} for {count(food.price, 'coin')}.",
            f"{draw.pick((p, friend)).name} paid {count(food.price, 'coin')} for {FOODS[food.name][2]}.",
        )))  # fmt: skip
    if town.goods:
        thing = draw.pick(town.goods)
        price = count(thing.price, "coin")
        text.append(f"They also saw the {thing.color} {thing.name}, which costs {price} in {town.name}.")
    hobby = draw.pick((p.hobby, friend.hobby))
    text.append(draw.pick((
        f"Later they {hobby[2]} until the moon came up.",
        f"There was music everywhere, and some people even {hobby[2]}.",
        f"{friend.name} was lost in the crowd for an hour, but {p.name} found {friend.him} near the gate.",
    )))  # fmt: skip
    return " ".join([*text, end(draw, p)])


def day(draw, world, p=None) -> str:
    """A day in somebody's life, from morning to night, in the present tense."""
    p = p or draw.pick(world.people)
    food, friend, town = plural(p.food.name), p.friend, p.town.name
    plate = food if it(p.food.name) == "it" else f"a plate of {food}"
    early, late = in_words(draw.between(5, 8)), in_words(draw.between(8, 11))
    text = [draw.pick((
        f"{p.name} gets up at {early}.",
        f"The day of {p.name} begins at {early}.",
        f"When the sun rises over {town}, {p.name} is already awake.",
    ))]  # fmt: skip
    if p.pet:
        text.append(draw.pick((
            f"First {p.he} feeds {p.pet.name}, {p.his} {p.pet.kind}.",
            f"{p.pet.name} the {p.pet.kind} is the first to say good morning to {p.him}.",
        )))  # fmt: skip
    if p.child:
        parents = f"{p.mother.name} or {p.father.name}"
        text.append(draw.pick((f"Then {p.he} walks to school in {town}.", f"{parents} takes {p.him} to school.")))
        text.append(f"In school {p.he} thinks about {p.his} dream: {p.he} wants to be {a(p.job.name)}.")
    else:
        text.append(draw.pick((
            f"Then {p.he} works {p.job.place}, because {p.he} is {a(p.job.name)}.",
            f"At work {p.he} needs {p.job.tool}, for {p.he} {p.job.does}.",
        )))  # fmt: skip
    text.append(draw.pick((f"At noon {p.he} eats {food}, {p.his} favorite food.", f"At noon there is {plate}.")))
    text.append(draw.pick((
        f"In the afternoon {p.he} meets {friend.name}, {p.his} best friend.",
        f"In the street {p.he} meets {p.his} best friend {friend.name}." if friend.town is p.town
        else f"Sometimes {friend.name}, {p.his} best friend, comes from {friend.town.name}.",
    )))  # fmt: skip
    text.append(draw.pick((
        f"In the evening {p.he} likes to {p.hobby[0]}.", f"Before it gets dark, {p.he} has time for {p.hobby[1]}.",
    )))  # fmt: skip
    text.append(draw.pick((
        f"At {late} {p.he} goes to bed.", f"Then {p.he} sleeps under {p.his} {p.color} blanket.", "So the day ends.",
    )))  # fmt: skip
    return " ".join(text)


FABLES = (  # what one does; what the other says; what comes of it
    "found a purse with {x} coins {place}/You should look for the owner./The owner wept with joy and gave {n} one coin",
    "broke a cup and hid it {place}/It is better to tell the truth./When {n} told the truth, nobody was angry",
    "wanted to cross the river alone/Wait for me, and we will go together./Together they came safely to the other side",
    "was afraid of the dark/Take my hand and count to {x}./At {x} the fear was gone",
    "had only one piece of bread for {x} guests/Then we will all share it./Nobody went home hungry",
    "ran so fast that {he} fell/Who walks slowly comes home too./From that day {n} looked where {he} was going",
    "dug up {x} seeds again and again to look at them/Seeds need time and quiet./In spring there were {x} green leaves",
    "laughed at a bird that could not fly/You could not walk once, either./{n} made a nest for it, and it flew away",
    "wanted to carry {x} baskets at once/Carry one, then the next./So {n} walked {x} times and dropped nothing",
    "sold {his} coat for a ring of glass/Winter will come./When it was cold, {n} wanted to have the coat back",
    "told everyone that a wolf was {place}/Do not say what is not true./When a wolf came, nobody believed {n} at first",
    "built a small boat out of paper/Paper gets wet./The next boat was made of wood, and it came across the lake",
    "wanted to catch the moon in a bucket/You can look at it, and so it is yours./Now {n} looked at it every night",
    "could not sleep for {x} nights/Tell me what makes you sad./When {n} had told everything, {he} slept until noon",
    "found a young bird {place}/It needs warmth and water./After {x} days it sang for the first time",
)


def fable(draw, world, p=None) -> str:
    """Somebody learns something."""
    p = p or draw.pick(world.people)
    wise = p.friend
    did, words, outcome = draw.pick(FABLES).split("/")
    fill = {"n": p.name, "he": p.he, "his": p.his, "place": draw.pick(PLACES), "x": in_words(draw.between(3, 9))}
    text = [begin(draw, p), f"{draw.pick(('One day', 'That day', 'And then'))} {p.he} {did.format_map(fill)}."]
    text.append(draw.pick((
        f"{wise.name}, {p.his} best friend, had seen it.",
        f"{capital(p.he)} told {p.his} best friend {wise.name} about it.",
        f"Luckily {p.his} best friend {wise.name} was there, {a(kind_of(wise))} from {wise.town.name}.",
    )))  # fmt: skip
    text.append(said(draw, wise.name, words.format_map(fill)))
    text.append(outcome.format_map(fill) + ".")
    return " ".join([*text, end(draw, p)])


STORIES = (market, market, lost_pet, lost_pet, lesson, visit, visit, repair, repair, birthday, fair, day, fable)
