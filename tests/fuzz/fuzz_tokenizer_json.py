"""Fuzz, by atheris: Tokenizer.load answers any folder with a tokenizer that works or with a DataError of one line.

    python tests/fuzz/fuzz_tokenizer_json.py [FOLDER...] [-max_total_time=60] [-rss_limit_mb=2048]

An input whose first byte is even is the text of tokenizer.json. Otherwise its bytes say what is to be changed in a real
one: which node, and what stands there instead.
"""

import copy
import json
import sys
import tempfile
from pathlib import Path

from pynanochat.errors import DataError
from pynanochat.tokenizer import Tokenizer

RAW = [  # as JSON text: some are beyond what json.dumps writes
    "null", "true", "-1", "0", "97", "1e3", "1e400", "-1e400", "NaN", "Infinity", str(1 << 60), "9" * 5000, "1.5",
    "16777214", "16777216", "70000", '""', '"a"', '"a b"', '"\\ud800"', '"\\n"', '"\\u4e2d"', '"' + "x" * 100_000 + '"',
    "[]", "{}", "[[]]", '[["a","b"]]', '["a b"]', '{"a":97,"a":98}', '{"":1}', "[" * 100_000, '{"a":' * 100_000,
    "[" * 3000 + "]" * 3000, "[" * 900 + "]" * 900, '[{"id":5,"content":"x"}]', '[{"id":{},"content":[]}]',
]  # fmt: skip
MARK = "\u0001here\u0001"


def nodes(content) -> list:
    """(container, key) of every value in a JSON document, the outermost left out; of long lists the first few."""
    found, waiting = [], [content]
    while waiting:
        node = waiting.pop(0)
        keys = list(node) if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ()
        for key in list(keys)[:12]:
            found.append((node, key))
            waiting.append(node[key])
    return found


def changed(content: dict, recipe: bytes) -> str:
    """`content` with as many changes as `recipe` has triples: which node, what is done, what stands there instead."""
    content = copy.deepcopy(content)
    raw = []
    for i in range(0, min(len(recipe), 24) - 2, 3):
        where, what, value = recipe[i : i + 3]
        places = nodes(content)
        if not places:
            break
        node, key = places[where % len(places)]
        if what % 4 == 0:
            del node[key]
        elif what % 4 == 1 and isinstance(node, dict):
            node[["a", "zz", "\ud800", "", "\u4e2d", "id", "content", "\u0120"][value % 8]] = node.pop(key)
        elif what % 4 == 2 and isinstance(node[key], list):
            node[key] = node[key][: value % 4] + node[key][value % 7 :]
        else:
            node[key] = MARK + str(len(raw))
            raw.append(RAW[value % len(RAW)])
    text = json.dumps(content)
    for i in reversed(range(len(raw))):
        text = text.replace(json.dumps(MARK + str(i)), raw[i])
    return text


def small_tokenizer(folder: Path) -> dict:
    Tokenizer.train(["the cat sat on the mat, it's the cat; 1212 中文"] * 3, 280).save(folder)
    return json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))


def check(folder: Path, data: bytes, content: dict) -> None:
    """Load what `data` stands for; whatever is no DataError is a find."""
    text = changed(content, data[1:]).encode("utf-8", "surrogatepass") if data[:1] and data[0] % 2 else data[1:]
    (folder / "tokenizer.json").write_bytes(text)
    try:
        tokenizer = Tokenizer.load(folder)
    except DataError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000, str(error)[:1000]
        return
    assert tokenizer.decode(tokenizer.encode("the cat's 中文 12\n")) == "the cat's 中文 12\n"


def main() -> None:
    import atheris

    atheris.instrument_all()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        content = small_tokenizer(folder)
        (folder / "token_bytes.json").unlink()  # its hash would find nearly every change
        atheris.Setup(sys.argv, lambda data: check(folder, data, content))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
