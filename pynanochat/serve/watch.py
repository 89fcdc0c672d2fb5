"""The training page's data: the metrics of a run's stages, read on as the files grow.

Watch(folder).data() -> {"run", "stages": [{"stage", "done", "points": [a line of metrics.jsonl each, ...]}]}

Points are thinned evenly to MOST_STEPS a stage; lines of evaluations and samples all stay. Numbers that are not finite
are left out.
"""

import json
from pathlib import Path

from pynanochat.report.read import number
from pynanochat.runs import STAGES

MOST_STEPS = 800
MOST_OTHERS = 400
_LONGEST_READ = 64 << 20
_LONGEST_TEXT = 2_000


class Watch:
    def __init__(self, folder: Path):
        self.folder = folder
        self._tails = {stage: Tail(folder / stage / "metrics.jsonl") for stage in STAGES}

    def data(self) -> dict:
        stages = []
        for stage, tail in self._tails.items():
            tail.read_on()
            done = (self.folder / stage / "done.json").is_file()
            if tail.points or done:
                stages.append({"stage": stage, "done": done, "points": tail.thinned()})
        return {"run": self.folder.name, "stages": stages}


class Tail:
    """One growing file of JSON lines. A file that was cut or replaced is read anew."""

    def __init__(self, file: Path):
        self.file = file
        self._forget()

    def _forget(self):
        self.points: list[dict] = []
        self._at, self._inode, self._last = 0, None, b""

    def read_on(self) -> None:
        """Take in the whole lines that are new."""
        try:
            with open(self.file, "rb") as file:
                self._check_same(file)
                file.seek(self._at)
                block = file.read(_LONGEST_READ)
        except OSError:
            self._forget()
            return
        whole = block[: block.rfind(b"\n") + 1]
        self._at += len(whole)
        self._last = (self._last + whole)[-64:]
        self.points += [point for line in whole.splitlines() if (point := _point(line))]

    def _check_same(self, file):
        """Forget what was read where the bytes just before our place are others now, as after a resumption."""
        file.seek(max(0, self._at - len(self._last)))
        if file.read(len(self._last)) != self._last:
            self._forget()

    def thinned(self) -> list[dict]:
        steps = [point for point in self.points if "loss" in point]
        others = [point for point in self.points if "loss" not in point]
        kept = evenly(steps, MOST_STEPS) + evenly(others, MOST_OTHERS)
        return sorted(kept, key=lambda point: point.get("step", 0))


def evenly(points: list, most: int) -> list:
    """At most `most` of the points, the first and the last among them."""
    if len(points) <= most:
        return list(points)
    return [points[round(i * (len(points) - 1) / (most - 1))] for i in range(most)]


def _point(line: bytes) -> dict | None:
    """A line's finite numbers, and its samples."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, dict):
        return None
    point = {name: x for name, x in value.items() if number(x) is not None}
    if isinstance(value.get("samples"), list):
        pairs = [one for one in value["samples"] if isinstance(one, dict)]
        point["samples"] = [
            {name: str(one.get(name, ""))[:_LONGEST_TEXT] for name in ("prompt", "text")} for one in pairs
        ]
    return point or None
