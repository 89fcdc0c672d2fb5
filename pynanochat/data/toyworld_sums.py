"""Sums, shopping, ages, spelling, the calendar: the toy world's exercises, told as plain text."""

from pynanochat.data.toyworld_words import DAYS, FOODS, JOBS, MONTHS, capital, count, in_words, plural


def plus(draw) -> str:
    x, y = draw.between(0, 50), draw.between(0, 50)
    return draw.pick((
        f"{capital(in_words(x))} plus {in_words(y)} is {in_words(x + y)}.",
        f"{x} + {y} = {x + y}.",
        f"If you add {x} and {y}, you get {x + y}.",
        f"{capital(in_words(x))} and {in_words(y)} make {in_words(x + y)}.",
        f"The sum of {x} and {y} is {x + y}.",
    ))  # fmt: skip


def minus(draw) -> str:
    x, y = draw.between(0, 60), draw.between(0, 30)
    x = max(x, y)
    return draw.pick((
        f"{capital(in_words(x))} minus {in_words(y)} is {in_words(x - y)}.",
        f"{x} - {y} = {x - y}.",
        f"If you take {y} away from {x}, {x - y} {'is' if x - y == 1 else 'are'} left.",
        f"The difference of {x} and {y} is {x - y}.",
    ))  # fmt: skip


def times(draw) -> str:
    x, y = draw.between(0, 12), draw.between(0, 12)
    return draw.pick((
        f"{capital(in_words(x))} times {in_words(y)} is {in_words(x * y)}.",
        f"{x} * {y} = {x * y}.",
        f"{x} times {y} makes {x * y}.",
    ))  # fmt: skip


def sums_page(draw, world) -> str:
    lines = [draw.pick((plus, minus, times))(draw) for _ in range(draw.between(5, 10))]
    return draw.pick(("", "Sums\n", "Let us do some sums.\n")) + "\n".join(lines)


def shopping(draw, world) -> str:
    """Somebody buys some of a food, perhaps of two, and pays."""
    p, food = draw.pick(world.people), draw.pick([f for f in world.foods if FOODS[f.name][0] != f.name])
    n = draw.between(2, 9)
    cost = n * food.price
    many = plural(food.name)
    lines = [
        draw.pick((
            f"{p.name} goes to the market and buys {in_words(n)} {many}.",
            f"At the market {p.name} asks for {in_words(n)} {many}.",
            f"{p.name} wants {in_words(n)} {many}.",
        )),
        draw.pick((
            f"One {food.name} costs {count(food.price, 'coin')}.",
            f"The price of one {food.name} is {count(food.price, 'coin')}.",
        )),
        f"{n} * {food.price} = {cost}, so {in_words(n)} {many} cost {count(cost, 'coin')}.",
    ]  # fmt: skip
    if draw.chance(0.6):
        purse = cost + draw.between(0, 20)
        left = purse - cost
        lines.append(
            f"{p.name} has {count(purse, 'coin')}. {purse} - {cost} = {left}, so {p.he} has "
            f"{count(left, 'coin') if left else 'no coins'} left."
        )
    return " ".join(lines)


def compare(draw, world) -> str:
    """Which of two costs more, who is older."""
    lines = []
    for _ in range(draw.between(2, 4)):
        if draw.chance(0.5):
            x, y = draw.some(world.goods, 2)
            if x.price == y.price:
                lines.append(f"The {x.name} and the {y.name} both cost {count(x.price, 'coin')}.")
                continue
            x, y = (x, y) if x.price > y.price else (y, x)
            lines.append(draw.pick((
                f"The {x.name} costs {count(x.price, 'coin')} and the {y.name} costs {count(y.price, 'coin')}, "
                f"so the {x.name} costs more.",
                f"The {y.name} is cheaper than the {x.name}: {y.price} is less than {x.price}.",
                f"For the {x.name} you pay {count(x.price - y.price, 'coin')} more than for the {y.name}.",
            )))  # fmt: skip
        else:
            x, y = draw.some(world.people, 2)
            if x.age == y.age:
                lines.append(f"{x.name} and {y.name} are both {in_words(x.age)} years old.")
                continue
            x, y = (x, y) if x.age > y.age else (y, x)
            lines.append(draw.pick((
                f"{x.name} is {in_words(x.age)} and {y.name} is {in_words(y.age)}, so {x.name} is older.",
                f"{y.name} is {count(x.age - y.age, 'year')} younger than {x.name}: "
                f"{x.age} - {y.age} = {x.age - y.age}.",
                f"{x.name} is older than {y.name}.",
            )))  # fmt: skip
    return "\n".join(lines)


def a_word(draw, world) -> str:
    """A word to spell."""
    return draw.pick((
        draw.pick(world.people).name.lower(),
        draw.pick(world.goods).name.split()[-1],
        draw.pick(world.foods).name.split()[-1],
        draw.pick(world.people).color,
        draw.pick(world.pets).kind,
        draw.pick(JOBS).name.split()[0],
    ))  # fmt: skip


def spelling(draw, world) -> str:
    lines = []
    for _ in range(draw.between(3, 6)):
        word = a_word(draw, world)
        letter = draw.pick(word)
        letters = ", ".join(word)
        n = word.count(letter)
        times_ = {1: "once", 2: "twice"}.get(n, f"{in_words(n)} times")
        lines.append(draw.pick((
            f"The word {word} is spelled {letters}.",
            f"You spell {word} like this: {letters}.",
            f"{capital(word)} has {in_words(len(word))} letters: {letters}.",
            f"The letter {letter} stands {times_} in the word {word}: {letters}.",
            f"The word {word} begins with {word[0]} and ends with {word[-1]}.",
        )))  # fmt: skip
    return draw.pick(("", "Spelling\n")) + "\n".join(lines)


def calendar(draw, world) -> str:
    lines = []
    for _ in range(draw.between(3, 5)):
        names, what = draw.pick(((DAYS, "day"), (MONTHS, "month")))
        i = draw.below(len(names))
        now, then = names[i], names[(i + 1) % len(names)]
        lines.append(draw.pick((
            f"After {now} comes {then}.",
            f"The {what} before {then} is {now}.",
            f"If it is {now} now, {then} comes next.",
            f"{then} is the {what} that follows {now}.",
        )))  # fmt: skip
    town = draw.pick(world.towns)
    lines.append(
        draw.pick((f"In {town.month} there is a fair in {town.name}.", f"{town.name} has its fair in {town.month}."))
    )
    return " ".join(lines)


def journey(draw, world) -> str:
    """Somebody walks over two roads; the miles are added."""
    p = draw.pick(world.people)
    one = p.town
    two = draw.pick(one.roads)
    three = draw.pick(two.roads)
    first, second = one.miles(two), two.miles(three)
    lines = [
        f"{p.name} lives in {one.name} and travels {draw.pick(('on foot', 'by cart', 'on a horse', 'with a friend'))}.",
        f"The road to {two.name} goes {one.direction(two)} and is {count(first, 'mile')} long.",
    ]
    if three is one:
        lines.append(f"From there {p.he} goes back to {one.name}, another {count(second, 'mile')}.")
    else:
        lines.append(f"From there it is {count(second, 'mile')} to the {two.direction(three)} to {three.name}.")
    lines.append(f"{first} + {second} = {first + second}, so the whole way is {count(first + second, 'mile')}.")
    if draw.chance(0.5):
        lines.append(f"In {three.name} {p.he} eats {plural(p.food.name)}, {p.his} favorite food.")
    return " ".join(lines)


SUMS = (sums_page, shopping, shopping, compare, spelling, spelling, calendar, journey)
