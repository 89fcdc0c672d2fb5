"""Who the assistant is: conversations from the user's file, or made from a name and a paragraph without a network.

    identity("", "train", seed=0)                  # --identity not given: the default name and paragraph
    identity("me.jsonl", "train")                  # conversations in any form that data/chat_files.py knows
    identity("me.txt", "train")                    # first line the name, below it a paragraph in the first person
    generated("Ada", "I was made by Grace. I like ships.", count=1000)

One in twenty is for validation.
"""

from pathlib import Path

from pynanochat.data.chat_files import ChatFile
from pynanochat.data.mixture import Part, content_hash
from pynanochat.data.toyworld import Draw
from pynanochat.errors import DataError
from pynanochat.tasks.base import Task, TaskData

NAME = "Pynanochat"
PARAGRAPH = (
    "I am a small language model. I was trained from raw text by pynanochat, an open program that does everything from "
    "the tokenizer to the chat on one machine. I can talk a little, spell words, and do sums with a calculator. I know "
    "only what was in my training text, and I cannot look anything up. I make mistakes, so please check what I say."
)
COUNT = 1052  # of which a thousand are trained on
FEWEST, MOST = 200, 1052  # different conversations that any name and paragraph give
HOLD_OUT = 20
LONGEST_NAME, LONGEST_PARAGRAPH = 60, 4000

GREETINGS = ("", "", "", "Hi! ", "Hello. ", "Hey, ", "Good morning. ", "Good evening! ", "Excuse me, ", "Hello there! ")
WHO = (
    "who are you?", "what are you?", "who am I talking to?", "what is your name?", "what should I call you?",
    "do you have a name?", "introduce yourself.", "please introduce yourself.", "can you tell me who you are?",
    "could you say who you are?", "may I ask your name?", "who is this?", "what are you called?", "tell me your name.",
)  # fmt: skip
ABOUT = (
    "tell me about yourself.", "what can you tell me about yourself?", "describe yourself.", "say something about you.",
    "what kind of assistant are you?", "what are you exactly?", "what should I know about you?",
    "I would like to know more about you.", "explain what you are.", "tell me a bit about {name}.",
    "who is {name}?", "what is {name}?", "what do you know about {name}?", "tell me who {name} is.",
)  # fmt: skip
ONE_THING = (
    "tell me one thing about yourself.", "what is one thing I should know about you?", "say one sentence about you.",
    "give me one fact about you.", "describe yourself in one sentence.", "what is special about you?",
)  # fmt: skip
ARE_YOU = (
    "are you {name}?", "is your name {name}?", "you are {name}, right?", "am I talking to {name}?",
    "{name}, is it you?", "so you are {name}?",
)  # fmt: skip
OTHERS = ("ChatGPT", "Claude", "Gemini", "Siri", "Alexa", "Llama", "a human", "a person", "a real person")
OPENERS = ("Hello!", "Hi.", "Hey!", "Good day.", "Hi there!", "Good afternoon.")
NAMED = (
    "I am {name}.",
    "My name is {name}.",
    "You are talking to {name}.",
    "I am called {name}.",
    "{name} is my name.",
)
WELCOMES = ("Hello! How can I help?", "Hi! What can I do for you?", "Hello, nice to meet you.", "Hi there!")


class Identity(Task):
    """Conversations about who the assistant is."""

    name = "Identity"
    kind = "chat"

    def __init__(self, conversations):
        self.conversations = conversations

    def __len__(self) -> int:
        return len(self.conversations)

    def __getitem__(self, index: int) -> dict:
        return self.conversations[index]

    def hash(self) -> str:
        return content_hash(self.conversations)


def open_identity(split: str, where: TaskData) -> Identity:
    return identity(where.identity, split, where.seed)


def identity(file: str, split: str, seed: int = 0) -> Identity:
    """The training or the validation side of `--identity FILE`, or of the default identity. Raises DataError."""
    if file and Path(file).suffix not in (".txt", ".md"):
        conversations = ChatFile(file)
    else:
        name, paragraph = name_and_paragraph(Path(file)) if file else (NAME, PARAGRAPH)
        conversations = generated(name, paragraph, seed=seed)
    held_out = [index % HOLD_OUT == HOLD_OUT - 1 for index in range(len(conversations))]
    return Identity(Part(conversations, [i for i, held in enumerate(held_out) if held == (split != "train")]))


