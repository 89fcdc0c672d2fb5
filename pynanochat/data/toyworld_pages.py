"""Pages of the toy world's encyclopedia: people, families, pets, goods, foods, towns, lists and comparisons."""

from pynanochat.data import toyworld_wordings as say
from pynanochat.data.toyworld_words import FOODS, a, capital, count, in_words, listed, plural

SHE = {"S": "She", "s": "she", "P": "Her", "p": "her", "M": "Her", "m": "her"}
HE = {"S": "He", "s": "he", "P": "His", "p": "his", "M": "Him", "m": "him"}
IT = {"S": "It", "s": "it", "P": "Its", "p": "its", "M": "It", "m": "it"}


def age_of(draw, years: int) -> str:
    """An age in words or, less often, in digits."""
    return str(years) if draw.chance(0.25) else in_words(years)


def coins(draw, price: int) -> str:
    """A price in words or, less often, in digits."""
    return count(price, "coin") if draw.chance(0.7) else f"{price} coin{'s' * (price != 1)}"


def who(p) -> str:
    """`a woman`, `a boy`."""
    return "a " + (("girl" if p.woman else "boy") if p.child else ("woman" if p.woman else "man"))


def person_facts(draw, p) -> list:
    """Functions of `named`, one for each fact about a person, that give a sentence."""
    job, (do, ing, _) = p.job, p.hobby
    food = food_liked(p.food)

    def fact(wordings, **more):
        return lambda named: say.tell(draw, wordings, p.name, SHE if p.woman else HE, named, **more)

    facts = [
        fact(say.CHILD_LIVES_IN if p.child else say.LIVES_IN, o=p.town.name),
        fact(say.AGE, o=age_of(draw, p.age)),
        fact(say.FOOD, o=food),
        fact(say.COLOR, o=p.color),
        fact(say.HOBBY, o=do, ing=ing, ING=capital(ing)),
        fact(say.FRIEND, o=p.friend.name, where=p.friend.town.name),
        fact(
            say.DREAM if p.child else say.JOB, o=job.name, ao=a(job.name), does=job.does, tool=job.tool, place=job.place
        ),
    ]
    if p.spouse:
        facts.append(fact(say.SPOUSE, o=p.spouse.name, husband="husband" if p.woman else "wife"))
    if p.child:
        facts.append(
            fact(say.PARENTS, mother=p.mother.name, father=p.father.name, son="daughter" if p.woman else "son")
        )
    if p.children:
        names = listed([child.name for child in p.children])
        one = len(p.children) == 1
        facts.append(
            fact(
                say.CHILDREN,
                o=names,
                number=count(len(p.children), "child", "children"),
                parent="mother" if p.woman else "father",
                are="is" if one else "are",
                child="child" if one else "children",
            )
        )
    if p.pet:
        facts.append(fact(say.PET, o=p.pet.name, kind=p.pet.kind, akind=a(p.pet.kind)))
    return facts


def food_liked(food) -> str:
    """A food as one likes it: `apples`, `bean soup`."""
    return plural(food.name)


def pet_facts(draw, pet) -> list:
    def fact(wordings, **more):
        return lambda named: say.tell(draw, wordings, pet.name, IT, named, **more)

    return [
        fact(
            say.SPECIES,
            o=pet.kind,
            ao=a(pet.kind),
            akind=a(pet.kind),
            acolor=a(pet.color),
            town=pet.owner.town.name,
        ),
        fact(say.PET_COLOR, o=pet.color, ao=a(pet.color)),
        fact(say.PET_LIKES, o=pet.likes),
        fact(say.PET_OWNER, o=pet.owner.name, kind=pet.kind),
    ]


def thing_facts(draw, thing) -> list:
    def fact(wordings, **more):
        return lambda named: say.tell(draw, wordings, "the " + thing.name, IT, named, **more)

    return [
        fact(say.PRICE, coins=coins(draw, thing.price)),
        fact(say.THING_COLOR, o=thing.color, ao=a(thing.color)),
        fact(say.MATERIAL, o=thing.material),
        fact(say.SOLD_IN, o=thing.town.name),
    ]


def food_facts(draw, food) -> list:
    many, taste, one = FOODS[food.name]
    come = "come" if many != food.name else "comes"
    fact = lambda wordings, **more: lambda named: say.tell(draw, wordings, one, IT, False, **more)  # noqa: E731
    taste_ = (f"{capital(many)} taste{'s' * (come == 'comes')} {taste}.", f"Good {many} should be {taste}.")
    return [
        fact(say.PRICE, coins=coins(draw, food.price)),
        fact(say.COMES_FROM, o=food.town.name, many=many, come=come),
        lambda named: draw.pick(taste_),
    ]


def town_facts(draw, town) -> list:
    def fact(wordings, **more):
        return lambda named: say.tell(draw, wordings, town.name, IT, False, **more)

    facts = [
        fact(say.TOWN_LIES, o=town.water),
        fact(say.GATE, o=town.gate, ao=a(town.gate)),
        fact(say.MAYOR, o=town.mayor.name),
        fact(say.FAIR, o=town.month),
    ]
    for other in town.roads:
        facts.append(fact(say.ROAD, o=other.name, miles=count(town.miles(other), "mile"), way=town.direction(other)))
    if town.goods:
        facts.append(lambda named: sold_here(draw, town))
    if town.foods:
        facts.append(lambda named: f"The best {listed([food_liked(f) for f in town.foods])} come from {town.name}.")
    if town.people:
        facts.append(lambda named: people_here(draw, town))
    return facts


def sold_here(draw, town) -> str:
    """A sentence about what the market of a town sells."""
    some = [f"the {thing.name} for {coins(draw, thing.price)}" for thing in draw.some(town.goods, 3)]
    return draw.pick(
        ("The market of {} sells {}.", "In {} you can buy {}.", "At the market in {} there is {}.")
    ).format(town.name, listed(some))


