"""The report's pages on evaluation: scores by stage with intervals, reliability, CORE's tasks, answers."""

from pynanochat.report.document import Fold, Heading, Picture, Samples, Table, Text
from pynanochat.report.plots import both, draw_accuracies, draw_reliability
from pynanochat.report.read import TITLES, Result, RunFiles
from pynanochat.report.words import ABSENT, accuracy, count, score, shortened
from pynanochat.runs import STAGES


def summary(run: RunFiles) -> list:
    """The table of scores by stage, a row for what was evaluated."""
    rows = []
    bpb = {name: stage.last("val_bpb") for name, stage in run.stages.items()}
    if any(value is not None for value in bpb.values()):
        rows.append(["validation bpb", "", "", *(score(bpb.get(stage)) for stage in STAGES)])
    for task in run.tasks():
        found = [run.results.get(stage, {}).get(task) for stage in STAGES]
        rows.append([task, count(total(found)), guess(found), *map(accuracy, found)])
    if not rows:
        return []
    blocks = [Heading("Summary"), Table(["", "questions", "guessing", *(TITLES[s] for s in STAGES)], rows)]
    if any(result.low is not None for results in run.results.values() for result in results.values()):
        blocks.append(
            Text("In parentheses: the 95 % interval. CORE and ChatCORE are means of centred scores, 0 for guessing.")
        )
    return blocks


def total(found: list[Result | None]) -> float | None:
    """Questions asked, the most of any."""
    return max((r.total for r in found if r and r.total is not None), default=None)


def guess(found: list[Result | None]) -> str:
    """The score of guessing."""
    return next((f"{r.baseline:.2f}" for r in found if r and r.baseline is not None), "")


def evaluation(run: RunFiles) -> list:
    """What stands behind the summary."""
    tasks = run.tasks()
    if not tasks:
        return []
    rows = [(task, _baseline(run, task), _marks(run, task)) for task in tasks]
    blocks = picture(
        "report/accuracy.png", "Scores of each task by stage, with their 95 % intervals", draw_accuracies, rows
    )
    blocks += reliability(run, tasks) + pass_at(run, tasks) + core(run)
    answers = [fold for task in tasks for fold in _answers(run, task)]
    if answers:
        blocks += [Heading("Answers", 3), Text("Drawn at random, of the latest stage that was asked."), *answers]
    return [Heading("Evaluation"), *blocks] if blocks else []


def picture(name: str, about: str, draw, *arguments) -> list:
    """A picture as a list of one block, or of none where there is nothing to draw."""
    drawn = both(draw, *arguments)
    return [Picture(name, *drawn, about)] if drawn else []


def _marks(run: RunFiles, task: str) -> list[tuple[str, Result]]:
    return [(TITLES[stage], run.results[stage][task]) for stage in STAGES if task in run.results.get(stage, {})]


def _baseline(run: RunFiles, task: str) -> float | None:
    return next((result.baseline for _, result in _marks(run, task) if result.baseline is not None), None)


def reliability(run: RunFiles, tasks: list[str]) -> list:
    """Whether the model is as often right as it is sure, of multiple choice."""
    marks = [(task, [m for m in _marks(run, task) if m[1].reliability]) for task in tasks]
    marks = [(task, found) for task, found in marks if found]
    drawn = picture("report/reliability.png", "Reliability of multiple choice", draw_reliability, marks)
    if not drawn:
        return []
    errors = [{label: result.calibration_error() for label, result in found} for _, found in marks]
    rows = [[task, *(score(e.get(TITLES[s]), 3) for s in STAGES)] for (task, _), e in zip(marks, errors, strict=True)]
    about = "A dot stands for the answers that were about equally sure; its size for their number. Calibration error:"
    table = Table(["", *(TITLES[stage] for stage in STAGES)], rows)
    return [Heading("Reliability of multiple choice", 3), *drawn, Text(about), table]


def pass_at(run: RunFiles, tasks: list[str]) -> list:
    """pass@k, where several answers were sampled."""
    found = [
        (f"{task}, {label}", result.pass_at) for task in tasks for label, result in _marks(run, task) if result.pass_at
    ]
    if not found:
        return []
    ks = sorted({k for _, rates in found for k in rates}, key=lambda k: (len(k), k))
    rows = [[name, *(score(rates.get(k), 3) for k in ks)] for name, rates in found]
    return [Heading("pass@k", 3), Table(["", *(f"k = {k}" for k in ks)], rows)]


def core(run: RunFiles) -> list:
    """CORE, task by task."""
    blocks = []
    for stage, results in run.core.items():
        rows = [
            [label, count(r.total), guess([r]), accuracy(r), score(r.centred, 3)]
            for label, r in sorted(results.items())
        ]
        table = Table(["", "questions", "guessing", "score", "centred"], rows)
        blocks.append(Fold(f"CORE of {TITLES[stage]}, task by task", [table]))
    return blocks


def _answers(run: RunFiles, task: str) -> list:
    stage = next((s for s in reversed(STAGES) if (r := run.results.get(s, {}).get(task)) and r.examples), None)
    if stage is None:
        return []
    examples = run.results[stage][task].examples
    right = sum(example.get("correct") is True for example in examples)
    title = f"{task}: {right} of these {len(examples)} answers of {TITLES[stage]} are right"
    return [Fold(title, [Samples([_answer(example) for example in examples])])]


def _answer(example: dict) -> tuple[str, str, str]:
    """(mark, prompt, answer) of an example; a wrong one with what would have been right."""
    mark = "✓ right" if example.get("correct") is True else "✗ wrong"
    if mark == "✗ wrong" and "reference" in example:
        mark += f"; right is: {shortened(str(example['reference']), 400)}"
    letters = example.get("letters_probabilities")
    if isinstance(letters, dict):
        mark += "; " + ", ".join(f"{letter} {score(p, 2)}" for letter, p in letters.items())
    prompt, answer = (shortened(str(example.get(name, ABSENT))) for name in ("prompt", "answer"))
    return mark, f"{prompt}\n", answer
