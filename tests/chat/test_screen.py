"""Markdown that grows on a terminal: what stands there at last, and what it takes to get there."""

import io
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pynanochat.chat import screen as screen_module
from pynanochat.chat.screen import Screen, printable
from tests.chat.emulator import Emulator

TEXT = """# A title

Some **bold words** and `code`, and a line
that goes on in the next line.

1. one
2. two with more words than fit on one line of a narrow terminal

```python
def f(x):
    return x
```

| a | b |
|---|---|
| 1 | 2 |

<b>not HTML</b> if a < b & c > d \U0001f680 caf\u00e9 \u4e16\u754c
"""


@pytest.fixture(autouse=True)
def every_piece_is_drawn(monkeypatch):
    monkeypatch.setattr(screen_module, "SHORTEST", -1.0)
    monkeypatch.setattr(screen_module, "SHARE", 0)


def shown(pieces, width=60, height=50):
    """(terminal, characters sent to it) after an answer of `pieces`."""
    file = io.StringIO()
    console = Console(
        file=file, force_terminal=True, width=width, height=height, color_system="256", legacy_windows=False
    )
    screen = Screen(console)
    for piece in pieces:
        screen.write(piece)
    screen.close()
    terminal = Emulator(width, height).feed(file.getvalue())
    assert not terminal.strange
    return terminal, len(file.getvalue())


def test_markdown_is_rendered():
    terminal, _ = shown([TEXT])
    lines = terminal.text.splitlines()
    assert lines[0] == "A title" and "Some bold words and code, and a line" in lines
    assert "that goes on in the next line." in lines  # its own line, as it was written
    assert " 1 one" in lines and " 2 two with more words than fit on one line of a narrow" in lines
    assert "      return x" in lines and "```" not in terminal.text
    assert "<b>not HTML</b> if a < b & c > d \U0001f680 caf\u00e9 \u4e16\u754c" in lines


@given(cuts=st.lists(st.integers(0, len(TEXT)), max_size=30), width=st.integers(30, 90), height=st.integers(30, 60))
def test_how_it_is_cut_makes_no_difference(cuts, width, height):
    edges = [0, *sorted(cuts), len(TEXT)]
    pieces = [TEXT[a:b] for a, b in itertools.pairwise(edges)]
    assert shown(pieces, width, height)[0].text == shown([TEXT], width, height)[0].text


def test_one_token_at_a_time_writes_little_more_than_its_line():
    words = "word " * 200
    _, whole = shown([words])
    _, piecemeal = shown([words[i : i + 5] for i in range(0, len(words), 5)])
    assert piecemeal < 60 * 200 < 200 * whole  # a line a token, not the whole answer a token


@pytest.mark.parametrize("height", [2, 5, 24])
def test_a_long_answer_stands_once_in_the_scrollback(height):
    text = "".join(f"line {i}\n" for i in range(100))
    terminal, _ = shown([text[i : i + 3] for i in range(0, len(text), 3)], height=height)
    assert terminal.text.splitlines() == [f"line {i}" for i in range(100)]


def test_lines_that_have_left_stay_as_they_were():
    terminal, _ = shown(["**bold\n" + "more\n" * 50, "end**\n\nnew"], height=10)
    lines = terminal.text.splitlines()
    assert lines.count("**bold") + lines.count("bold") == 1 and len(lines) == 54


def test_several_answers_one_below_the_other():
    file = io.StringIO()
    screen = Screen(Console(file=file, force_terminal=True, width=40, height=9, legacy_windows=False))
    for text in ("first", "", "  \n ", "second"):
        screen.write(text)
        screen.close()
    assert Emulator(40, 9).feed(file.getvalue()).text == "first\nsecond\n"


EVIL = [
    "\x1b]0;t\x07",
    "&#27;[2J",
    "&#x1b;]8;;x&#7;",
    "\x9b31m",
    "`\x1b[2J`",
    "```\n\x1b[2J\n```",
    "[a](http://\x1b[2J)",
    "\r\x08",
]


@pytest.mark.parametrize("evil", EVIL)
def test_nothing_drives_the_terminal(evil):
    terminal, _ = shown(["before\n\n", evil, "\n\nafter"])
    lines = terminal.text.splitlines()
    assert lines[0] == "before" and lines[-1] == "after"
    assert "[bold]x[/bold]" in shown(["[bold]x[/bold]"])[0].text
    assert all(ord(c) >= 32 and not 0x7F <= ord(c) <= 0x9F for line in lines for c in line)


@given(st.text(max_size=80))
def test_no_text_is_a_control_sequence(text):
    terminal, _ = shown([text[:7], text[7:]])
    assert all(c in "\n\t" or c >= " " for c in printable(text))
    assert "\x1b" not in terminal.text


def test_links_show_where_they_lead():
    text = shown(["[here](http://a.b/c) ![picture](http://d.e)"])[0].text
    assert "here (http://a.b/c)" in text and "http://d.e" in text