def people_here(draw, town) -> str:
    """A sentence about some of the people of a town."""
    some = draw.some(town.people, draw.between(2, 4))
    if len(some) == 1:
        return f"{some[0].name} lives in {town.name}."
    return draw.pick(
        ("{} live in {}.", "{} are some of the people of {}.", "{} all know each other, for they live in {}.")[
            : 3 if len(some) > 2 else 2
        ]
    ).format(listed([p.name for p in some]), town.name)


def page(draw, facts: list, least: int, named: bool = False) -> str:
    """Sentences for some of the facts, at least `least`, in random order."""
    chosen = draw.some(facts, draw.between(min(least, len(facts)), len(facts)))
    sentences = [chosen[0](named)]
    sentences += [fact(True) for fact in chosen[1:]]
    return " ".join(sentences)


def person_page(draw, world, p=None) -> str:
    p = p or draw.pick(world.people)
    facts = person_facts(draw, p)
    opening = draw.pick(say.PERSON_OPENING).format(n=p.name, who=who(p), town=p.town.name)
    body = f"{opening} {page(draw, facts[1:] if p.town.name in opening else facts, 5, True)}"
    title = draw.pick(("", "", f"{p.name}\n\n", f"About {p.name}\n\n"))
    if p.pet and draw.chance(0.4):
        body += f"\n\n{page(draw, pet_facts(draw, p.pet), 3)}"
    return title + body


def pet_page(draw, world) -> str:
    pet = draw.pick(world.pets)
    body = page(draw, pet_facts(draw, pet), 4)
    owner = page(draw, person_facts(draw, pet.owner), 2)
    return draw.pick(("", f"{pet.name} the {pet.kind}\n\n")) + body + draw.pick((" ", "\n\n")) + owner


def goods_page(draw, world) -> str:
    some = draw.some(world.goods, draw.between(1, 3))
    title = draw.pick(("", f"The {some[0].name}\n\n" if len(some) == 1 else "Things you can buy\n\n"))
    return title + draw.pick(("\n\n", "\n")).join(page(draw, thing_facts(draw, thing), 3) for thing in some)


def food_page(draw, world) -> str:
    some = draw.some(world.foods, draw.between(2, 4))
    return draw.pick(("", "Good food\n\n", "Things to eat\n\n")) + "\n".join(
        page(draw, food_facts(draw, food), 2) for food in some
    )


def town_page(draw, world) -> str:
    town = draw.pick(world.towns)
    body = page(draw, town_facts(draw, town), 6)
    if town.people and draw.chance(0.5):
        body += "\n\n" + page(draw, person_facts(draw, draw.pick(town.people)), 2)
    return draw.pick(("", f"{town.name}\n\n", f"The town of {town.name}\n\n")) + body


def family_page(draw, world) -> str:
    if not world.mothers:
        return list_page(draw, world)
    mother = draw.pick(world.mothers)
    father, names = mother.spouse, [child.name for child in mother.children]
    text = draw.pick((
        "{m} and {f} are married and live in {t}.",
        "In {t} live {m} and {f}, who are wife and husband.",
        "This is the family of {m} and {f} in {t}.",
    )).format(m=mother.name, f=father.name, t=mother.town.name)  # fmt: skip
    if names:
        number = count(len(names), "child", "children")
        text += draw.pick(
            (
                " They have {}: {}.",
                " They have {}, and the name is {}." if len(names) == 1 else " They have {}, whose names are {}.",
            )
        ).format(number, listed(names))
    else:
        text += draw.pick((" They have no children.", " They live alone, without children."))
    if len(names) > 1:
        one, two = draw.some(mother.children, 2)
        kin = "sister" if one.woman else "brother"
        text += draw.pick((f" {one.name} is the {kin} of {two.name}.", f" {two.name} has a {kin} called {one.name}."))
        if one.age != two.age:
            old, young = (one, two) if one.age > two.age else (two, one)
            text += f" {old.name} is {count(old.age - young.age, 'year')} older than {young.name}."
    some = draw.some([mother, father, *mother.children], draw.between(1, 3))
    return text + "".join("\n" + page(draw, person_facts(draw, p), 3) for p in some)


def list_page(draw, world) -> str:
    """Who has something in common."""
    kind = draw.below(4)
    if kind == 0:
        job = draw.pick(world.people).job
        names = [p.name for p in world.workers[job] if not p.child]
        children = [p.name for p in world.workers[job] if p.child]
        lines = [f"{n} is {a(job.name)}." for n in names] + [f"{n} wants to be {a(job.name)}." for n in children]
        head = f"{capital(a(job.name))} {job.does}."
    elif kind == 1:
        food = draw.pick(world.people).food
        lines = [f"{p.name} loves {food_liked(food)}." for p in world.eaters[food]]
        head = f"Here are the people who like {food_liked(food)} best."
    elif kind == 2:
        town = draw.pick([t for t in world.towns if t.people])
        lines = [f"{p.name} is {a(p.job.name)} in {town.name}." for p in town.people if not p.child]
        lines += [f"{p.name} is a child in {town.name}." for p in town.people if p.child]
        head = f"These people live in {town.name}."
    else:
        color = draw.pick(world.people).color
        lines = [f"{p.name} likes {color} best." for p in world.wearers[color]]
        lines += [f"The {thing.name} is {color}." for thing in world.colored[color]]
        head = f"This page is about the color {color}."
    return head + "\n" + "\n".join(draw.some(lines, draw.between(3, 9)))


PAGES = (person_page, person_page, person_page, pet_page, goods_page, food_page, town_page, family_page, list_page)
