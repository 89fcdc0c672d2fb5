"""`pynanochat data`: what the commands print and write."""

import json

import pytest

from pynanochat.data import open_source
from pynanochat.data.commands import main
from pynanochat.errors import DataError, UsageError

from .test_hub import parquet, server  # noqa: F401


def test_list_of_a_folder(folder, capsys):
    where = folder({"a.parquet": ["one", "two"], "b.jsonl": ["three"]})
    main(["list", "--data", str(where)])
    out = " ".join(capsys.readouterr().out.split())
    assert "train a.parquet" in out and "2 documents" in out and "val b.jsonl" in out


def test_list_of_a_divided_file_and_of_the_toy_world(folder, capsys):
    main(["list", "--data", str(folder({"a.txt": [f"text {i}" for i in range(40)]}))])
    assert "every twentieth" in capsys.readouterr().out
    main(["list", "--toyworld-megabytes", "1"])
    out = capsys.readouterr().out
    assert "128 entities" in out and "facts" in out and "about 1.0 MB" in out


def test_show(folder, capsys):
    where = folder({"a.jsonl": ["one", "two", "three"], "b.jsonl": ["four"]})
    main(["show", "--data", str(where), "--start", "1", "--count", "1"])
    out = capsys.readouterr().out
    assert "two" in out and "one" not in out and "three" not in out
    main(["show", "--facts"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 600 and set(json.loads(lines[0])) == {"subject", "relation", "object", "kind"}
    with pytest.raises(UsageError, match="--facts"):
        main(["show", "--facts", "--data", str(where)])


@pytest.mark.parametrize("kind", ["parquet", "jsonl.gz"])
def test_the_toy_world_as_a_folder_is_the_same_text(tmp_path, kind):
    main(["toyworld", "--out", str(tmp_path / "a"), "--megabytes", "0.2", "--format", kind, "--seed", "3"])
    written, made = open_source(str(tmp_path / "a")), open_source("toyworld", seed=3, toyworld_megabytes=0.2)
    for split in ("train", "val"):
        assert list(written.texts(split)) == list(made.texts(split))
    main(["toyworld", "--out", str(tmp_path / "b"), "--megabytes", "0.2", "--format", kind, "--seed", "3"])
    assert written.hash() == open_source(str(tmp_path / "b")).hash()
    with pytest.raises(UsageError, match="not empty"):
        main(["toyworld", "--out", str(tmp_path / "a")])


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="--out"):
        main(["toyworld", "--out", str(tmp_path / "file"), "--megabytes", "0.01"])


def test_download(server, tmp_path, capsys):  # noqa: F811
    main(["download", "--shards", "2", "--cache-dir", str(tmp_path)])
    assert "2 training shards and validation" in capsys.readouterr().out


def test_no_data(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        main(["list", "--data", str(tmp_path / "nothing")])
