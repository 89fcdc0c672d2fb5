"""Reading single files: nothing of a text is lost, rows are numbered the same from wherever one starts."""

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pynanochat.data import readers
from pynanochat.data.readers import Rows

from .fakes import write_jsonl, write_parquet

LINES = st.lists(st.text("ab é€😀\t\r", max_size=90) | st.just("<|endoftext|>") | st.just(""), max_size=25)
FIXTURES = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def solid(text):
    return "".join(text.split())


@FIXTURES
@given(lines=LINES, document=st.integers(1, 60), longest=st.integers(8, 200), newline=st.sampled_from(["\n", "\r\n"]))
def test_txt_loses_nothing(tmp_path, monkeypatch, lines, document, longest, newline):
    monkeypatch.setattr(readers, "TXT_DOCUMENT", document)
    monkeypatch.setattr(readers, "TXT_LONGEST", max(longest, len(readers.SEPARATOR) + 2))
    path = tmp_path / "a.txt"
    path.write_bytes(newline.join(lines).encode())
    every = list(rows := Rows(path))
    wanted = [solid(line) for line in lines if line.strip() != "<|endoftext|>"]
    assert solid("".join(text for _, text in every)) == "".join(wanted)
    numbers = [row for row, _ in every]
    assert numbers == sorted(set(numbers)) and all(row < rows.count for row in numbers)
    for start in range(rows.count + 1):
        assert list(Rows(path, start)) == [(row, text) for row, text in every if row >= start]


@FIXTURES
@given(texts=st.lists(st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=20), max_size=30))
def test_jsonl_and_parquet_give_every_text_with_its_row(tmp_path, texts):
    expected = [(row, text) for row, text in enumerate(texts) if text]
    for name, write in (("a.jsonl", write_jsonl), ("a.jsonl.gz", write_jsonl), ("a.parquet", write_parquet)):
        path = tmp_path / name
        if name == "a.parquet" and not any(text is not None for text in texts):
            continue  # pyarrow then makes a column without a type
        write(path, texts)
        assert list(rows := Rows(path)) == expected
        assert rows.count == len(texts)
        odd = Rows(path, 3, lambda row: row % 2 == 1)
        assert list(odd) == [(row, text) for row, text in expected if row >= 3 and row % 2]


def test_jsonl_without_a_final_newline(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"text": text, "other": 1}) for text in ("one", "two")))
    assert list(Rows(path)) == [(0, "one"), (1, "two")]
