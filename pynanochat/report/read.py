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
from pynanochat.runs import STAGES

TASKS = (
    "CORE", "ARC-Challenge", "ARC-Easy", "GSM8K", "HumanEval", "MMLU", "SpellingBee", "ChatCORE",
    "SimpleSpelling", "ToyWorld-Choice", "ToyWorld-Facts", "ToyWorld-Math", "ToyWorld-Arithmetic", "ToyWorld-Chat",
)  # fmt: skip
"""The order of the summary; a mean over some of its tasks, "ChatCORE (3 of 6 tasks)", stands in the mean's place."""
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
class Result:
    """What a stage scored on a task; from RUN/eval/STAGE/TASK.json, or the score alone from a summary."""

    score: float
    low: float | None = None
    """The 95 % interval."""
    high: float | None = None
    total: float | None = None
    """Questions."""
    baseline: float | None = None
    """The score of guessing."""
    centred: float | None = None
    examples: list[dict] = field(default_factory=list)
    reliability: list[dict] = field(default_factory=list)
    pass_at: dict[str, float] = field(default_factory=dict)

    @classmethod
    def read(cls, values) -> "Result | None":
        """From a JSON value; None where it holds no score."""
        if not isinstance(values, dict) or number(values.get("score")) is None:
            return None
        plain = {name: number(values.get(name)) for name in ("score", "low", "high", "total", "baseline", "centred")}
        examples, bins, pass_at = (values.get(name) for name in ("examples", "reliability", "pass_at"))
        return cls(
            **plain,
            examples=[e for e in examples if isinstance(e, dict)] if isinstance(examples, list) else [],
            reliability=[b for b in map(_bin, bins) if b] if isinstance(bins, list) else [],
            pass_at={str(k): number(v) for k, v in pass_at.items() if number(v) is not None}
            if isinstance(pass_at, dict)
            else {},
        )

    def calibration_error(self) -> float | None:
        """Mean distance of confidence and accuracy over the answers."""
        answers = sum(b["count"] for b in self.reliability)
        return (
            sum(b["count"] * abs(b["confidence"] - b["accuracy"]) for b in self.reliability) / answers
            if answers
            else None
        )


def _bin(values) -> dict | None:
    names = ("count", "confidence", "accuracy")
    found = {name: number(values.get(name)) for name in names} if isinstance(values, dict) else {}
    return found if found and None not in found.values() and found["count"] > 0 else None


@dataclass
class RunFiles:
    """A run's folder as data."""

    folder: Path
    settings: dict = field(default_factory=dict)
    environment: dict = field(default_factory=dict)
    tokenizer: dict = field(default_factory=dict)
    tokenizer_summary: dict = field(default_factory=dict)
    stages: dict[str, StageFiles] = field(default_factory=dict)
    results: dict[str, dict[str, Result]] = field(default_factory=dict)
    """By stage and task; from eval/STAGE/TASK.json, else from the eval stage's summary, else from a stage's own."""
    core: dict[str, dict[str, Result]] = field(default_factory=dict)
    """By stage and label: CORE's tasks."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Of wall clock, by stage."""
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
                run._add_scores(name, {"evals": {name: stage.summary.get("evals")}})
        evaluation = run._json("eval/summary.json")
        for name in STAGES:
            run._add_scores(name, evaluation)
            run._add_results(name)
        run._add_seconds(evaluation)
        if not (run.stages or run.tokenizer or run.tokenizer_summary or run.settings):
            raise DataError(
                f"{folder}: nothing of a run in it; train one with `pynanochat speedrun --run {folder.name}`"
            )
        return run

    def _add_scores(self, stage: str, summary: dict) -> None:
        """Scores and intervals as summaries have them."""
        scores, intervals, totals = (_inner(summary, name, stage) for name in ("evals", "intervals", "totals"))
        baselines = _inner(summary, "baselines")
        for task, score in scores.items():
            bounds = intervals.get(task)
            low, high = bounds if isinstance(bounds, list) and len(bounds) == 2 else (None, None)
            values = {
                "score": score,
                "low": low,
                "high": high,
                "total": totals.get(task),
                "baseline": baselines.get(task),
            }
            if result := Result.read(values):
                self.results.setdefault(stage, {})[task] = result

    def _add_results(self, stage: str) -> None:
        for within, results in (("", self.results), ("core/", self.core)):
            for file in sorted((self.folder / "eval" / stage / within).glob("*.json")):
                values = self._json(f"eval/{stage}/{within}{file.name}")
                if result := Result.read(values):
                    task = str(values.get("task", file.stem)) if not within else file.stem
                    results.setdefault(stage, {})[task] = result

    def tasks(self) -> list[str]:
        """The tasks that any stage has a result for, in the order of TASKS; those unknown to it last."""
        names = dict.fromkeys(task for stage in STAGES for task in self.results.get(stage, {}))
        place = lambda task: TASKS.index(t) if (t := task.partition(" (")[0]) in TASKS else len(TASKS)  # noqa: E731
        return sorted(names, key=place)

    def stage_of(self, task: str) -> str | None:
        """The latest stage with a result for the task."""
        return next((stage for stage in reversed(STAGES) if task in self.results.get(stage, {})), None)

    def _add_seconds(self, evaluation: dict) -> None:
        took = {"tokenizer": number(self.tokenizer_summary.get("seconds"))}
        for name, stage in self.stages.items():
            wall = stage.last("wall_seconds")  # an unfinished stage has the seconds of its steps alone
            took[name] = stage.last("seconds") if wall is None else wall
        took["eval"] = number(evaluation.get("seconds"))
        self.seconds = {name: value for name, value in took.items() if value is not None}

    def _json(self, name: str) -> dict:
        try:
            value = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError) as error:
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
            except (ValueError, RecursionError):
                continue
            if isinstance(value, dict):
                lines.append(value)
        return lines


def _inner(values: dict, *names: str) -> dict:
    """values[name][name]...; an empty dict where that is none."""
    for name in names:
        values = values.get(name) if isinstance(values, dict) else None
    return values if isinstance(values, dict) else {}


def number(value) -> float | None:
    """`value` if it is a finite number, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return value
