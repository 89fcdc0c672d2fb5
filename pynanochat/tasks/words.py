"""The words that are spelled: frequent lower-case words of the text that the model was pretrained on.

words = word_list(where)            # sorted; counted once in a process, in a bounded piece of the text
part(words, "bee")                  # the words that only the SpellingBee test asks about
"""

import re
from collections import Counter
from functools import lru_cache
from itertools import islice
from zlib import crc32

from pynanochat.errors import DataError
from pynanochat.tasks.base import TaskData

CHARACTERS = 8_000_000  # of text that are counted
TOY_DOCUMENTS = 2_000
MOST_WORDS = 20_000
FEWEST_TIMES = 3  # a word is seen; a rarer one may be a misprint
FEWEST_WORDS = 40
_WORD = re.compile(r"(?<![\w'’])[a-z]{3,12}(?![\w'’])")


@lru_cache(maxsize=4)
def word_list(where: TaskData) -> tuple[str, ...]:
    """Up to MOST_WORDS words of 3 to 12 letters a to z. Raises DataError where the text has too few."""
    counts: Counter[str] = Counter()
    left = CHARACTERS
    for text in texts(where):
        counts.update(_WORD.findall(text[:left]))
        left -= len(text)
        if left <= 0:
            break
    often = sorted(((-n, word) for word, n in counts.items() if n >= FEWEST_TIMES))[:MOST_WORDS]
    if len(often) < FEWEST_WORDS:
        raise DataError(
            f"--data {where.data}: {len(often)} words to spell in the pretraining text, {FEWEST_WORDS} are needed; "
            "add English text, or leave SpellingBee and SimpleSpelling out of --tasks"
        )
    return tuple(sorted(word for _, word in often))


def can_spell(where: TaskData) -> bool:
    """Whether a folder's pretraining text has words enough."""
    if not (where.folder / "pretrain").is_dir():
        return False
    try:
        return len(word_list(where)) > 0
    except DataError:
        return False


def texts(where: TaskData):
    """The pretraining documents, from the first on."""
    if where.data == "toyworld":
        if where.world is None:
            raise ValueError("the toy world's words need TaskData(world=...)")
        return (text for _, text in islice(where.world.documents("train"), TOY_DOCUMENTS))
    from pynanochat.data.sources import open_source

    return open_source(where.data, cache_dir=where.cache_dir or None, shards=1).texts("train")


def part(words: tuple[str, ...], name: str) -> list[str]:
    """One of three parts of the words: a tenth is "bee", a tenth "simple", the others are "train"."""
    return [word for word in words if {0: "bee", 1: "simple"}.get(crc32(word.encode()) % 10, "train") == name]
