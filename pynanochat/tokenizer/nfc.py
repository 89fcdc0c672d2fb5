"""Unicode's composed form (NFC), exactly as Hugging Face `tokenizers` makes it.

`tokenizers` composes by Unicode 9, Python by a later version, which one depends on the interpreter. What later
versions (up to 18) compose or put in order is therefore left as it stands and parts the text.
"""

import itertools
import re
import unicodedata

_LATER = re.compile(
    r"(["
    r"\u05c8\u05c9\u07fd\u0897-\u089f\u08ca-\u08d3\u09fe\u0c3c\u0d3b\u0d3c\u0eba\u1715\u1abf-\u1af0\u1df6-\u1dfa"
    r"\ua82c\U000105c9\U000105d2\U000105da\U000105e4\U00010d24-\U00010d27\U00010d69-\U00010d6d\U00010eab\U00010eac"
    r"\U00010ecb-\U00010ecf\U00010ef0-\U00010efb\U00010efd-\U00010eff\U00010f46-\U00010f50\U00010f82-\U00010f85"
    r"\U00011070\U0001133b\U00011382-\U00011385\U0001138b\U0001138e\U00011390\U00011391\U000113c2\U000113c5"
    r"\U000113c7\U000113c8\U000113ce-\U000113d0\U0001145e\U00011839\U0001183a\U00011935\U00011938\U0001193d"
    r"\U0001193e\U00011943\U000119e0\U00011a34\U00011a47\U00011a99\U00011d42\U00011d44\U00011d45\U00011d97"
    r"\U00011f41\U00011f42\U0001611e\U00016121-\U00016129\U0001612f\U00016d63\U00016d67-\U00016d6a\U00016ff0"
    r"\U00016ff1\U0001d127\U0001d128\U0001d250-\U0001d252\U0001d25b\U0001d25c\U0001d25f\U0001d280\U0001d281"
    r"\U0001e08f\U0001e130-\U0001e136\U0001e2ae\U0001e2ec-\U0001e2ef\U0001e4ec-\U0001e4ef\U0001e5ee\U0001e5ef"
    r"\U0001e6e3\U0001e6e6\U0001e6ee\U0001e6ef\U0001e6f5"
    r"])"
)
_LONG = re.compile(r"[^\w\s\x00-\u02ff]{100,}")  # where combining marks are: Python puts n of them in order in n^2 time


def nfc(text: str) -> str:
    """`text` in composed form."""
    if text.isascii():
        return text
    parts = _LATER.split(_LONG.sub(_in_order, text))
    return "".join(unicodedata.normalize("NFC", part) for part in parts)


def _in_order(run: re.Match) -> str:
    """Combining marks in canonical order, those of later versions staying where they are."""

    def parts(mark: str) -> bool:
        return unicodedata.combining(mark) == 0 or _LATER.match(mark) is not None

    groups = itertools.groupby(run[0], parts)
    return "".join("".join(marks if apart else sorted(marks, key=unicodedata.combining)) for apart, marks in groups)


class ComposingEncoder:
    """A `_C.BpeEncoder` whose texts go through `nfc` first."""

    def __init__(self, core):
        self._core = core
        self.decode, self.parts = core.decode, core.parts

    @property
    def regular(self) -> bool:
        return self._core.regular

    def encode(self, text):
        return self._core.encode(_composed(text))

    def encode_array(self, text):
        return self._core.encode_array(_composed(text))

    def encode_batch(self, texts, threads):
        return self._core.encode_batch(map(_composed, texts), threads)


def _composed(text):
    return nfc(text) if isinstance(text, str) else text  # what is no text is refused by the core
