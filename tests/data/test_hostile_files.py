"""Bad files: one line that names the file, the place and the remedy."""

import gzip

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pynanochat.data import open_source, readers
from pynanochat.errors import DataError

from .fakes import write_jsonl, write_parquet

GOOD = [f"good document {i}" for i in range(30)]


def cut(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def truncated_parquet(path):
    write_parquet(path, GOOD)
    cut(path, 0.7)


def damaged_parquet(path):
    write_parquet(path, [f"{i} " + "abc é " * 300 for i in range(200)], row_group_size=200)
    data = bytearray(path.read_bytes())
    data[200:260] = b"\xff" * 60
    path.write_bytes(data)


def no_text_column(path):
    write_parquet(path, GOOD, column="content")


def numbers_for_text(path):
    write_parquet(path, list(range(30)))


def parquet_not_utf8(path):
    raw = pa.array([b"fine", b"\xff\xfe bad"], pa.binary())
    pq.write_table(pa.table({"text": raw}), path)


def parquet_strings_not_utf8(path):
    good = pa.array(["fine", "also fine", "AB bad"])
    data = good.buffers()[2].to_pybytes().replace(b"AB", b"\xff\xfe")
    broken = pa.Array.from_buffers(pa.string(), 3, [None, good.buffers()[1], pa.py_buffer(data)])
    pq.write_table(pa.table({"text": broken}), path)


def parquet_without_rows(path):
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), path)


def text_as_parquet(path):
    path.write_text("this is no parquet file at all")


def empty(path):
    path.write_bytes(b"")


def invalid_json(path):
    path.write_text('{"text": "one"}\n{"text": "two"}\n{"text": "thr')


def json_without_text(path):
    path.write_text('{"text": "one"}\n{"content": "two"}\n')


def json_array(path):
    path.write_text("[1, 2]\n")


def json_number(path):
    path.write_text('{"text": 12}\n')


def json_deep(path):
    path.write_text('{"text": ' + "[" * 200_000 + "\n")


def json_surrogate(path):
    path.write_text('{"text": "half \\ud83d of a pair"}\n')


def json_endless_line(path):
    path.write_bytes(b'{"text": "' + b"a" * (readers.JSON_LONGEST + 10) + b'"}\n')


def latin1_json(path):
    path.write_bytes('{"text": "one"}\n{"text": "café"}\n'.encode("latin-1"))


def latin1_txt(path):
    path.write_bytes("one\n<|endoftext|>\nof a café\n".encode("latin-1"))


def truncated_gzip(path):
    write_jsonl(path, GOOD)
    cut(path, 0.6)


def damaged_gzip(path):
    write_jsonl(path, GOOD)
    data = bytearray(path.read_bytes())
    data[40:60] = b"\x00" * 20
    path.write_bytes(data)


def not_gzip(path):
    path.write_text('{"text": "one"}\n')


def bad_crc(path):
    data = bytearray(gzip.compress(b'{"text": "one"}\n', mtime=0))
    data[-6] ^= 0xFF
    path.write_bytes(data)


CASES = [
    (truncated_parquet, "parquet", "damaged or cut off"),
    (damaged_parquet, "parquet", "damaged or cut off at row group 0|not UTF-8"),
    (no_text_column, "parquet", "no column `text`.*content"),
    (numbers_for_text, "parquet", "int64"),
    (parquet_not_utf8, "parquet", "row 1, byte 0"),
    (parquet_strings_not_utf8, "parquet", "row 2, byte 0"),
    (parquet_without_rows, "parquet", "no rows"),
    (text_as_parquet, "parquet", "damaged or cut off"),
    (empty, "parquet", "empty"),
    (empty, "jsonl", "empty"),
    (empty, "jsonl.gz", "empty"),
    (empty, "txt", "empty"),
    (invalid_json, "jsonl", "line 3 .*JSON"),
    (json_without_text, "jsonl", 'line 2 has no "text"'),
    (json_array, "jsonl", 'line 1 has no "text"'),
    (json_number, "jsonl", "line 1.*int.*string"),
    (json_deep, "jsonl", "line 1 .*JSON"),
    (json_surrogate, "jsonl", "line 1 .*surrogate"),
    (json_endless_line, "jsonl", "line 1 is longer than 64 MiB"),
    (latin1_json, "jsonl", "line 2, byte 13.*iconv"),
    (latin1_txt, "txt", "byte 26.*iconv"),
    (truncated_gzip, "jsonl.gz", "gzip.*cut off"),
    (damaged_gzip, "jsonl.gz", "gzip.*damaged|JSON|UTF-8"),
    (not_gzip, "jsonl.gz", "gzip"),
    (bad_crc, "jsonl.gz", "gzip"),
]


@pytest.mark.parametrize("make, kind, message", CASES, ids=[f"{c[0].__name__}-{c[1]}" for c in CASES])
def test_a_bad_shard_is_named_with_the_remedy(folder, make, kind, message):
    where = folder({"z.jsonl": GOOD})
    make(where / "pretrain" / f"bad.{kind}")
    with pytest.raises(DataError, match=message) as caught:
        list(open_source(str(where)).texts("train"))
    line = str(caught.value)
    assert f"bad.{kind}" in line and "\n" not in line and ";" in line and len(line) < 500


def test_missing_and_empty_folders(tmp_path):
    with pytest.raises(DataError, match=r"--data .*nowhere: no such folder; use toyworld, hub"):
        open_source(str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="no subfolder pretrain"):
        open_source(str(tmp_path))
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain/readme.md").write_text("hello")
    with pytest.raises(DataError, match=r"no shards; put \*\.parquet"):
        open_source(str(tmp_path))


def test_only_validation_shards(folder):
    with pytest.raises(DataError, match=r"every shard is named val\*"):
        open_source(str(folder({"val_0.jsonl": GOOD, "val_1.jsonl": GOOD})))


def test_a_shard_that_vanishes_while_it_is_in_use(folder):
    where = folder({"a.jsonl": GOOD, "b.parquet": GOOD, "z.jsonl": GOOD})
    source = open_source(str(where))
    for name in ("a.jsonl", "b.parquet"):
        (where / "pretrain" / name).unlink()
        with pytest.raises(DataError, match=f"{name}: the file is gone"):
            list(source.texts("train"))
        (where / "pretrain/a.jsonl").write_text('{"text": "x"}\n')
