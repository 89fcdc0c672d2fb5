"""Text that grows on a terminal, shown as Markdown all the while.

    screen = Screen(console)
    for piece in pieces: screen.write(piece)
    screen.close()

Each time the whole text is rendered again, and of the lines on the terminal only those that became different are
written again, which is nearly always just the last one: nothing flickers, and nothing stands twice in the scrollback.
Lines that have left the terminal at its top stay as they were.
"""

import time

from markdown_it import MarkdownIt
from rich.markdown import CodeBlock, Heading, Markdown
from rich.segment import Segment, Segments
from rich.syntax import Syntax

SHORTEST = 0.04
"""Seconds between two renderings."""
SHARE = 4
"""Rendering takes at most about one part in so many of the time, however long the text."""


def printable(text: str) -> str:
    """`text` without control characters, which could drive the terminal."""
    return "".join(c if c in "\n\t" or c.isprintable() or ord(c) > 0x9F else "\ufffd" for c in text)


class PlainHeading(Heading):
    """A heading at the left margin."""

    def __rich_console__(self, console, options):
        self.text.justify = "left"
        yield self.text


class PlainCode(CodeBlock):
    """Code set in a little, without rows of nothing above and below."""

    def __rich_console__(self, console, options):
        yield Syntax(str(self.text).rstrip(), self.lexer_name, theme=self.theme, word_wrap=True, padding=(0, 2))


class Answer(Markdown):
    """Markdown in which nothing that the model wrote gets lost: HTML is text, a line break is a line break."""

    elements = Markdown.elements | {"heading_open": PlainHeading, "fence": PlainCode, "code_block": PlainCode}

    def __init__(self, text: str):
        super().__init__("", code_theme="ansi_dark", hyperlinks=False)
        parser = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"])
        self.parsed = parser.disable(["image", "reference"]).parse(text)
        for token in self.parsed:
            for child in token.children or []:
                if child.type == "softbreak":
                    child.type = "hardbreak"


class Screen:
    """One growing text on `console`, a terminal, from the start of a line on."""

    def __init__(self, console):
        self.console = console
        self.width = console.width
        self.text = ""
        self.shown: list[str] = []
        self._next = 0.0

    def write(self, piece: str) -> None:
        """Add to the text. What comes in quick succession is shown together."""
        self.text += piece
        now = time.monotonic()
        if now >= self._next:
            self.draw()
            spent = time.monotonic() - now
            self._next = now + max(SHORTEST, SHARE * spent)

    def close(self) -> None:
        """Show all of it and go to the start of the next line."""
        self.draw()
        if self.shown:
            self._put("\n")
        self.text, self.shown = "", []

    def draw(self) -> None:
        """Make the terminal show the text as it is now."""
        lines = self._lines()
        same = next((i for i, (a, b) in enumerate(zip(lines, self.shown, strict=False)) if a != b), None)
        if same is None:
            same = min(len(lines), len(self.shown))
            if len(lines) == len(self.shown):
                return
        first = max(same, len(self.shown) - self.console.height + 1)
        if not self.shown:
            self._put("\n".join(lines))
        elif first >= len(self.shown):
            self._put("".join("\n" + line for line in lines[first:]))
        else:
            first = min(first, max(len(lines) - 1, 0))
            up = len(self.shown) - 1 - first
            self._put((f"\x1b[{up}A" if up else "") + "\r\x1b[J" + "\n".join(lines[first:]))
        self.shown = lines

    def _lines(self):
        """The text as lines for the terminal, colours included."""
        options = self.console.options.update(width=self.width - 1, height=None)
        lines = self.console.render_lines(Answer(printable(self.text)), options, pad=False)
        while lines and not "".join(s.text for s in lines[-1]).strip():
            lines.pop()
        clean = []
        for line in lines:  # again: Markdown can spell any character, &#27; for one
            clean += [Segment(printable(s.text).rstrip("\n"), s.style) for s in line if not s.control]
            clean.append(Segment.line())
        with self.console.capture() as capture:
            self.console.print(Segments(clean), end="")
        return [line.rstrip(" ") for line in capture.get().split("\n")][: len(lines)]

    def _put(self, text):
        self.console.file.write(text)
        self.console.file.flush()
