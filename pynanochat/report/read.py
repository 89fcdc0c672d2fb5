"""Read a run folder, whatever of it is there: `RunFiles.read(Path("runs/toy"))`.

A file that cannot be read is left out and named in `problems`; of a metrics file, lines that are cut off are skipped,
and numbers that are not finite count as absent.
"""

import json
import math
import statistics
from dataclasses import dataclass, field
from pathlib import Path

from pynanochat.errors import DataError

STAGES = ("pretrain", "midtrain", "sft", "rl")
TITLES = {
    "tokenizer": "Tokenizer",
    "pretrain": "BASE",
    "midtrain": "MID",
    "sft": "SFT",
    "rl": "RL",
    "eval": "Evaluation",
}


@dataclass
class StageFiles:
    """One stage's metrics and summary."""

    name: str
    lines: list[dict] = field(default_factory=list)
    summary: dict = field(default_factory=dict)

    def series(self, y: str, x: str = "step") -> tuple[list[float], list[float]]:
        """The finite values of `y` and where they are on `x`."""
        points = [(number(line.get(x)), number(line.get(y))) for line in self.lines]
        points = [(a, b) for a, b in points if a is not None and b is not None]
        return [a for a, _ in points], [b for _, b in points]

    def last(self, name: str) -> float | None:
        """The summary's number, else the last one in the metrics."""
        value = number(self.summary.get(name))
        if value is not None:
            return value
        values = self.series(name)[1]
        return values[-1] if values else None

    def typical(self, name: str) -> float | None:
        """The summary's number, else the median of the metrics."""
        value = number(self.summary.get(name))
        values = self.series(name)[1]
        return statistics.median(values) if value is None and values else value

    def samples(self) -> list[tuple[int, list[tuple[str, str]]]]:
        """(step, [(prompt, text), ...]) in the order of training."""
        found = []
        for line in self.lines:
            if isinstance(line.get("samples"), list) and number(line.get("step")) is not None:
                pairs = [s for s in line["samples"] if isinstance(s, dict)]
                found.append((int(line["step"]), [(str(s.get("prompt", "")), str(s.get("text", ""))) for s in pairs]))
        return found


@dataclass
class RunFiles:
    """A run's folder as data."""

    folder: Path
    settings: dict = field(default_factory=dict)
    environment: dict = field(default_factory=dict)
    tokenizer: dict = field(default_factory=dict)
    tokenizer_summary: dict = field(default_factory=dict)
    stages: dict[str, StageFiles] = field(default_factory=dict)
    evals: dict[str, dict[str, float]] = field(default_factory=dict)
    """Score of each task by stage, from `evals` of a stage's summary ({task: score}) or of the eval stage's summary
    ({stage: {task: score}})."""
    seconds: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> "RunFiles":
        """Raises DataError where `folder` is no run."""
        if not folder.is_dir():
            raise DataError(f"{folder}: no such run; give the name of a folder under runs/, or its path")
        run = cls(folder)
        run.settings = run._json("settings.json")
        run.environment = run._json("environment.json")
        run.tokenizer = run._json("tokenizer/eval.json")
        run.tokenizer_summary = run._json("tokenizer/summary.json")
        for name in STAGES:
            stage = StageFiles(name, run._lines(f"{name}/metrics.jsonl"), run._json(f"{name}/summary.json"))
            if stage.lines or stage.summary:
                run.stages[name] = stage
                run._add_evals(name, stage.summary.get("evals"))
        evaluation = run._json("eval/summary.json")
        of_stages = evaluation.get("evals")
        for name, scores in of_stages.items() if isinstance(of_stages, dict) else ():
            run._add_evals(name, scores)
        run._add_seconds(evaluation)
        if not (run.stages or run.tokenizer or run.tokenizer_summary or run.settings):
            raise DataError(
                f"{folder}: nothing of a run in it; train one with `pynanochat speedrun --run {folder.name}`"
            )
        return run

    def _add_evals(self, stage: str, scores) -> None:
        known = {task: number(score) for task, score in scores.items()} if isinstance(scores, dict) else {}
        known = {task: score for task, score in known.items() if score is not None}
        if known:
            self.evals.setdefault(stage, {}).update(known)

    def _add_seconds(self, evaluation: dict) -> None:
        took = {"tokenizer": number(self.tokenizer_summary.get("seconds"))}
        took |= {name: stage.last("seconds") for name, stage in self.stages.items()}
        took["eval"] = number(evaluation.get("seconds"))
        self.seconds = {name: value for name, value in took.items() if value is not None}

    def _json(self, name: str) -> dict:
        try:
            value = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            self.problems.append(f"{name} could not be read ({error.__class__.__name__}) and is left out.")
            return {}
        if not isinstance(value, dict):
            self.problems.append(f"{name} does not hold a JSON object and is left out.")
            return {}
        return value

    def _lines(self, name: str) -> list[dict]:
        try:
            text = (self.folder / name).read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return []
        lines = []
        for line in text.split("\n"):
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                lines.append(value)
        return lines


def number(value) -> float | None:
    """`value` if it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value
