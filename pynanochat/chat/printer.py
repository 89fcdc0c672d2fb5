"""Shows the events of one answer as they come, and collects the answer as a message's content."""

from pynanochat.chat.screen import Screen, printable

WHY = {
    "length": "cut off: the longest answer or the end of the context is reached; /maxtokens makes answers longer",
    "interrupted": "interrupted",
}


class Printer:
    """`out` is the console of the answer, `note(text)` says what is not part of it. Markdown only where `rich`."""

    def __init__(self, out, note, rich: bool):
        self.out, self.note = out, note
        self.screen = Screen(out) if rich else None
        self.parts: list[dict] = []
        self._call: str | None = None
        self._fresh = True  # at the start of a line

    def show(self, event) -> None:
        kind, text = event.kind, event.text
        if self._call is not None:  # a call is shown with its output, if it has one
            self._block(self._call, event if kind == "tool_output" else None)
            self._call = None
        elif kind == "tool_output":
            self._block(None, event)
        if kind == "text":
            self._keep("text", text)
            self.text(text)
        elif kind == "tool_call":
            self._keep("python", text)
            self._call = text
        elif kind == "tool_output":
            self._keep("python_output", text)
        elif kind == "notice":
            self.note(text)
        elif kind == "end":
            self.end(text)

    def text(self, text: str, style: str | None = None) -> None:
        """More of the answer."""
        if self.screen is not None:
            self.screen.write(text)
            return
        self._print(text, style)

    def end(self, finish: str) -> None:
        """The last of it: "stop", "length" or "interrupted"."""
        if self._call is not None:
            self._block(self._call, None)
        if self.screen is not None:
            self.screen.close()
        elif not self._fresh or not self.out.is_terminal:
            self._print("\n")
        if finish != "stop":
            self.note(f"({WHY.get(finish, finish)})")

    def _print(self, text, style=None):
        self.out.print(printable(text), end="", style=style, markup=False)
        self.out.file.flush()
        self._fresh = text.endswith("\n")

    def _keep(self, kind, text):
        if self.parts and self.parts[-1]["type"] == kind == "text":
            self.parts[-1]["text"] += text
        else:
            self.parts.append({"type": kind, "text": text})

    def _block(self, call, output):
        """A call of the calculator and its output on lines of their own; nothing of it in a pipe."""
        if not self.out.is_terminal:
            return
        if self.screen is not None:
            self.screen.close()
        elif not self._fresh:
            self._print("\n")
        words = [] if call is None else [call]
        if output is not None:
            words.append("→ " + output.text)
            if not output.forced:
                words.append("(written by the model)")
        elif call is not None:
            words.append("(no result)")
        self._print("  │ " + " ".join(words).replace("\n", "\n  │ ") + "\n", style="cyan")
