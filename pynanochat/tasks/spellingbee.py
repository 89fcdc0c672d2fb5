"""Letters: SimpleSpelling spells a word, SpellingBee counts a letter in one, by hand and then with the tool.

    bee = open_spelling("SpellingBee", "train", where)
    bee[0]    "How many times is r in strawberry?" -> spells it, keeps count letter by letter, calls
              'strawberry'.count('r') and ends in "#### 3"

Items are made when they are asked for, from the seed and their number. Letters mostly stand behind a space, and the
answer writes the word in quotes before it spells it: they are the same tokens in the spelling, in the count and in the
call of the tool, so that a small model need only copy.
No answer is right for half of the questions, so that guessing does not pay.

The words are those of the pretraining text (words.py). A tenth of them is asked about only in the SpellingBee test
(SimpleSpelling trains to spell them, so that the test is about counting), another tenth only in the SimpleSpelling
test, and nothing trains on these.
"""

import hashlib
import json
from zlib import crc32

from pynanochat.data.toyworld import Draw
from pynanochat.tasks.base import Task, TaskData
from pynanochat.tasks.gsm8k import final_number, said
from pynanochat.tasks.words import part, word_list

SIZES = {"SpellingBee": 80_000, "SimpleSpelling": 200_000}  # of training; a mixture takes what it wants of them
TEST_SIZE = 256
ALPHABET = "abcdefghijklmnopqrstuvwxyz"
NUMBERS = {"train": 1, "val": 2, "test": 3}

COUNTING = (
    "How many times is {letter} in {word}?",
    "How many {letter} are in {word}?",
    "How many {letter} does {word} have?",
    "How many {letter} are there in the word {word}?",
    "How often does {letter} appear in {word}?",
    "How often does the letter {letter} occur in the word {word}?",
    "How many times does the letter {letter} stand in {word}?",
    "How many letters {letter} are in {word}?",
    "What is the number of {letter} in {word}?",
    "Count the {letter} in {word}.",
    "Count how many times {letter} comes up in {word}.",
    "Please count the letter {letter} in the word {word}.",
    "Tell me how many {letter} {word} has.",
    "Tell me how often {letter} is in the word {word}.",
    "Can you count the {letter} in {word}?",
    "In the word {word}, how many {letter} are there?",
    "In {word}, how often do you see {letter}?",
    "Look at the word {word}. How many {letter} do you find in it?",
    "I wonder how many {letter} are in {word}. Do you know?",
    "{word}: how many {letter}?",
    "Number of {letter} in {word}?",
    "If you write down {word}, how many {letter} do you write?",
)
SPELLING = (
    "Spell {word}.",
    "Spell the word {word}.",
    "How do you spell {word}?",
    "How is {word} spelled?",
    "How is the word {word} written, letter by letter?",
    "Please spell {word} for me.",
    "Can you spell {word}?",
    "Write {word} letter by letter.",
    "What are the letters of {word}?",
    "Which letters make the word {word}?",
    "Take the word {word} apart into its letters.",
    "List the letters of {word} in order.",
)
QUOTES = ("{}", "{}", "{}", "'{}'", '"{}"')


def spelled(word: str) -> str:
    """In quotes, so that the tokens of the word are those that a call of the tool repeats."""
    return f"The letters of '{word}': {', '.join(word)}"


def counted(word: str, letter: str) -> list[dict]:
    """The answer as parts: spelled, counted line by line, verified with the tool."""
    lines, count = [], 0
    for each in word:
        count += each == letter
        lines.append(f"- {each} {'yes' if each == letter else 'no'} {count}")
    by_hand = "\n".join([spelled(word), *lines])
    return [
        {"type": "text", "text": f"{by_hand}\nThat makes {count}. The tool says "},
        {"type": "python", "text": f"'{word}'.count('{letter}')"},
        {"type": "python_output", "text": str(count)},
        {"type": "text", "text": f".\n#### {count}"},
    ]


