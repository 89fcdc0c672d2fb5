"""The files of a tokenizer: tokenizer.json (Hugging Face), tokenizer_config.json (chat template), token_bytes.json.

`write` and `read` are used by `Tokenizer.save` and `Tokenizer.load`; `read` takes the tokenizer.json of others too,
where foreign.py finds it to be of our kind. tokenizer.json holds everything needed;
token_bytes.json holds the byte length of each token (0 for special tokens) for whoever computes bits per byte without
this package, and the tokenizer's hash, which `read` hands back to be compared.
"""

import json
import os
from pathlib import Path
from typing import NamedTuple

from pynanochat.errors import DataError, shown
from pynanochat.tokenizer import foreign

TOKENIZER, CONFIG, LENGTHS = "tokenizer.json", "tokenizer_config.json", "token_bytes.json"
MOST_IDS = (1 << 24) - 1  # ids are below this

# Renders messages as render_conversation does. Python 'python' and 'python_output' parts keep their delimiters.
CHAT_TEMPLATE = """\
{{- '<|bos|>' -}}
{%- set skip = 1 if messages[0].role == 'system' else 0 -%}
{%- for message in messages[skip:] -%}
{%- if message.role == 'user' -%}
{{- '<|user_start|>' -}}
{%- if loop.first and skip -%}{{- messages[0].content + '\\n\\n' -}}{%- endif -%}
{{- message.content + '<|user_end|>' -}}
{%- else -%}
{{- '<|assistant_start|>' -}}
{%- if message.content is string -%}
{{- message.content -}}
{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'python' -%}{{- '<|python_start|>' + part.text + '<|python_end|>' -}}
{%- elif part.type == 'python_output' -%}{{- '<|output_start|>' + part.text + '<|output_end|>' -}}
{%- else -%}{{- part.text -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|assistant_end|>' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant_start|>' -}}{%- endif -%}"""


def _alphabet() -> list[str]:
    """The character that stands for each byte in tokenizer.json: itself where it prints, else one from U+0100 on."""
    prints = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    spare = iter(range(0x100, 0x200))
    return [chr(byte) if byte in prints else chr(next(spare)) for byte in range(256)]


_LETTER_OF = _alphabet()
_BYTE_OF = {letter: byte for byte, letter in enumerate(_LETTER_OF)}


def _spell(token: bytes) -> str:
    return "".join(_LETTER_OF[byte] for byte in token)


def _unspell(text: str) -> bytes:
    return bytes(_BYTE_OF[letter] for letter in text)


def write(
    folder: Path,
    tokens: list[bytes],
    merges: list[tuple[int, int] | None],
    special_tokens: dict[str, int],
    pattern: str,
    composes: bool,
    digest: str,
) -> None:
    """Write the three files, each under a temporary name first, so that none is ever half there. The chat template is
    left out where there is no <|bos|>."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    specials = sorted(special_tokens.items(), key=lambda item: item[1])
    spelled = [_spell(token) for token in tokens]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": id, "content": name, **flags} for name, id in specials],
        "normalizer": {"type": "NFC"} if composes else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,
            "vocab": {text: id for id, text in enumerate(spelled) if text},
            "merges": [[spelled[pair[0]], spelled[pair[1]]] for pair in merges if pair],
        },
    }
    chat = {
        "bos_token": "<|bos|>",
        "eos_token": "<|assistant_end|>",
        "pad_token": "<|assistant_end|>",
        "chat_template": CHAT_TEMPLATE,
    }
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    if "<|bos|>" in special_tokens:
        config |= chat
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _put(folder / TOKENIZER, content)
        _put(folder / CONFIG, config)
        _put(folder / LENGTHS, {"sha256": digest, "lengths": [len(token) for token in tokens]})
    except OSError as error:
        raise DataError(
            f"{folder} cannot be written: {error.strerror}; free the disk or choose another folder"
        ) from None


def _put(path: Path, content: dict) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    os.replace(temporary, path)


class Contents(NamedTuple):
    """What a tokenizer.json holds."""

    tokens: list[bytes]  # by id; b"" for special tokens and ids not in use
    special_tokens: dict[str, int]
    merges: list[tuple[int, int]]  # the two ids of each merge, in the order of the file
    pattern: str  # the name of the split pattern
    composes: bool  # text is brought into NFC first
    digest: str | None  # the hash that token_bytes.json gives; None where there is none


def read(path: Path) -> Contents:
    """Read a tokenizer.json, of this package or of another; `path` is the file. Its template (post_processor),
    truncation and padding are left aside. Raises DataError."""
    content = _get(path)
    if content is None:
        raise DataError(f"{path} is not there; train a tokenizer first: pynanochat tokenizer train")
    try:
        model, added_tokens = content["model"], content["added_tokens"]
        foreign.check_model(model, added_tokens, path)
        pattern, composes = foreign.splitting(content, path), foreign.composes(content, path)
        special_tokens = {token["content"]: _id(token["id"]) for token in added_tokens}
        ids = {text: _id(id) for text, id in model["vocab"].items() if special_tokens.get(text) != id}
        highest = max([*ids.values(), *special_tokens.values()])
        if highest > 65536 + 16 * len(ids):  # memory follows the highest id: a small file may not ask for much
            raise ValueError(f"id {highest} for {len(ids)} tokens")
        tokens = [b""] * (highest + 1)
        for text, id in ids.items():
            if tokens[id]:
                raise ValueError(f"id {id} twice")
            tokens[id] = _unspell(text)
        pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
        if not all(left + right in ids for left, right in pairs):
            raise ValueError("a merge into no token")
        merges = [(ids[left], ids[right]) for left, right in pairs]
        lengths = _get(path.with_name(LENGTHS))
        return Contents(tokens, special_tokens, merges, pattern, composes, lengths and lengths["sha256"])
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError, MemoryError, RecursionError) as error:
        raise DataError(
            f"{path} is not a byte-level BPE tokenizer of the kind that is read here ({shown(error)}); "
            "train or copy it again"
        ) from None


def _id(value) -> int:
    if type(value) is not int or not 0 <= value < MOST_IDS:
        raise ValueError(f"id {value!r}")
    return value


def _get(path: Path) -> dict | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError, MemoryError) as error:
        raise DataError(
            f"{path} cannot be read ({shown(error)}); it may be cut short: train or copy it again"
        ) from None
