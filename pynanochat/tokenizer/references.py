"""Vocabularies of others to compare with, found on disk; nothing is downloaded.

encoders = references(["path/to/tokenizer.json"])        # {"name": function from text to number of tokens}
"""

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from pynanochat.errors import DataError
from pynanochat.tokenizer import foreign
from pynanochat.tokenizer.bpe import Tokenizer

_BLOB = "https://openaipublic.blob.core.windows.net"
_CACHED = {  # the files that tiktoken keeps of each vocabulary
    "gpt2": (f"{_BLOB}/gpt-2/encodings/main/vocab.bpe", f"{_BLOB}/gpt-2/encodings/main/encoder.json"),
    "cl100k_base": (f"{_BLOB}/encodings/cl100k_base.tiktoken",),
}
_NAMES = {"gpt2": "GPT-2", "cl100k_base": "GPT-4"}

Count = Callable[[str], int]


def references(paths: Iterable[str | Path] = ()) -> dict[str, Count]:
    """Counters of tokens by name: GPT-2 and GPT-4 where tiktoken has them cached, and every file of `paths`, a
    `.tiktoken` table or a Hugging Face tokenizer.json. Raises DataError for a path that cannot be read."""
    found = {}
    for name, urls in _CACHED.items():
        if all(_cached(url) for url in urls) and (tiktoken := _optional("tiktoken")):
            found[_NAMES[name]] = _ordinary(tiktoken.get_encoding(name))
    for path in map(Path, paths):
        found[path.parent.name if path.name == "tokenizer.json" else path.stem] = _open(path)
    return found


def _cached(url: str) -> bool:
    """Whether tiktoken holds a copy of `url`, in the folder where it would look."""
    folder = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR"))
    folder = os.path.join(tempfile.gettempdir(), "data-gym-cache") if folder is None else folder
    return folder != "" and Path(folder, hashlib.sha1(url.encode()).hexdigest()).is_file()


def _optional(name: str):
    try:
        return __import__(name)
    except ImportError:
        return None


def _ordinary(encoding) -> Count:
    return lambda text: len(encoding.encode_ordinary(text))


def _open(path: Path) -> Count:
    try:
        pattern = foreign.pattern_of_file(path) or "cl100k" if path.suffix == ".tiktoken" else None
        ours = Tokenizer.load(path, pattern)
        return lambda text: len(ours.encode_array(text))
    except DataError:
        library = _optional("tokenizers")
        if path.suffix == ".tiktoken" or library is None:
            raise
    try:  # a tokenizer of a kind that we do not read
        theirs = library.Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exceptions
        raise DataError(f"{path} cannot be read as a vocabulary ({error}); give another --reference") from None
    theirs.encode_special_tokens = True
    return lambda text: len(theirs.encode(text, add_special_tokens=False).ids)