def letters(draw: Draw, word: str, n: int) -> list[str]:
    """n different letters to count in a word. Half of those asked about in a word with double letters are double."""
    piles = (
        sorted({letter for letter in word if word.count(letter) > 1}),
        sorted({letter for letter in word if word.count(letter) == 1}),
        [letter for letter in ALPHABET if letter not in word],
    )
    weights, found = ((0, 0, 1, 2) if piles[0] else (1, 2)), []
    while len(found) < n:
        pile = piles[draw.pick(weights)]
        if pile:
            found.append(pile.pop(draw.below(len(pile))))
    return found


class Letters(Task):
    """What both tasks share: `size` items about `words`, each made from the seed, the split and its number."""

    kind = "generate"

    def __init__(self, words: list[str], size: int, seed: int, split: str):
        self.words, self.size, self.seed, self.split = words, size, seed, split

    def __len__(self) -> int:
        return self.size

    def draw(self, index: int) -> Draw:
        if not 0 <= index < self.size:
            raise IndexError(f"item {index} of {self.size}")
        return Draw(((self.seed & (1 << 64) - 1) << 34) | (NUMBERS[self.split] << 32) | index)

    def word(self, draw: Draw, index: int) -> str:
        """In training any; in a test each in turn."""
        return draw.pick(self.words) if self.split == "train" else self.words[index % len(self.words)]

    def hash(self) -> str:
        """A SHA-256 (hex) of what determines the items."""
        first = [self[index] for index in range(min(3, self.size))]
        facts = [self.name, self.words, self.size, self.seed, self.split, COUNTING, SPELLING, first]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


class SpellingBee(Letters):
    """How often a letter stands in a word: one of its letters, or now and then any."""

    name = "SpellingBee"
    max_tokens = 256  # the longest word, byte by byte, takes 245

    def __getitem__(self, index: int) -> dict:
        draw = self.draw(index)
        word = self.word(draw, index)
        letter = self.letter(draw, word, index)
        asked = draw.pick(COUNTING)
        asked = asked.format(letter=draw.pick(QUOTES).format(letter), word=draw.pick(QUOTES).format(word))
        return {
            "messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": counted(word, letter)}],
            "key": f"count {letter} in {word}",
        }

    def letter(self, draw: Draw, word: str, index: int) -> str:
        """Any in training; in a test another one each time that the word comes round."""
        if self.split == "train":
            return letters(draw, word, 1)[0]
        seed = crc32(f"{self.seed} {self.split} {word}".encode())
        return letters(Draw(seed), word, index // len(self.words) % len(ALPHABET) + 1)[-1]

    def grade(self, conversation: dict, answer: str) -> bool:
        """Whether the number after `####` is right."""
        return final_number(answer) == final_number(said(conversation["messages"][-1]["content"]))


class SimpleSpelling(Letters):
    """The letters of a word."""

    name = "SimpleSpelling"
    max_tokens = 96

    def __getitem__(self, index: int) -> dict:
        draw = self.draw(index)
        word = self.word(draw, index)
        asked = draw.pick(SPELLING).format(word=draw.pick(QUOTES).format(word))
        return {
            "messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": spelled(word)}],
            "key": f"spell {word}",
        }

    def grade(self, conversation: dict, answer: str) -> bool:
        """Whether the letters after the colon are the word's, in order."""
        wanted, given = (
            text.rpartition(":")[2].strip().rstrip(".") for text in (conversation["messages"][-1]["content"], answer)
        )
        return given == wanted


def open_spelling(name: str, split: str, where: TaskData) -> Letters:
    """The task "SpellingBee" or "SimpleSpelling"; its validation asks other questions about the test's words."""
    words = word_list(where)
    size = SIZES[name] if split == "train" else TEST_SIZE
    if name == "SpellingBee":
        return SpellingBee(part(words, "train" if split == "train" else "bee"), size, where.seed, split)
    words = part(words, "train") + part(words, "bee") if split == "train" else part(words, "simple")
    return SimpleSpelling(words, size, where.seed, split)
