"""What fuzz_tokenizer_json.py checks, without atheris: the kept inputs, and each of its values at many nodes."""

import json
from pathlib import Path

import pytest

from pynanochat.errors import DataError
from pynanochat.tokenizer import Tokenizer
from tests.fuzz.fuzz_tokenizer_json import RAW, check, nodes, small_tokenizer

CORPUS = Path(__file__).parent / "corpus" / "json"


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A folder with a small real tokenizer, and its tokenizer.json."""
    folder = tmp_path_factory.mktemp("real")
    content = small_tokenizer(folder)
    (folder / "token_bytes.json").unlink()
    return folder, content


@pytest.mark.parametrize("path", sorted(CORPUS.iterdir()), ids=lambda path: path.name)
def test_kept_inputs(real, path):
    folder, content = real
    check(folder, path.read_bytes(), content)


@pytest.mark.parametrize("value", range(len(RAW)), ids=lambda value: RAW[value][:12])
def test_any_value_at_any_node(real, value):
    folder, content = real
    for where in range(value % 3, min(len(nodes(content)), 255), 3):
        check(folder, bytes([1, where, 3, value]), content)
    (folder / "tokenizer.json").write_text(RAW[value])
    with pytest.raises(DataError):
        Tokenizer.load(folder)


@pytest.mark.parametrize("what", range(3))
def test_any_node_left_out_renamed_or_cut(real, what):
    folder, content = real
    for where in range(min(len(nodes(content)), 255)):
        for value in range(where % 3, 8, 3):
            check(folder, bytes([1, where, what, value]), content)


def test_a_small_file_takes_little_memory(real):
    """An id is an index: a file of few tokens may not make tables for sixteen million."""
    folder, content = real
    for id in (69_000, (1 << 24) - 2, 1 << 31, 1 << 60):
        text = json.dumps({**content, "added_tokens": [{"id": id, "content": "<|bos|>"}]})
        (folder / "tokenizer.json").write_text(text)
        if id == 69_000:
            assert len(Tokenizer.load(folder)) == id + 1
            continue
        with pytest.raises(DataError, match=str(id)):
            Tokenizer.load(folder)
