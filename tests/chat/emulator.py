"""As much of a terminal as the chat needs: what stands on it, and what has left it at the top."""

import re

TOKENS = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|\x1b.|[\r\n\x07\x08]|[^\x1b\r\n\x07\x08]+", re.S)


class Emulator:
    def __init__(self, width, height):
        self.width, self.height = width, height
        self.lines, self.row, self.column = [""], 0, 0
        self.top = 0
        """Lines that have left the screen; the cursor cannot go back to them."""
        self.strange = []
        """Sequences that an answer should not need."""

    def feed(self, text):
        for match in TOKENS.finditer(text):
            whole, (number, letter) = match[0], match.groups()
            if letter == "A":
                self.row = max(self.row - int(number or 1), self.top)
            elif letter == "J" and number in ("", "0"):
                self.lines = [*self.lines[: self.row], self.lines[self.row][: self.column]]
            elif letter == "K":
                self.lines[self.row] = self.lines[self.row][: self.column]
            elif whole == "\n":
                self._down()  # and to the left, as the terminal's driver makes it
                self.column = 0
            elif whole == "\r":
                self.column = 0
            elif whole.startswith("\x1b") or whole in "\x07\x08":
                if letter != "m":
                    self.strange.append(whole)
            else:
                for character in whole:
                    self._put(character)
        return self

    @property
    def text(self):
        """All lines, those that have left too."""
        return "\n".join(line.rstrip() for line in self.lines)

    def _put(self, character):
        if self.column == self.width:
            self._down()
            self.column = 0
        line = self.lines[self.row].ljust(self.column)
        self.lines[self.row] = line[: self.column] + character + line[self.column + 1 :]
        self.column += 1

    def _down(self):
        self.row += 1
        if self.row == len(self.lines):
            self.lines.append("")
        self.top = max(self.top, self.row - self.height + 1)
