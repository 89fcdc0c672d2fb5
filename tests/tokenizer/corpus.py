"""Hostile texts by name, each after what it attacks. Tests run every one against the reference tokenizers."""

import random

from pynanochat.tokenizer import SPECIAL_TOKENS

CONTEXTS = {  # one code point each, where {} stands
    "alone": "{} ",
    "after a letter": "a{}",
    "after a digit": "1{}",
    "between letters": "a{}b ",
    "between a space and a letter": " {}a",
    "after two spaces, before a digit": "  {}1",
    "after a mark": ".{}b",
    "before marks": "{}.,",
    "between newlines": "\n{}\n",
    "before a space and a newline": "{} \n",
    "after an apostrophe": "'{}",
    "inside a contraction": "'l{}x",
    "twice": "{0}{0}1",
}


def code_points(context: str, first: int = 0, last: int = 0x10FFFF) -> str:
    """Every code point that is no surrogate, from `first` to `last`, each in `context`."""
    characters = [chr(c) for c in range(first, min(last, 0x10FFFF) + 1) if not 0xD800 <= c < 0xE000]
    before, _, after = context.replace("{0}{0}", "{}").partition("{}")
    twice = 2 if "{0}{0}" in context else 1
    return "".join(before + c * twice + after for c in characters)


def _soup(seed: int, alphabet: str, length: int) -> str:
    rng = random.Random(seed)
    return "".join(rng.choice(alphabet) for _ in range(length))


_MARKS = "aZ19 '.\t\n\r  sSlLvVeErRtTdDmM\u017f\u212a\u00a0\u3000\u0085\u00e9\u4e2d\u0301\U0001f600\u0660\u2028_-"

HOSTILE = {
    "empty": "",
    "one blank": " ",
    "control characters": "".join(map(chr, [*range(32), 127])),
    "control characters apart": " ".join(map(chr, [*range(32), 127])),
    "special tokens as text": " ".join(SPECIAL_TOKENS) + "".join(SPECIAL_TOKENS) + "<|endoftext|>",
    "contractions": "I'll you've they'RE we'd IT'S 'tis 'Twas can''t 's's's x'S 'ſ a'ſb 'LL 'lL'Ve 'llama 're'",
    "apostrophes in rows": "''s '''s ''''ll 's'' '\n's '\t's  's",
    "apostrophe at the end": "abc '",
    "half contractions at the end": "a'l",
    "digits": "1 12 123 1234 12345 " + "9" * 1001,
    "digits of many scripts": "١٢٣٤ ४५६ ⅷⅸ ²³¹ ㊿㊿㊿ 𝟘𝟙𝟚",
    "marks and newlines": "...\n\n\r\n ...\r\n.\n \n.a \n  b",
    "white space before text": "   a\n  b\n\n   c\t\td \t e\u3000f \u3000g\u00a0h  \u00a0.",
    "white space at the end": "abc   \n\n  ",
    "newlines among blanks": " \n \n  \n   x\n \n",
    "windows of 64": "".join("x" * n + " " for n in range(50, 80)) + "".join(" " * n + "y" for n in range(50, 80)),
    "white space across windows": "".join(
        "a" * n + "\n" + " " * k + ("\n" if k % 2 else "b") for n in range(55, 70) for k in range(12)
    ),
    "contractions across windows": "".join("a" * n + "'ll" + "b" * (n % 3) + " " for n in range(56, 66)),
    "characters across windows": "".join("a" * n + "é中😀" + " " for n in range(55, 70)),
    "combining marks": "e\u0301" * 100 + "\u0301" * 100,
    "zero width and joiners": "👩‍👩‍👧‍👦 a\u200bb\u200dc\ufeffd",
    "the last code points": "\U0010ffff\U0010fffe\ufffe\uffff" * 20,
    "right to left": "שלום עולם مرحبا بالعالم‎ abc",
    "chinese": "中文分詞很有趣。今天天氣真好，我們去公園吧！" * 10,
    "hindi": "नमस्ते दुनिया, यह एक परीक्षण है। १२३४५" * 10,
    "code": "def f(x):\n    if x > 0:\n\n        return {'a': [1, 22, 333]}  # it's\n" * 10,
    "soup": _soup(1, _MARKS, 20_000),
    "soup of white space": _soup(2, " \n\r\t\u00a0a.", 20_000),
    "soup of apostrophes": _soup(3, "'slve re\u017fS.", 20_000),
    "soup of digits": _soup(4, "12٣a ", 20_000),
    "soup of all Unicode": "".join(
        map(chr, (c for c in random.Random(5).choices(range(0x110000), k=20_000) if not 0xD800 <= c < 0xE000))
    ),
}

# A character or word that comes very often in a row: a quadratic merge or split would hang on it.
REPEATED = ["^", "0", "a", "'s", " ", "\n", "\u0301", "\U0010ffff", "é", "中", " \n", "ab", "a ", "\n ", ".\n", "'"]
