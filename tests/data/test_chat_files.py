"""Conversation files: three forms, plain and gzipped, and one line of error for whatever is wrong."""

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynanochat.data.chat_files import ChatFile, conversation_of
from pynanochat.errors import DataError

ASKED, ANSWERED = {"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}
SYSTEM = {"role": "system", "content": "Be brief."}


def write(path, *lines):
    data = b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines)
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_three_forms_in_one_file(tmp_path, name):
    path = write(
        tmp_path / name,
        {"messages": [SYSTEM, ASKED, ANSWERED], "source": "dropped"},
        b"\n",
        {"id": "x", "conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]},
        {"instruction": "Add", "input": "2+2", "output": "4"},
        {"instruction": "2+2?", "input": "", "output": "4"},
    )
    assert list(ChatFile(path)) == [
        {"messages": [SYSTEM, ASKED, ANSWERED]},
        {"messages": [ASKED, ANSWERED]},
        {"messages": [{"role": "user", "content": "Add\n\n2+2"}, ANSWERED]},
        {"messages": [ASKED, ANSWERED]},
    ]


def test_parts_of_an_answer_are_kept(tmp_path):
    parts = [
        {"type": "text", "text": "It is "},
        {"type": "python", "text": "2+2"},
        {"type": "python_output", "text": "4"},
    ]
    row = {"messages": [ASKED, {"role": "assistant", "content": parts}]}
    assert ChatFile(write(tmp_path / "a.jsonl", row))[0] == row


def test_a_byte_order_mark_and_lone_surrogates_do_no_harm(tmp_path):
    row = {"messages": [ASKED, {"role": "assistant", "content": "\ud800 ü"}]}
    path = write(tmp_path / "a.jsonl", b"\xef\xbb\xbf" + json.dumps(row).encode())
    assert ChatFile(path)[0] == row and len(ChatFile(path).hash()) == 64


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{not json\n", "not JSON"),
        (b'{"messages": "\xff"}\n', "not JSON"),
        (b"[" * 100_000 + b"\n", "not JSON"),
        (b"[1, 2]\n", "no JSON object"),
        ({"text": "hello"}, r"keys \['text'\]; write"),
        ({"messages": "hello"}, "must be a list"),
        ({"messages": []}, "last message is not the assistant's"),
        ({"messages": [ASKED]}, "last message is not the assistant's; add the answer"),
        ({"messages": [ANSWERED, ASKED]}, "message 0 has role 'assistant', not user"),
        ({"messages": [ASKED, ASKED, ANSWERED]}, "message 1 has role 'user', not assistant; roles must alternate"),
        ({"messages": [ASKED, ANSWERED, SYSTEM, ANSWERED]}, "message 2 has role 'system', not user"),
        ({"messages": [SYSTEM, SYSTEM, ANSWERED]}, "message 1 has role 'system', not user"),
        ({"messages": [{"role": "user"}, ANSWERED]}, "message 0 is .* needs role and content"),
        ({"messages": [{"role": "user", "content": None}, ANSWERED]}, "has content None"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}, ANSWERED]}, "must be text"),
        ({"messages": [ASKED, {"role": "assistant", "content": " \n"}]}, r"\(assistant\) has content ' \\n'"),
        ({"messages": [ASKED, {"role": "assistant", "content": [{"type": "image", "text": "a"}]}]}, "has content"),
        ({"messages": [{"role": ["user"], "content": "a"}, ANSWERED]}, r"has role \['user'\]"),
        ({"conversations": {"from": "human"}}, "must be a list of from and value"),
        ({"conversations": [{"from": "human"}]}, "turn 0 is"),
        ({"conversations": [{"from": "tool", "value": "a"}]}, "turn 0 is from 'tool'; use human, gpt or system"),
        ({"conversations": [{"from": None, "value": "a"}]}, "turn 0 is from None"),
        ({"instruction": 3, "output": "4"}, "instruction and input must be strings"),
        ({"instruction": "", "output": "4"}, r"message 0 \(user\) has content ''"),
        ({"instruction": "a", "output": None}, "has content None"),
    ],
)
def test_a_bad_line_is_named_with_file_line_and_remedy(tmp_path, line, said):
    path = write(tmp_path / "bad.jsonl", {"messages": [ASKED, ANSWERED]}, b"\n", line)
    with pytest.raises(DataError, match=f"bad.jsonl, line 3: .*{said}") as caught:
        ChatFile(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        ChatFile(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="no conversations; put one on each line"):
        ChatFile(write(tmp_path / "empty.jsonl", b"\n\n"))
    whole = write(tmp_path / "a.jsonl.gz", *[{"messages": [ASKED, ANSWERED]}] * 3).read_bytes()
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[:-12])
    (tmp_path / "plain.jsonl.gz").write_bytes(b'{"messages": []}')
    for name in ("cut.jsonl.gz", "plain.jsonl.gz"):
        with pytest.raises(DataError, match=f"{name}: cannot be read after line .*copy the file again"):
            ChatFile(tmp_path / name)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["messages", "conversations", "instruction", "output", "input", "role", "content", "from"])
            | st.text(max_size=3),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["messages", "conversations", "instruction", "input", "output"]), json_values))
def test_any_row_is_a_conversation_or_a_data_error(row):
    try:
        messages = conversation_of(row)["messages"]
    except DataError:
        return
    assert messages[-1]["role"] == "assistant"


def test_the_hash_is_of_the_conversations_not_of_the_file(tmp_path):
    rows = [{"messages": [ASKED, ANSWERED]}, {"messages": [SYSTEM, ASKED, ANSWERED]}]
    plain = ChatFile(write(tmp_path / "a.jsonl", *rows)).hash()
    assert ChatFile(write(tmp_path / "b.jsonl.gz", rows[0], b"\n\n", rows[1])).hash() == plain
    assert ChatFile(write(tmp_path / "c.jsonl", rows[1], rows[0])).hash() != plain
