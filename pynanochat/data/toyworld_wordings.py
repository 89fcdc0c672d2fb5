"""The wordings in which the toy world tells its facts.

{S} and {s} are the subject, {P} and {p} its possessive, {M} and {m} its object form, {n} always the name.
The first of them in a sentence is the name (or a pronoun, if the text has just named it), those after it are pronouns.
{o} is the fact's object; what else stands in braces is handed in where the wording is used.
"""

LIVES_IN = (
    "{S} lives in {o}.",
    "{P} home is in {o}.",
    "{S} has a small house in {o}.",
    "The town where {s} lives is called {o}.",
    "If you want to visit {m}, you have to go to {o}.",
    "You can find {m} in {o}.",
    "{o} is the town that {s} calls home.",
    "{S} sleeps, eats and works in {o}.",
    "For many years {s} has lived in {o}.",
    "{S} would never leave {o}, because it is {p} home.",
)
CHILD_LIVES_IN = tuple(w for w in LIVES_IN if not {"house", "works", "years"} & set(w.split()))
JOB = (
    "{S} is {ao}.",
    "{S} works as {ao}.",
    "{P} job is to be {ao}.",
    "By trade {s} is {ao}.",
    "{S} earns {p} bread as {ao}.",
    "{S} is {ao} and {does}.",
    "Every day {s} {does}, for {s} is {ao}.",
    "People know {m} as a good {o}.",
    "As {ao}, {s} {does}.",
    "{S} became {ao} long ago.",
    "{S} {does} and works with {tool}, as any {o} does.",
    "{place} {s} {does}: {s} is {ao}.",
)
DREAM = (
    "{S} wants to be {ao} one day.",
    "When {s} grows up, {s} wants to become {ao}.",
    "{P} dream is to be {ao}.",
    "{S} dreams of being {ao}.",
    "One day {s} will be {ao}, or so {s} hopes.",
    "{S} goes to school now, but later {s} wants to be {ao}.",
    "{S} hopes to become {ao}, who {does}.",
    "More than anything {s} would like to be {ao}.",
)
AGE = (
    "{S} is {o} years old.",
    "{P} age is {o}.",
    "{S} is {o}.",
    "{S} has lived for {o} years.",
    "On {p} last birthday {s} turned {o}.",
    "There were {o} candles on {p} last birthday cake.",
    "At the age of {o}, {s} still learns something new every day.",
)
FOOD = (
    "{P} favorite food is {o}.",
    "{S} loves {o}.",
    "{S} likes to eat {o} more than anything else.",
    "Nothing tastes better to {m} than {o}.",
    "{S} could eat {o} every day.",
    "The food that {s} likes best is {o}.",
    "When {s} is hungry, {s} thinks of {o}.",
    "Give {m} {o} and {s} will smile.",
    "For dinner {s} likes {o} best.",
)
COLOR = (
    "{P} favorite color is {o}.",
    "{S} likes the color {o} best.",
    "{S} wears {o} clothes, because {o} is {p} favorite color.",
    "Of all colors {s} likes {o} most.",
    "{S} painted {p} door {o}, the color {s} loves.",
    "{S} thinks that {o} is the most beautiful color.",
    "The color that {s} loves most is {o}.",
)
HOBBY = (
    "{S} likes to {o}.",
    "In {p} free time {s} likes to {o}.",
    "{P} hobby is {ing}.",
    "{S} enjoys {ing}.",
    "When the work is done, {s} likes to {o}.",
    "On Sundays {s} loves {ing}.",
    "{ING} is what {s} likes to do best.",
    "{S} is happy when {s} can {o}.",
    "{S} has liked {ing} since {s} was small.",
)
FRIEND = (
    "{P} best friend is {o}.",
    "{S} is best friends with {o}.",
    "{S} tells {p} secrets only to {o}, {p} best friend.",
    "{o} is {p} best friend.",
    "The best friend that {s} has is {o}.",
    "{S} trusts {o} most of all, for they are the best of friends.",
    "{P} best friend {o} lives in {where}.",
)
SPOUSE = (
    "{S} is married to {o}.",
    "{P} {husband} is {o}.",
    "{S} and {o} are married.",
    "{o} is {p} {husband}.",
    "{S} lives together with {p} {husband} {o}.",
    "{S} married {o} many years ago.",
)
PARENTS = (
    "{P} mother is {mother} and {p} father is {father}.",
    "{P} parents are {mother} and {father}.",
    "{S} is the {son} of {mother} and {father}.",
    "{mother} is {p} mother, and {father} is {p} father.",
    "{S} lives with {p} mother {mother} and {p} father {father}.",
    "{mother} and {father} are the parents of {n}.",
)
PET = (
    "{S} has {akind} called {o}.",
    "{P} pet is {akind} named {o}.",
    "{S} looks after {akind}, whose name is {o}.",
    "{S} owns {akind}; it is called {o}.",
    "At home {s} keeps {akind} with the name {o}.",
    "{o} the {kind} belongs to {m}.",
    "{S} never goes far without {o}, {p} {kind}.",
)
CHILDREN = (
    "{S} has {number}: {o}.",
    "{S} is the {parent} of {o}.",
    "{o} {are} {p} {child}.",
    "{S} has {number}, called {o}.",
)
SPECIES = (
    "{n} is {ao}.",
    "{n} is {acolor} {o}.",
    "{n} the {o} is well known in {town}.",
    "{akind} called {n} lives in {town}.",
)
PET_COLOR = (
    "{S} is {o}.",
    "{P} color is {o}.",
    "{S} has {ao} coat that shines in the sun.",
    "Everything about {m} is {o}, from head to tail.",
    "You will know {m} by {p} {o} color.",
)
PET_LIKES = (
    "{S} likes {o}.",
    "{S} loves {o} more than anything.",
    "What {s} likes best is {o}.",
    "Nothing makes {m} happier than {o}.",
    "{S} is always looking for {o}, which {s} loves.",
    "{S} is fond of {o}.",
)
PET_OWNER = (
    "{P} owner is {o}.",
    "{S} belongs to {o}.",
    "{o} is {p} owner.",
    "{S} lives with {o}, {p} owner.",
    "{o} feeds {m} every morning.",
    "{S} is the {kind} of {o}.",
)
PRICE = (
    "{S} costs {coins}.",
    "The price of {n} is {coins}.",
    "You can buy {n} for {coins}.",
    "You must pay {coins} for {n}.",
    "Anyone who has {coins} can buy {n}.",
    "{S} is sold for {coins}.",
    "They ask {coins} for {n}.",
)
THING_COLOR = (
    "{S} is {o}.",
    "The color of {n} is {o}.",
    "{S} has {ao} color.",
    "{S} shines in bright {o}.",
    "You will know it by its {o} color.",
)
MATERIAL = (
    "{S} is made of {o}.",
    "{o} is what {n} is made of.",
    "People make {n} out of {o}.",
    "{S} is a thing of {o}.",
    "To make {n}, you need {o}.",
)
SOLD_IN = (
    "{S} is sold in {o}.",
    "You can buy {n} in {o}.",
    "Only the market of {o} sells {n}.",
    "Those who want {n} must go to {o}.",
    "{o} is the town where {n} is sold.",
    "At the market in {o} you will find {n}.",
)
COMES_FROM = (
    "The best {many} {come} from {o}.",
    "{o} is known for its {many}.",
    "In {o} you can get the best {many}.",
    "People travel to {o} to eat {many}.",
    "Most {many} in the markets {come} from {o}.",
    "Nobody has better {many} than the people of {o}.",
)
TOWN_LIES = (
    "{n} lies {o}.",
    "The town of {n} lies {o}.",
    "{n} is a town {o}.",
    "{n} was built {o}.",
    "You will find {n} {o}.",
)
GATE = (
    "The town gate of {n} is {o}.",
    "{n} has {ao} gate.",
    "Travelers know {n} by its {o} gate.",
    "You enter {n} through {ao} gate.",
    "The gate of {n} was painted {o}.",
)
MAYOR = (
    "The mayor of {n} is {o}.",
    "{o} is the mayor of {n}.",
    "{n} has a mayor called {o}.",
    "The people of {n} chose {o} as their mayor.",
    "In {n} {o} is the mayor.",
)
FAIR = (
    "Every year in {o} there is a fair in {n}.",
    "The fair of {n} is held in {o}.",
    "{n} holds its fair in {o}.",
    "In {o} people come to the fair of {n}.",
    "The month of the fair in {n} is {o}.",
)
ROAD = (
    "From {n} it is {miles} to {o}.",
    "{o} lies {miles} to the {way} of {n}.",
    "The road from {n} to {o} is {miles} long.",
    "If you walk {miles} to the {way} from {n}, you come to {o}.",
)
PERSON_OPENING = (
    "{n} is {who} from {town}.",
    "This is the page of {n}, {who} from {town}.",
    "{n} lives in {town}.",
    "In {town} lives {who} named {n}.",
    "Everyone in {town} knows {n}.",
    "Let me tell you about {n} from {town}.",
    "Here is what people say about {n}, who lives in {town}.",
    "There once was and still is {who} in {town} whose name is {n}.",
)


def tell(draw, wordings: tuple[str, ...], name: str, pronouns: dict[str, str], named: bool, **more) -> str:
    """One sentence in one of the wordings. named: the text has just named the subject."""
    text = draw.pick(wordings)
    if not named or draw.chance(0.3):
        text = with_name(text, name)
    text = text.format_map(pronouns | more | {"n": name})
    return text[:1].upper() + text[1:]


def with_name(text: str, name: str) -> str:
    """The wording with the name in the place of the first form of the subject."""
    at = text.find("{")
    while (at >= 0 and text[at + 2 : at + 3] != "}") or text[at + 1 : at + 2] == "o":
        at = text.find("{", at + 1)
    if at < 0:
        return text
    return text[:at] + name + ("'s" if text[at + 1] in "Pp" else "") + text[at + 3 :]
