"""Sources: what is in which split, dealing to ranks, cursors."""

import json
from itertools import chain, islice

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pynanochat.data import FolderSource, open_source
from pynanochat.errors import DataError

KINDS = ("parquet", "jsonl", "jsonl.gz", "txt")


def texts(name, count):
    return [f"{name} document {i} says é and {i * i}." for i in range(count)]


@pytest.mark.parametrize("kind", KINDS)
def test_every_document_once_and_the_last_shard_by_name_is_validation(folder, kind):
    source = open_source(str(folder({f"{name}.{kind}": texts(name, 37) for name in "cab"})))
    assert list(source.texts("train")) == texts("a", 37) + texts("b", 37)
    assert list(source.texts("val")) == texts("c", 37)
    assert [shard.name for shard in source.shards("val")] == [f"c.{kind}"]


def test_shards_named_val_are_validation(folder):
    source = open_source(str(folder({"a.jsonl": texts("a", 3), "val_1.txt": texts("v", 2), "z.txt": texts("z", 4)})))
    assert list(source.texts("train")) == texts("a", 3) + texts("z", 4)
    assert list(source.texts("val")) == texts("v", 2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_single_shard_is_divided(folder, kind):
    every = texts("a", 103)
    source = open_source(str(folder({f"a.{kind}": every})))
    assert list(source.texts("val")) == every[19::20]
    assert list(source.texts("train")) == [text for i, text in enumerate(every) if i % 20 != 19]


def test_a_single_shard_that_is_too_small_is_refused(folder):
    with pytest.raises(DataError, match=r"a\.txt.*fewer than 20.*val\*"):
        open_source(str(folder({"a.txt": texts("a", 19)})))


@pytest.mark.parametrize("world_size", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("files", [{"a": 50, "b": 33, "c": 20}, {"a": 101}], ids=["shards", "divided"])
def test_ranks_see_different_documents_and_together_all(folder, kind, world_size, files):
    source = open_source(str(folder({f"{name}.{kind}": texts(name, count) for name, count in files.items()})))
    for split in ("train", "val"):
        dealt = [[t for _, t in source.documents(split, rank, world_size, epochs=1)] for rank in range(world_size)]
        whole = list(source.texts(split))
        assert sorted(chain(*dealt)) == sorted(whole)
        assert all(abs(len(part) - len(whole) / world_size) < 1 for part in dealt)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(KINDS),
    stop=st.integers(0, 200),
    rank=st.integers(0, 2),
    counts=st.lists(st.integers(20, 40), min_size=1, max_size=3),
)
def test_a_cursor_resumes_after_its_document(tmp_path_factory, kind, stop, rank, counts):
    where = tmp_path_factory.mktemp("shards")
    (where / "pretrain").mkdir()
    from .fakes import write_shard

    for i, count in enumerate(counts):
        write_shard(where / "pretrain" / f"{i}.{kind}", texts(str(i), count))
    source = FolderSource.open(where)
    stream = source.documents("train", rank, 3)
    whole = list(islice(stream, stop + 50))
    cursor = json.loads(json.dumps(whole[stop][0]))
    assert list(islice(source.documents("train", rank, 3, cursor), 49)) == whole[stop + 1 :]


def test_training_repeats_and_epochs_end(folder):
    source = open_source(str(folder({"a.jsonl": texts("a", 5), "b.jsonl": texts("b", 5)})))
    assert [t for _, t in islice(source.documents("train"), 12)] == (texts("a", 5) * 3)[:12]
    assert len(list(source.documents("train", epochs=3))) == 15
    cursor = list(islice(source.documents("train"), 7))[-1][0]
    assert len(list(source.documents("train", cursor=cursor, epochs=3))) == 8


def test_documents_without_text_are_skipped(tmp_path, folder):
    where = folder({"a.parquet": ["one", "", None, "two"], "b.jsonl": ["v"]})
    (where / "pretrain/a2.jsonl").write_text('{"text": ""}\n\n{"text": null}\n{"text": "three"}')
    assert list(open_source(str(where)).texts("train")) == ["one", "two", "three"]


def test_hash_changes_with_content_name_and_split_only(folder, tmp_path):
    where = folder({"a.jsonl": texts("a", 5), "b.jsonl": texts("b", 5)})
    first = open_source(str(where)).hash()
    assert first == open_source(str(where)).hash() and len(first) == 64
    (where / "pretrain/.hidden.jsonl").write_text("ignored")
    (where / "pretrain/notes.md").write_text("ignored")
    assert first == open_source(str(where)).hash()
    data = (where / "pretrain/a.jsonl").read_bytes()
    (where / "pretrain/a.jsonl").write_bytes(data.replace(b"document 3", b"document 7"))
    changed = open_source(str(where)).hash()
    (where / "pretrain/b.jsonl").rename(where / "pretrain/val.jsonl")
    assert len({first, changed, open_source(str(where)).hash()}) == 3


def test_a_foreign_cursor_is_refused(folder):
    source = open_source(str(folder({"a.jsonl": texts("a", 5), "b.jsonl": texts("b", 5)})))
    with pytest.raises(DataError, match="cursor"):
        next(source.documents("train", cursor={"index": 3}))


def test_more_ranks_than_documents_is_an_error_not_an_endless_loop(folder):
    source = open_source(str(folder({"a.jsonl": texts("a", 2), "b.jsonl": texts("b", 5)})))
    with pytest.raises(DataError, match="rank 2 of 4"):
        next(source.documents("train", rank=2, world_size=4))


def test_a_book_in_one_txt_becomes_documents_and_nothing_is_lost(folder):
    paragraphs = [f"Paragraph {i}. " + "It rains, and the river rises. " * 12 for i in range(400)]
    where = folder({"val.txt": ["v"]})
    (where / "pretrain/book.txt").write_text("\n\n".join(paragraphs))
    documents = list(open_source(str(where)).texts("train"))
    assert "\n\n".join(documents) == "\n\n".join(paragraphs).rstrip("\n")
    assert min(map(len, documents[:-1])) >= 4_000 and max(map(len, documents)) < 5_000


def test_a_single_endless_line_is_cut_between_characters(folder):
    where = folder({"val.txt": ["v"]})
    line = "xé€😀" * 400_000
    (where / "pretrain/line.txt").write_text(line)
    documents = list(open_source(str(where)).texts("train"))
    assert "".join(documents) == line and len(documents) > 3


def test_windows_line_ends_and_a_byte_order_mark(folder):
    where = folder({"val.txt": ["v"]})
    (where / "pretrain/a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n<|endoftext|>\r\nthree\r\n")
    (where / "pretrain/b.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "four"}\r\n')
    assert list(open_source(str(where)).texts("train")) == ["one\ntwo", "three", "four"]
