"""Tokens to text: stop strings, halves of characters, tool calls and log-probabilities, however the tokens are cut."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pynanochat.engine.requests import Token
from pynanochat.serve.answer import Answer, joined
from tests.serve.fakes import ByteTokenizer, ids_of


class WordTokenizer(ByteTokenizer):
    """Bytes, then specials, then whole strings."""

    def __init__(self, words):
        self.words = [word.encode() if isinstance(word, str) else word for word in words]

    def token_bytes(self, id):
        return super().token_bytes(id) if id < 265 else self.words[id - 265]

    def ids(self):
        return range(265, 265 + len(self.words))


def read(tokenizer, ids, finish="length", **settings):
    """The Answer and its pieces, a list for each token."""
    answer = Answer(tokenizer, **settings)
    steps = []
    for i, id in enumerate(ids):
        steps.append(answer.read(Token(0, id, False, finish if i == len(ids) - 1 else "")))
    return answer, steps


def text_of(steps):
    return "".join(piece.text for pieces in steps for piece in pieces if piece.kind == "text")


def test_the_stop_token_is_not_read():
    answer, steps = read(ByteTokenizer(), ids_of("hi{assistant_end}"), "stop")
    assert text_of(steps) == "hi" and answer.finish == "stop"


@pytest.mark.parametrize(
    ("words", "stop", "text"),
    [
        (["Hel", "lo E", "N", "D more"], ["END"], "Hello "),
        (["a", "b", "c"], ["abc"], ""),
        (["a", "b", "x"], ["abc"], "abx"),
        (["aa", "ab"], ["ab"], "aa"),
        (["abcd"], ["abcd", "bc"], "a"),  # as if the letters had come one by one
        (["x\n", "\ny"], ["\n\n"], "x"),
        (["caf", b"\xc3", b"\xa9!"], ["\u00e9"], "caf"),
        (["abab", "abc"], ["ababc"], "ab"),
        (["E", "N"], ["END"], "EN"),
    ],
)
def test_stop_strings_are_found_over_tokens(words, stop, text):
    tokenizer = WordTokenizer(words)
    answer, steps = read(tokenizer, tokenizer.ids(), stop=tuple(stop))
    assert text_of(steps) == text
    assert answer.finish == ("length" if text == "".join(str(w) for w in words) else "stop")


def test_only_what_may_become_a_stop_string_is_held_back():
    tokenizer = WordTokenizer(["one E", "N", " two", " EN", "D"])
    answer, steps = read(tokenizer, tokenizer.ids(), stop=("END",))
    assert ["".join(p.text for p in pieces) for pieces in steps] == ["one ", "", "EN two", " ", ""]
    assert answer.finish == "stop" and answer.read(Token(0, 65, False)) == []


STOP = st.lists(st.text("ab\u00e9", min_size=1, max_size=4), max_size=3)


@given(st.text("ab\u00e9\U0001f680", max_size=30), STOP, st.data())
def test_the_cuts_between_tokens_do_not_matter(text, stop, data):
    raw = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=8)))
    words = [raw[a:b] for a, b in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    tokenizer = WordTokenizer([*words, b""])
    _, steps = read(tokenizer, tokenizer.ids(), stop=tuple(stop), top=0)
    ends = [(text.index(one) + len(one), text.index(one)) for one in stop if one in text]
    wanted = text[: min(ends)[1]] if ends else text
    assert text_of(steps) == wanted
    shown = b"".join(tokenizer.token_bytes(t.id) for pieces in steps for p in pieces for t in p.tokens)
    assert shown.startswith(wanted.encode())
    assert ends or shown == raw


def test_tool_calls_are_whole_whatever_the_chunks():
    tokenizer = ByteTokenizer()
    said = "so {python_start}2*3{python_end}{output_start}6{output_end} it is{assistant_end}"
    answer = Answer(tokenizer, stop=("2*3", "6"))
    pieces = []
    for id in ids_of(said):
        pieces += answer.read(Token(0, id, False, "stop" if id == 260 else ""))
    assert [(p.kind, p.text) for p in joined(pieces)] == [
        ("text", "so "),
        ("tool_call", "2*3"),
        ("tool_output", "6"),
        ("text", " it is"),
    ]
    assert answer.finish == "stop"


def test_text_held_for_a_stop_string_goes_out_before_a_tool_call():
    pieces = [piece for step in read(ByteTokenizer(), ids_of("aE{python_start}1"), stop=("END",))[1] for piece in step]
    assert [(p.kind, p.text) for p in joined(pieces)] == [("text", "aE"), ("tool_call", "1")]


def test_emoji_come_whole():
    _, steps = read(ByteTokenizer(), ids_of("\U0001f680!"))
    assert ["".join(p.text for p in pieces) for pieces in steps] == ["", "", "", "\U0001f680", "!"]
    assert text_of(read(ByteTokenizer(), list("\U0001f680".encode())[:2])[1]) == "\ufffd"


def test_log_probabilities_belong_to_the_text_that_is_shown():
    tokenizer = WordTokenizer(["one ", "EN", "D!"])
    _, steps = read(tokenizer, tokenizer.ids(), stop=("ND",), top=0)
    assert [[t.id for p in pieces for t in p.tokens] for pieces in steps] == [[265], [], [266]]
    assert text_of(steps) == "one E"
