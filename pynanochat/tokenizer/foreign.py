"""What the vocabularies of others say of themselves, and whether it is what this package does, exactly.

Every function raises DataError for what it is not. `pattern_named` and `pattern_of_file` give names of split patterns
(the keys of `_C.bpe_patterns`); `read_tiktoken` reads a table of ranks; `splitting`, `composes` and `check_model`
judge the parts of a Hugging Face tokenizer.json.
"""

import base64
import re
from pathlib import Path

from pynanochat import _C
from pynanochat.errors import DataError, shown

_FAMILY = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# Other ways to write the patterns, which mean the same to tiktoken and to Hugging Face tokenizers.
_SPELLINGS = {
    **{regex: name for name, regex in _C.bpe_patterns.items()},
    _FAMILY % r"\p{N}{1,3}": "llama3",
    _FAMILY % r"\p{N}": "qwen2",
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+": "gpt2",
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s": "gpt2",
}
# tiktoken's own cl100k_base. To Hugging Face tokenizers, {1,3}+ is any number of digits.
_TIKTOKEN_CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"
    r"|\s+(?!\S)|\s"
)
_FILE_NAMES = {"gpt2": "gpt2", "r50k": "gpt2", "p50k": "gpt2", "cl100k": "cl100k", "o200k": "o200k", "qwen": "qwen2"}
_MARKUP = re.compile(r"<.*>|\[.*\]", re.DOTALL)


def pattern_named(pattern: str) -> str:
    """The name of a pattern given by name or as a regular expression in tiktoken's spelling."""
    if pattern in _C.bpe_patterns:
        return pattern
    name = "cl100k" if pattern == _TIKTOKEN_CL100K else _SPELLINGS.get(pattern)
    if name is None:
        raise DataError(f"the split pattern {shown(pattern)} is not supported; {_supported()}")
    return name


def pattern_of_file(path: Path) -> str | None:
    """The name of the pattern that goes with a well-known file such as cl100k_base.tiktoken; None for any other."""
    return next((pattern for part, pattern in _FILE_NAMES.items() if part in path.stem.lower()), None)


def _supported() -> str:
    return f"supported are those of {', '.join(_C.bpe_patterns)}"


def read_tiktoken(path: Path) -> dict[bytes, int]:
    """The table of a .tiktoken file: on each line a token in base64 and its rank."""
    ranks: dict[bytes, int] = {}
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); give a .tiktoken file") from None
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            text, rank = line.split(b" ")
            token = base64.b64decode(text, validate=True)
            if not rank.isdigit() or token in ranks:
                raise ValueError
            ranks[token] = int(rank)
        except ValueError:
            raise DataError(
                f"{path}, line {number}, is not a token in base64 and its rank, or has a token for the second time; "
                "the file may be damaged: copy it again"
            ) from None
    return ranks


def splitting(content: dict, path: Path) -> str:
    """The name of the pattern by which a tokenizer.json splits text before its byte level."""
    steps = _steps(content.get("pre_tokenizer"), "pretokenizers")
    kinds = [step.get("type") for step in steps]
    if kinds and kinds[-1] == "ByteLevel":
        level = steps[-1]
        if level.get("add_prefix_space", True):
            raise DataError(f"{path} adds a blank before the text (add_prefix_space), which is not supported")
        by_itself = level.get("use_regex", True)
        if kinds == ["ByteLevel"] and by_itself:
            return "gpt2"
        if kinds == ["Split", "ByteLevel"] and not by_itself:
            return _split_step(steps[0], path)
    raise DataError(
        f"{path} splits text by {_listed(kinds, ' and ') or 'nothing'}; supported are ByteLevel alone (GPT-2) "
        "and one Split before a ByteLevel without a regex"
    )


def _listed(kinds: list, between: str) -> str:
    words = (kind if isinstance(kind, str) and kind.isidentifier() else shown(kind) for kind in kinds[:9])
    return between.join(word[:60] for word in words)


def _split_step(step: dict, path: Path) -> str:
    regex = step["pattern"].get("Regex") if isinstance(step["pattern"], dict) else None
    kept = (step.get("behavior"), bool(step.get("invert")))
    if regex in _SPELLINGS and kept in (("Isolated", False), ("Removed", True)):
        return _SPELLINGS[regex]
    raise DataError(
        f"{path} splits text by another pattern ({shown(step['pattern'])}, {shown(kept[0])}); {_supported()}"
    )


def composes(content: dict, path: Path) -> bool:
    """Whether a tokenizer.json brings text into composed form (NFC) first."""
    kinds = [step.get("type") for step in _steps(content.get("normalizer"), "normalizers")]
    if set(kinds) - {"NFC"}:
        raise DataError(f"{path} changes text first, by {_listed(kinds, ', ')}; of these only NFC is supported")
    return bool(kinds)


def check_model(model: dict, added_tokens: list[dict], path: Path) -> None:
    """Whether the model of a tokenizer.json and its added tokens leave ordinary text to plain byte-pair merging."""
    if model.get("type", "BPE") != "BPE":
        raise DataError(f"{path} holds a {shown(model['type'])} model; only byte-level BPE is supported")
    for option in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(option):
            raise DataError(f"{path} sets {option} to {shown(model[option])}, which is not supported")
    for token in added_tokens:
        if not token.get("special") and not _MARKUP.fullmatch(token["content"]):
            raise DataError(
                f"{path} takes {shown(token['content'])} out of ordinary text before it splits it (an added token that "
                "is not special), which is not supported"
            )


def _steps(step, inner: str) -> list[dict]:
    """The steps of a pre-tokenizer or normalizer, sequences laid out flat."""
    if step is None:
        return []
    return [part for each in step[inner] for part in _steps(each, inner)] if step.get("type") == "Sequence" else [step]
