"""Line editing with a history that lasts, where standard input is a terminal and readline is there."""

import contextlib
import importlib
import os
import sys
from pathlib import Path

HISTORY_LINES = 1000


class History:
    """While it is entered, `input` edits lines, remembers them, and completes `words` with Tab."""

    def __init__(self, words: list[str]):
        self.words = words

    def __enter__(self):
        state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
        self._file = Path(state) / "pynanochat" / "chat_history"
        self._readline = None
        if sys.stdin.isatty():
            with contextlib.suppress(ImportError):
                self._readline = importlib.import_module("readline")
        if self._readline is not None:
            self._readline.set_history_length(HISTORY_LINES)
            with contextlib.suppress(OSError):
                self._readline.read_history_file(self._file)
            self._readline.set_completer_delims(" ")
            self._readline.set_completer(self._complete)
            self._readline.parse_and_bind("tab: complete")

    def __exit__(self, *_):
        if self._readline is None:
            return
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._readline.write_history_file(self._file)
            self._file.chmod(0o600)

    def _complete(self, start, number):
        """The word number `number` that begins with `start`; None where there are no more."""
        found = [word for word in self.words if start.startswith("/") and word.startswith(start)]
        return found[number] + " " if number < len(found) else None
