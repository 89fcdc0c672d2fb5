"""Runs side by side: figures, scores of each stage, the curves over each other, and what was chosen differently.

write_comparison([Path("runs/a"), Path("runs/b")], Path("compare"))    as `pynanochat report compare a b`
"""

import itertools
from pathlib import Path

from pynanochat.report.compose import price, write_document
from pynanochat.report.document import Heading, Picture, Table, Text
from pynanochat.report.plots import draw_accuracies, draw_overlay
from pynanochat.report.read import TITLES, RunFiles, StageFiles
from pynanochat.report.results import guess, picture
from pynanochat.report.words import ABSENT, accuracy, count, dollars, duration, percent, score
from pynanochat.runs import STAGES

CURVES = (
    ("loss", "training loss", "nats per token"),
    ("val_bpb", "validation", "bits per byte"),
    ("reward", "reward", "mean over a step"),
    ("pass@1", "pass@1, held-out", "part answered right"),
    ("val_answer_tokens", "length of held-out answers", "tokens"),
)


def write_comparison(folders: list[Path], out: Path, price_per_hour: float | None = None) -> Path:
    """Write the comparison of runs into the folder `out`; the path of its report.md. Raises DataError for no run."""
    runs = dict(zip(labels(folders), map(RunFiles.read, folders), strict=True))
    out.mkdir(parents=True, exist_ok=True)
    return write_document(out, f"pynanochat: {', '.join(runs)}", compose(runs, price_per_hour))


def labels(folders: list[Path]) -> list[str]:
    """The folders' names, with as much of their path as tells them apart."""
    parts = [folder.absolute().parts for folder in folders]
    deepest = max(map(len, parts))
    for depth in range(1, deepest + 1):
        names = ["/".join(p[-depth:]) for p in parts]
        if len(set(names)) == len(names):
            return names
    return [f"{name} ({i})" for i, name in enumerate(names, 1)]


def compose(runs: dict[str, RunFiles], price_per_hour: float | None = None) -> list:
    """The blocks of the comparison of runs by their labels."""
    blocks = [Heading(f"pynanochat: {', '.join(runs)}", 1)]
    blocks += [Text(f"{label}: {problem}") for label, run in runs.items() for problem in run.problems]
    return blocks + figures(runs, price_per_hour) + scores(runs) + curves(runs) + choices(runs)


def figures(runs: dict[str, RunFiles], price_per_hour: float | None) -> list:
    """Sizes, speed, time and cost, a column for each run."""
    rows = []
    add = lambda name, values: rows.append([name, *values])  # noqa: E731
    base = [run.stages.get("pretrain", StageFiles("pretrain")) for run in runs.values()]
    add("parameters", [count(stage.last("parameters")) for stage in base])
    for name in STAGES:
        stages = [run.stages.get(name, StageFiles(name)) for run in runs.values()]
        title = TITLES[name]
        add(f"{title}: steps", [count(stage.last("steps") or stage.last("step")) for stage in stages])
        add(f"{title}: tokens", [count(stage.last("tokens")) for stage in stages])
        add(f"{title}: tokens/s", [count(stage.typical("tokens_per_second")) for stage in stages])
        add(f"{title}: MFU", [percent(stage.typical("mfu")) for stage in stages])
        add(f"{title}: validation bpb", [score(stage.last("val_bpb")) for stage in stages])
        add(f"{title}: held-out pass@1", [score(stage.last("pass@1")) for stage in stages])
        add(f"{title}: time", [_time(run.seconds.get(name)) for run in runs.values()])
    totals = [sum(run.seconds.values()) for run in runs.values()]
    add("time in all", [_time(seconds or None) for seconds in totals])
    prices = [price(run) if price_per_hour is None else price_per_hour or None for run in runs.values()]
    add("cost", [dollars(cost, seconds) for cost, seconds in zip(prices, totals, strict=True)])
    rows = [row for row in rows if any(cell != ABSENT for cell in row[1:])]
    return [Heading("Figures"), Table(["", *runs], rows)] if rows else []


def _time(seconds: float | None) -> str:
    return ABSENT if seconds is None else duration(seconds)


def scores(runs: dict[str, RunFiles]) -> list:
    """Every task and stage that any run has, and the latest stage of each as a picture."""
    tasks = list(dict.fromkeys(task for run in runs.values() for task in run.tasks()))
    rows, drawn = [], []
    for task in tasks:
        for stage in STAGES:
            found = [run.results.get(stage, {}).get(task) for run in runs.values()]
            if any(found):
                rows.append([f"{task}, {TITLES[stage]}", guess(found), *map(accuracy, found)])
        latest = [(label, run.results[stage][task]) for label, run in runs.items() if (stage := run.stage_of(task))]
        drawn.append((task, next((r.baseline for _, r in latest if r.baseline is not None), None), latest))
    if not rows:
        return []
    about = "Scores of the latest stage of each run, with their 95 % intervals"
    blocks = picture("report/accuracy.png", about, draw_accuracies, drawn)
    return [Heading("Scores"), *blocks, Table(["", "guessing", *runs], rows)]


def curves(runs: dict[str, RunFiles]) -> list:
    """The curves of each stage that two runs have or more, over each other."""
    blocks = []
    for name in STAGES:
        stages = {label: run.stages[name] for label, run in runs.items() if name in run.stages}
        panels = []
        for metric, title, unit in CURVES:
            lines = [(label, *stage.series(metric)) for label, stage in stages.items()]
            panels.append((title, unit, [line for line in lines if len(line[2]) > 1]))
        about = f"Curves of {TITLES[name]}"
        drawn: list[Picture] = picture(f"report/{name}.png", about, draw_overlay, panels)
        if drawn:
            blocks += [Heading(TITLES[name]), *drawn]
    return blocks


def choices(runs: dict[str, RunFiles]) -> list:
    """The settings and facts of the environment that are not the same in all runs."""
    rows = []
    flat = [_flat(run.settings) | _flat({"environment": run.environment}) for run in runs.values()]
    for name in dict.fromkeys(itertools.chain.from_iterable(flat)):
        values = [str(table.get(name, ABSENT)) for table in flat]
        if len(set(values)) > 1:
            rows.append([name, *values])
    return [Heading("What differs"), Table(["", *runs], rows, prose=True)] if rows else []


def _flat(tables: dict) -> dict:
    flat = {name: value for name, value in tables.items() if not isinstance(value, dict)}
    return flat | {
        f"{name}.{k}": v for name, table in tables.items() if isinstance(table, dict) for k, v in table.items()
    }
