"""The words of the toy world: names, jobs, foods, goods, animals, and the few rules of English its text needs."""

from typing import NamedTuple


def spread(text: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(text.split())


WOMEN = spread("""
    Ada Alma Anna Bella Bera Clara Cora Dora Edith Ella Elsa Emma Erin Eva Faye Flora Freya Gerda Gina Greta Hanna
    Hazel Helen Ida Ines Iris Ivy Jane Jill Kara Kate Kira Lara Laura Lena Lily Lisa Lucy Luna Mabel Maria
    Marta Mary Maya Mia Mira Molly Nadia Nell Nina Nora Olga Olive Paula Petra Pia Polly Rita Rosa Ruby Ruth
    Sally Sara Selma Sofia Stella Susan Tara Tessa Thea Tilda Tina Uma Vera Viola Wanda Willa Zara Zoe
""")
MEN = spread("""
    Abel Adam Alan Albert Anton Arlo Basil Ben Boris Bruno Carl Casper Cyril Dan David Dean Edgar Edwin Emil Eric
    Ernest Felix Finn Frank Fred George Gilbert Gus Hans Harry Henry Hugo Igor Ivan Jack Jacob James Jasper Joel
    John Jonas Karl Kurt Lars Leo Leon Levi Louis Lucas Luke Marco Martin Max Milo Nathan Ned Noah Oliver Oscar
    Otto Owen Paul Peter Philip Ralph Rex Robin Roger Rolf Rory Sam Simon Stan Steven Theo Thomas Tim Tobias Tom
    Victor Walter Wilmer
""")
TOWN_HEADS = spread("""
    Ash Bell Birch Brook Clover Cold Deer East Elm Fair Fern Fox Glen Gold Gray Green Hazel Hill Honey Iron King
    Lake Long Maple Mill Moss North Oak Otter Pine Plum Raven Red River Rose Salt Sand Silver South Spring Star
    Stone Sun Swan Thorn West White Wind Winter Wolf
""")
TOWN_TAILS = spread("""
    bank bridge brook bury dale field ford gate ham haven hill hollow mouth port ridge side stead ton vale well wick
    wood
""")
PET_NAMES = spread("""
    Amber Bandit Biscuit Blossom Bobbin Bramble Bubbles Buttons Caramel Chestnut Cinder Cinnamon Clove Comet Cookie
    Copper Cricket Crumble Daisy Dandy Dusty Ember Fidget Flicker Fluff Ginger Gizmo Goldie Hazelnut Honey Inky
    Jasmine Jelly Jumper Lucky Marble Marigold Mittens Mocha Muffin Nibbles Noodle Nutmeg Oats Paddle Patch
    Peaches Peanut Pebbles Pepper Pickle Pippin Poppy Pudding Puzzle Raisin Ranger Ribbon Rocket Rusty Scamper
    Shadow Smoky Snowball Socks Sparky Speckle Sprout Sunny Tangle Teasel Thimble Thistle Tiger Toffee Truffle Tulip
    Twig Velvet Waffle Whisker Widget Ziggy
""")
SOUNDS = spread("""
    ba be bo da de do fa fi ga go ha jo ka ke ki la le li lo ma me mi mo na ne ni no pa pe ra re ri ro sa se si ta
    te ti to va vi wa ya za zo
""")


class Job(NamedTuple):
    """A trade. does, did: what the worker does, after a name; tool: what it takes; place: where it is done."""

    name: str
    does: str
    did: str
    tool: str
    place: str


JOBS = [
    Job(*line.split(", "))
    for line in """
baker, bakes bread, baked bread, a hot oven, at the bakery
farmer, grows wheat, cut the wheat, a sharp scythe, on the farm
fisher, catches fish, caught three fish, a long net, in the little harbor
miller, grinds corn, ground a sack of corn, a heavy millstone, at the mill
smith, makes horseshoes, made a new horseshoe, a big hammer, at the forge
potter, makes clay pots, made a clay pot, a turning wheel, in the pottery
tailor, sews coats, sewed a warm coat, a fine needle, in the sewing room
weaver, weaves cloth, wove a piece of cloth, a wooden loom, in the weaving house
carpenter, builds tables, built a strong table, a sharp saw, in the workshop
teacher, teaches children to read, taught the children a new word, a piece of chalk, at the school
doctor, helps sick people, helped a sick child, a bag of medicine, in the small hospital
nurse, cares for sick people, cared for an old woman, a roll of bandages, in the small hospital
gardener, plants flowers, planted a row of flowers, a green watering can, in the garden
shepherd, watches over the sheep, counted all the sheep, a long stick, on the hillside
sailor, sails a boat, sailed across the water, a strong rope, in the harbor
painter, paints pictures, painted a picture of the sea, a soft brush, in the bright attic
cook, cooks soup for the guests, cooked a pot of soup, a wide pan, in the inn kitchen
librarian, lends out books, lent a book to a boy, a list of all the books, in the library
beekeeper, looks after the bees, filled ten jars with honey, a smoke can, in the bee garden
postman, carries letters, carried a bag of letters, a leather bag, at the post office
clockmaker, mends clocks, mended an old clock, a tiny screwdriver, in the clock shop
shoemaker, makes boots, made a pair of boots, a round knife, in the shoe shop
musician, plays the violin, played a slow song, an old violin, in the music hall
builder, builds houses, built a stone wall, a bucket of mortar, at the building site
vet, heals animals, healed a lame horse, a kind hand, in the animal clinic
guard, guards the gate, guarded the gate all night, a bright lamp, at the town gate
singer, sings old songs, sang an old song, a clear voice, in the theater
innkeeper, runs the inn, made up all the beds, a ring of keys, at the inn
basket maker, weaves baskets, wove a round basket, a bundle of willow, in the basket shop
candle maker, makes candles, made twenty candles, a pot of warm wax, in the candle shop
""".strip().splitlines()
]

REPAIRS = {  # what went wrong, for the trades that can mend it
    "carpenter": "the old table broke", "builder": "the garden wall fell down", "clockmaker": "the big clock stopped",
    "shoemaker": "there was a hole in both boots", "tailor": "the best coat was torn",
    "smith": "the horse lost a shoe", "doctor": "there was a bad cough in the house",
    "nurse": "somebody fell from a ladder", "baker": "there was no bread left",
    "candle maker": "the last candle burned down", "potter": "the soup pot broke",
    "basket maker": "the bottom fell out of the basket", "weaver": "the blanket was full of holes",
    "gardener": "the roses had no leaves", "vet": "the horse could not walk", "painter": "the door lost its color",
    "beekeeper": "a cloud of bees sat in the tree", "postman": "a letter was lost",
    "guard": "a stranger knocked in the night", "miller": "the flour was all used up",
    "cook": "thirty hungry guests came at once", "fisher": "the guests wanted fish for dinner",
    "librarian": "nobody could find the old map",
}  # fmt: skip
HOBBIES = [  # after "likes to"; the -ing form; the past tense
    tuple(line.split(", "))
    for line in """
paint, painting, painted
swim, swimming, swam
read, reading, read
dance, dancing, danced
fly kites, flying kites, flew kites
play chess, playing chess, played chess
climb trees, climbing trees, climbed trees
collect stones, collecting stones, collected stones
sing, singing, sang
bake cakes, baking cakes, baked cakes
ride horses, riding horses, rode horses
watch birds, watching birds, watched birds
play the flute, playing the flute, played the flute
tell stories, telling stories, told stories
knit, knitting, knitted
row a boat, rowing a boat, rowed a boat
look at the stars, looking at the stars, looked at the stars
carve wood, carving wood, carved wood
grow roses, growing roses, grew roses
play ball, playing ball, played ball
write poems, writing poems, wrote poems
beat the drum, beating the drum, beat the drum
""".strip().splitlines()
]

FOODS = {  # singular: plural (equal for what is not counted), taste, amount in which one buys it
    "apple": ("apples", "sweet", "an apple"),
    "pear": ("pears", "soft", "a pear"),
    "plum": ("plums", "sweet", "a plum"),
    "cherry pie": ("cherry pies", "sweet", "a cherry pie"),
    "pancake": ("pancakes", "warm", "a pancake"),
    "bean soup": ("bean soup", "salty", "a bowl of bean soup"),
    "carrot": ("carrots", "fresh", "a carrot"),
    "honey cake": ("honey cakes", "sweet", "a honey cake"),
    "cheese": ("cheese", "strong", "a piece of cheese"),
    "egg": ("eggs", "soft", "an egg"),
    "nut": ("nuts", "hard", "a nut"),
    "rice": ("rice", "plain", "a bowl of rice"),
    "fish pie": ("fish pies", "salty", "a fish pie"),
    "mushroom": ("mushrooms", "soft", "a mushroom"),
    "potato": ("potatoes", "plain", "a potato"),
    "strawberry": ("strawberries", "sweet", "a strawberry"),
    "bread roll": ("bread rolls", "fresh", "a bread roll"),
    "noodle soup": ("noodle soup", "hot", "a bowl of noodle soup"),
    "lemon tart": ("lemon tarts", "sour", "a lemon tart"),
    "chocolate": ("chocolate", "sweet", "a bar of chocolate"),
    "onion": ("onions", "strong", "an onion"),
    "orange": ("oranges", "fresh", "an orange"),
}
COLORS = ["red", "blue", "green", "yellow", "white", "black", "brown", "gray", "orange", "purple", "pink", "golden"]
THING_HEADS = spread("""
    moon star river winter summer storm forest harbor mountain garden market travel night morning feather acorn
    shell thunder rain snow clover meadow lucky little
""")
THING_TAILS = {  # what it may be made of
    "lantern": "glass copper iron paper", "drum": "wood leather copper", "kite": "paper silk", "basket": "straw wood",
    "bell": "silver copper iron glass", "hat": "straw wool leather silk", "cup": "clay glass silver wood copper",
    "blanket": "wool silk cotton", "whistle": "wood silver clay", "mirror": "glass silver", "chest": "wood iron",
    "ladder": "wood iron rope", "clock": "wood silver iron", "boat": "wood paper", "flute": "wood silver glass",
    "doll": "wood clay cotton straw", "spoon": "wood silver iron", "kettle": "copper iron",
    "umbrella": "silk paper cotton", "scarf": "wool silk cotton", "chair": "wood straw iron",
    "lamp": "glass copper clay", "puppet": "wood cotton paper", "wheel": "wood iron stone",
    "box": "wood paper leather", "bottle": "glass clay leather", "ring": "silver copper glass",
    "mask": "wood leather paper", "rope": "straw silk cotton", "vase": "glass clay stone", "comb": "wood silver",
    "broom": "straw wood", "bench": "wood stone", "coat": "wool leather", "pipe": "wood clay",
    "crown": "paper silver glass",
}  # fmt: skip
ANIMALS = {  # what such an animal does
    "cat": "purrs when it is happy", "dog": "barks at strangers", "rabbit": "has long ears",
    "parrot": "can learn to talk", "goat": "climbs on rocks", "duck": "swims well", "hen": "lays eggs",
    "pony": "is a small horse", "mouse": "is very small", "turtle": "walks slowly", "owl": "flies at night",
    "hamster": "sleeps all day", "donkey": "carries heavy bags", "lamb": "is a young sheep",
}  # fmt: skip
PET_LIKES = (
    "warm milk", "fresh grass", "old cheese", "sweet carrots", "the sunny window", "the big oak tree",
    "the soft red cushion",
    "the kitchen stove", "muddy puddles", "the garden wall", "bits of string", "the wooden bridge", "falling leaves",
    "the hay in the barn", "cool water", "music",
)  # fmt: skip
WATERS = (
    "on a slow river", "on a quick river", "by a deep lake", "by the sea", "at the foot of a mountain",
    "on a green hill",
    "in a wide valley", "at the edge of a forest", "on a small island", "beside a waterfall",
)  # fmt: skip
SEASONS = ("spring", "summer", "autumn", "winter")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = spread("""
    January February March April May June July August September October November December
""")

ONES = spread("""
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen
""")
TENS = ["zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]


def in_words(n: int) -> str:
    """A number from 0 to 999,999 in English words."""
    if n < 20:
        return ONES[n]
    if n < 100:
        return TENS[n // 10] + (f"-{ONES[n % 10]}" if n % 10 else "")
    if n < 1000:
        return f"{ONES[n // 100]} hundred" + (f" and {in_words(n % 100)}" if n % 100 else "")
    rest = n % 1000
    return f"{in_words(n // 1000)} thousand" + (f"{' and' if rest < 100 else ''} {in_words(rest)}" if rest else "")


def a(noun: str) -> str:
    """The noun with its indefinite article; no noun of the toy world has a silent h or a spoken `you`."""
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def count(n: int, noun: str, many: str | None = None) -> str:
    """`one coin`, `three coins`: the number in words with the right form of the noun."""
    return f"{in_words(n)} {noun if n == 1 else many or plural(noun)}"


def plural(noun: str) -> str:
    """The plural of a noun of the toy world."""
    if noun in FOODS:
        return FOODS[noun][0]
    if noun == "mouse":
        return "mice"
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


def listed(items: list[str]) -> str:
    """`A`, `A and B`, `A, B and C`."""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def capital(text: str) -> str:
    """The text with its first letter large."""
    return text[:1].upper() + text[1:]
