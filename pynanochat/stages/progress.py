"""What a training stage shows while it runs: a live bar on a terminal, plain lines elsewhere; first rank only."""

import sys
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

LINE_EVERY = 10.0  # seconds between plain lines


class Display:
    """`update` after each step, `say` for anything else; a context manager."""

    def __init__(self, name: str, total: int, first: bool):
        self.name, self.total, self.shown = name, total, first
        self.console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self.bar = None
        if first and self.console.is_terminal:
            columns = (
                TextColumn(f"[bold]{name}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.description}"),
                TimeElapsedColumn(),
            )
            self.bar = Progress(*columns, console=self.console)
            self.task = self.bar.add_task("", total=total)
        self._last_line = 0.0

    def __enter__(self):
        if self.bar:
            self.bar.start()
        return self

    def __exit__(self, *_):
        if self.bar:
            self.bar.stop()

    def update(self, step: int, facts: str) -> None:
        """`step` steps are done; `facts` is the line of figures."""
        if self.bar:
            self.bar.update(self.task, completed=step, description=facts)
        elif self.shown and (time.monotonic() - self._last_line >= LINE_EVERY or step == self.total):
            self._last_line = time.monotonic()
            self.console.print(f"{self.name} {step}/{self.total}  {facts}", markup=False)

    def say(self, text: str) -> None:
        if self.shown:
            self.console.print(text, markup=False)


def duration(seconds: float) -> str:
    """42 s, 3 min 05 s, 2 h 07 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