def name_and_paragraph(path: Path) -> tuple[str, str]:
    """(name, paragraph) of a text file."""
    try:
        name, _, paragraph = path.read_text(encoding="utf-8").strip().partition("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--identity {path}: cannot be read as UTF-8 text ({error}); check the file") from None
    if not name.strip() or not paragraph.strip():
        raise DataError(f"--identity {path}: needs a name on the first line and a paragraph below it")
    return name.strip(), paragraph


def generated(name: str, paragraph: str, count: int = COUNT, seed: int = 0) -> list[dict]:
    """`count` different conversations (at most MOST) in which the assistant is `name`, and says of itself what the
    paragraph says. Write it in the first person. Raises DataError for a name or a paragraph of no or too great length.
    """
    name, paragraph = " ".join(name.split()), " ".join(paragraph.split())
    if not 0 < len(name) <= LONGEST_NAME or not 0 < len(paragraph) <= LONGEST_PARAGRAPH:
        raise DataError(
            f"identity {name[:20]!r} with {len(paragraph)} characters: a name has 1 to {LONGEST_NAME} characters and a "
            f"paragraph 1 to {LONGEST_PARAGRAPH}; mend the file of --identity"
        )
    draw, seen, made = Draw(seed & (1 << 64) - 1), set(), []
    while len(made) < min(count, MOST):
        messages = one(draw, name, sentences(paragraph))
        text = "\n".join(messages)
        if text not in seen:
            seen.add(text)
            roles = ("user", "assistant")
            made.append({"messages": [{"role": roles[i % 2], "content": m} for i, m in enumerate(messages)]})
    return made


def sentences(paragraph: str) -> list[str]:
    """The sentences of a paragraph: cut after . ! or ? and a space."""
    for mark in ".!?":
        paragraph = paragraph.replace(f"{mark} ", f"{mark}\n")
    return [line.strip() for line in paragraph.split("\n") if line.strip()]


def one(draw: Draw, name: str, facts: list[str]) -> list[str]:
    """The messages of a conversation, the user's first; a third of them begin with a greeting turn."""
    opening = [draw.pick(OPENERS), draw.pick(WELCOMES)] if draw.chance(0.3) else []
    kind = draw.below(5)
    if kind == 0:
        messages = [question(draw, WHO, name), says(draw, name, draw.some(facts, draw.below(2)))]
    elif kind == 1:
        messages = [question(draw, ABOUT, name), says(draw, name, facts)]
    elif kind == 2:
        messages = [question(draw, ONE_THING, name), draw.pick(facts)]
    elif kind == 3:
        messages = [question(draw, ARE_YOU, name), f"Yes, {says(draw, name, draw.some(facts, 1), start=2)}"]
    else:
        other = draw.pick([other for other in OTHERS if other.lower() != name.lower()])
        messages = [question(draw, (f"are you {other}?",), name), f"No. {says(draw, name, facts[:1])}"]
    if draw.chance(0.25):
        messages += [question(draw, ABOUT if kind != 1 else WHO, name), says(draw, name, facts if kind != 1 else [])]
    return opening + messages


def question(draw: Draw, wordings: tuple[str, ...], name: str) -> str:
    """A question with or without a greeting; now and then all in lower case and without its mark."""
    greeting, asked = draw.pick(GREETINGS), draw.pick(wordings)
    if not greeting.endswith(", "):
        asked = asked[0].upper() + asked[1:]
    asked = (greeting + asked).replace("{name}", name)
    return asked.lower().rstrip("?.") if draw.chance(0.15) else asked


def says(draw: Draw, name: str, facts: list[str], start: int = 0) -> str:
    """The name and some of the facts, in their order in the list. start=2: nothing that begins with My or You."""
    named = draw.pick(NAMED if not start else ("I am {name}.", "I am called {name}."))
    return " ".join([named.replace("{name}", name), *facts])
