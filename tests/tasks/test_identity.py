"""Identity: made from a name and a paragraph, or the user's own file."""

import json

import pytest

from pynanochat.data.chat_files import conversation_of
from pynanochat.errors import DataError
from pynanochat.tasks import TaskData, open_task
from pynanochat.tasks.identity import FEWEST, generated, identity

PARAGRAPH = "I was made by Grace in a harbour town. I like ships! Do I sleep? Never."


def texts(conversation):
    return [message["content"] for message in conversation["messages"]]


@pytest.mark.parametrize("paragraph", [PARAGRAPH, "One sentence"])
def test_many_different_conversations_come_of_a_name_and_a_paragraph(paragraph):
    made = generated("Ada", paragraph)
    assert len(made) == len({json.dumps(c) for c in made}) == 1052 >= FEWEST
    assert len({texts(c)[0] for c in made}) > 150
    assert len({tuple(texts(c)) for c in made if len(texts(c)) > 2}) > 200
    for conversation in made:
        assert conversation_of(conversation) == conversation
        assert "{" not in "".join(texts(conversation))
    assert sum("Ada" in "".join(texts(c)[1::2]) for c in made) > 700


def test_what_is_said_is_the_name_and_the_sentences_of_the_paragraph():
    said = {text for c in generated("Ada", PARAGRAPH) for text in texts(c)[1::2]}
    assert any(text.endswith(PARAGRAPH) for text in said)
    assert "I like ships!" in said and "Never." in said


def test_nobody_is_told_that_ada_is_not_ada():
    for name in ("Claude", "gemini"):
        for conversation in generated(name, PARAGRAPH):
            for asked, answer in zip(texts(conversation)[::2], texts(conversation)[1::2], strict=True):
                assert not (answer.startswith("No.") and name.lower() in asked.lower())


def test_the_seed_fixes_them():
    assert generated("Ada", PARAGRAPH, 50) == generated("Ada", PARAGRAPH, 50)
    assert generated("Ada", PARAGRAPH, 50) != generated("Ada", PARAGRAPH, 50, seed=1)


@pytest.mark.parametrize(("name", "paragraph"), [("", "a"), ("Ada", " \n"), ("A" * 61, "a"), ("Ada", "a" * 4001)])
def test_a_name_or_paragraph_of_no_use(name, paragraph):
    with pytest.raises(DataError, match="a name has 1 to 60 characters"):
        generated(name, paragraph)


def test_a_text_file_gives_name_and_paragraph(tmp_path):
    path = tmp_path / "me.txt"
    path.write_text(f"Ada\n\n{PARAGRAPH}\n")
    task = open_task("Identity", "train", TaskData("toyworld", identity=str(path)))
    assert len(task) == 1000 and any("My name is Ada." in texts(task[i])[1] for i in range(50))
    path.write_text("Ada\n")
    with pytest.raises(DataError, match="a name on the first line and a paragraph below it"):
        identity(str(path), "train")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="cannot be read as UTF-8"):
        identity(str(path), "train")


def test_a_file_of_conversations_is_taken_as_it_is(tmp_path):
    rows = [{"instruction": f"Who are you, {i}?", "output": "Ada."} for i in range(40)]
    path = tmp_path / "me.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    train, val = (identity(str(path), split) for split in ("train", "val"))
    assert [len(train), len(val)] == [38, 2]
    assert {texts(c)[0] for task in (train, val) for c in task} == {row["instruction"] for row in rows}
    with pytest.raises(DataError, match="none.jsonl: no such file"):
        identity(str(tmp_path / "none.jsonl"), "train")


def test_training_and_validation_share_nothing_and_have_hashes():
    train, val = (identity("", split) for split in ("train", "val"))
    assert not {json.dumps(c) for c in train} & {json.dumps(c) for c in val}
    assert train.hash() == identity("", "train").hash() != val.hash()
