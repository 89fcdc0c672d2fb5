"""The commands: train on a folder, measure, show, and their errors."""

import base64
import json

import pytest

from pynanochat.errors import DataError, UsageError
from pynanochat.tokenizer import Tokenizer
from pynanochat.tokenizer.commands import coloured, main
from tests.tokenizer.conftest import documents


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    (folder / "pretrain").mkdir()
    texts = [text for text in documents() if text.isprintable() and text]
    for name, part in (("a", texts[:-20]), ("val", texts[-20:])):
        lines = "".join(json.dumps({"text": text}) + "\n" for text in part)
        (folder / "pretrain" / f"{name}.jsonl").write_text(lines)
    return folder


def test_train_eval_show(data, tmp_path, capsys):
    main(["train", "--data", str(data), "--out", str(tmp_path / "t"), "--vocab-size", "900"])
    assert "900 tokens" in capsys.readouterr().out
    tokenizer = Tokenizer.load(tmp_path / "t")
    assert len(tokenizer) == 900

    reference = str(tmp_path / "t" / "tokenizer.json")
    main(["eval", "--tokenizer", str(tmp_path / "t"), "--data", str(data), "--reference", reference, "--json"])
    rows = json.loads(capsys.readouterr().out)["bytes_per_token"]
    assert set(rows) == {"news", "korean", "code", "math", "science", "train", "val"}
    for row in rows.values():
        assert row["ours"] == row["t"] >= 1  # the reference is the same vocabulary, read by another library
    assert rows["train"]["ours"] > 2 > rows["korean"]["ours"]
    main(["eval", "--tokenizer", str(tmp_path / "t")])
    assert "bytes per token" in capsys.readouterr().out

    main(["show", "--tokenizer", str(tmp_path / "t"), "--ids", "the 中 text"])
    out = capsys.readouterr().out
    assert f"{len(tokenizer.encode('the 中 text'))} tokens, 12 bytes" in out
    assert " ".join(map(str, tokenizer.encode("the 中 text"))) in out


def test_tiktoken_file_as_reference(tokenizer, tmp_path, capsys):
    tokenizer.save(tmp_path)
    table = tmp_path / "theirs.tiktoken"
    table.write_bytes(b"".join(base64.b64encode(t) + b" %d\n" % r for t, r in tokenizer.mergeable_ranks.items()))
    main(["eval", "--tokenizer", str(tmp_path), "--reference", str(table), "--json"])
    assert json.loads(capsys.readouterr().out)["bytes_per_token"]["news"]["theirs"] > 1


def test_coloured_shows_every_byte(tokenizer):
    text = "a b\n\nc 😀"
    assert coloured(tokenizer, tokenizer.encode(text)).plain.replace("↵", "").startswith("a b\n\nc ")
    assert coloured(tokenizer, [0xF0]).plain == "<F0>"


def test_errors(data, tmp_path):
    with pytest.raises(UsageError, match="--vocab-size 265"):
        main(["train", "--data", str(data), "--out", str(tmp_path), "--vocab-size", "100"])
    with pytest.raises(DataError):
        main(["train", "--data", str(tmp_path / "none"), "--out", str(tmp_path)])
    with pytest.raises(DataError, match=r"tokenizer\.json"):
        main(["show", "--tokenizer", str(tmp_path / "none"), "x"])
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        main(["train", "--data", str(data), "--out", str(blocked / "t"), "--vocab-size", "300"])
    with pytest.raises(SystemExit):
        main(["nothing"])
