"""Evaluation: every trained stage of a run on the tasks that its data has, and the base model on CORE.

    RUN/eval/STAGE/TASK.json         a Score: counts, interval, examples, wrong ones included
    RUN/eval/STAGE/core/LABEL.json   the same of CORE's tasks; CORE.json and ChatCORE.json are their means
    RUN/eval/summary.json            {"evals": {stage: {task: score}}, "intervals", "totals", "baselines", "seconds"}

Each result bears a key of what it depends on: weights, settings, questions. What is there with the right key is not
done again, so that an evaluation that was stopped goes on, and new weights are evaluated anew.
"""

import contextlib
import hashlib
import json
import math
from dataclasses import dataclass
from pathlib import Path

from pynanochat import checkpoint, runtime, settings
from pynanochat.checkpoint import write_json
from pynanochat.data.bundle import CORE_URL, fetch_bundle
from pynanochat.errors import DataError, PynanochatError, UsageError
from pynanochat.evals import chat, core
from pynanochat.evals.core_tasks import TABLES, open_bundle
from pynanochat.evals.score import Score, chat_core
from pynanochat.runs import STAGES
from pynanochat.stages.progress import duration

NAME = "eval"
RENEWS = True  # other weights or settings are a reason to evaluate again, not an error
VERSION = 1  # of how an answer is made and judged; results of another one are done again
BUNDLE = "CORE"


@dataclass(frozen=True)
class EvalSettings:
    tasks: str = ""
    """Comma list of tasks, CORE and CORE/LABEL among them; empty for all that the data has."""
    stage: str = ""
    """Comma list of trained stages to evaluate: pretrain, midtrain, sft, rl; empty for all that there are."""
    max_examples: int = 0
    """Questions of each task, drawn at random; 0 for all."""
    core: bool = True
    """Evaluate the base model on CORE, where the data has it."""
    core_bundle: str = ""
    """CORE's files: a folder, or the URL of a zip; empty for core/ of the data folder, or the family's for the Hub."""
    core_examples: int = 0
    """Rows of each of CORE's tasks; 0 for all."""
    samples: int = 1
    """Answers to each question that is answered freely; it is right if one of them is, and pass@k is reported."""
    temperature: float = 0.0
    """Of these answers."""
    rows: int = 64
    """Sequences decoded at once."""

    OPERATIONAL = frozenset({"rows"})


def identity(run) -> dict:
    wanted = run.tables[NAME]
    names = ",".join(_names(wanted, run.task_data()))
    weights = {f"{stage}_weights": weights_of(run, stage) for stage in _stages(run)}
    return (
        settings.binding(wanted)
        | weights
        | {"dtype": _dtype(run), "task_names": names, "tokenizer_hash": run.tokenizer().hash(), "version": VERSION}
    )


def train(run) -> dict:
    """Evaluate `run`; goes on where it was stopped. Returns the summary."""
    check_settings(run.tables[NAME])
    device = runtime.pick_device(run.settings.device, run.ranks)
    runtime.init_distributed(run.ranks, device)
    stages = _stages(run)
    if run.ranks.first:
        (run.stage_folder(NAME) / "done.json").unlink(missing_ok=True)
        for stage in STAGES:
            _remove_stale(run.stage_folder(NAME) / stage, weights_of(run, stage))
    runtime.barrier(run.ranks)
    for stage in stages:
        _Evaluation(run, stage, device).carry_out()
    summary = summarize(run.stage_folder(NAME))
    if run.ranks.first:
        write_json(run.stage_folder(NAME) / "summary.json", summary)
    run.say(table(summary))
    return summary


def check_settings(wanted: EvalSettings) -> None:
    """Raise UsageError for settings that cannot be carried out, whatever the data."""
    from pynanochat.tasks import GRADED

    for name in _split(wanted.tasks):
        if name not in GRADED and name.partition("/")[0] != BUNDLE:
            raise UsageError(f"--tasks {name}: no such task to grade; use {', '.join(GRADED)} or {BUNDLE}")
    for name in _split(wanted.stage):
        if name not in STAGES:
            raise UsageError(f"--stage {name}: no such stage; use {', '.join(STAGES)}")
    for name in ("max_examples", "core_examples"):
        if getattr(wanted, name) < 0:
            raise UsageError(f"--{name.replace('_', '-')} {getattr(wanted, name)}: must be 0 (all) or more")
    for name in ("samples", "rows"):
        if getattr(wanted, name) < 1:
            raise UsageError(f"--{name} {getattr(wanted, name)}: must be at least 1")
    if wanted.samples > 1 and wanted.temperature == 0:
        raise UsageError(f"--samples {wanted.samples}: at --temperature 0 they are all the same; use 0.8, say")


def check_plan(run) -> None:
    """Raise what can be known to go wrong before anything is trained: settings, tasks that the data lack."""
    from pynanochat.tasks import open_task

    wanted = run.tables[NAME]
    check_settings(wanted)
    for name in _split(wanted.tasks):
        if name.partition("/")[0] != BUNDLE:
            open_task(name, "test", run.task_data())


def _stages(run) -> list[str]:
    """The stages to evaluate. Raises UsageError for one that is not trained."""
    trained = [stage for stage in STAGES if checkpoint.steps(run.stage_folder(stage))]
    wanted = _split(run.tables[NAME].stage) or trained
    for stage in wanted:
        if stage not in trained:
            raise UsageError(
                f"--stage {stage}: {run.folder} has {', '.join(trained) or 'no trained stage'}; name those"
            )
    if not wanted:
        raise UsageError(f"{run.folder} has no trained stage to evaluate; train one with `pynanochat speedrun` first")
    return [stage for stage in STAGES if stage in wanted]


def _names(wanted: EvalSettings, where) -> list[str]:
    """The chat tasks and CORE's that are asked for."""
    from pynanochat.tasks import available

    return _split(wanted.tasks) or [*available(where), *([BUNDLE] if has_core(wanted, where) else [])]


def _dtype(run) -> str:
    """What the models compute in here."""
    device = runtime.pick_device(run.settings.device, run.ranks)
    return str(runtime.pick_compute_dtype(device, run.settings.dtype)).removeprefix("torch.")


def check_isolation(task) -> None:
    """Raise UsageError for a task that would run the model's programs where nothing cuts them off."""
    if task.runs_code:
        from pynanochat.tools import sandbox

        if not sandbox.isolated():
            raise UsageError(
                f"{task.name} runs programs that the model writes, and this machine only has {sandbox.active_tier()} "
                "against them; allow user namespaces, or leave it out of --tasks"
            )


def has_core(wanted: EvalSettings, where) -> bool:
    """Whether the base model is to be evaluated on CORE without being asked to by name."""
    return wanted.core and (bool(wanted.core_bundle) or where.data != "toyworld")


def _split(text: str) -> list[str]:
    return list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def weights_of(run, stage: str) -> str:
    """What identifies the newest checkpoint of a stage: the SHA-256 of its list of SHA-256 sums; "" without one."""
    found = checkpoint.steps(run.stage_folder(stage))
    return hashlib.sha256((found[-1][1] / checkpoint.MANIFEST).read_bytes()).hexdigest() if found else ""


def _remove_stale(folder: Path, weights: str) -> None:
    """Remove the results of other weights: no mean and no summary may mix them with these."""
    for file in (*folder.glob("*.json"), *folder.glob("core/*.json")):
        if _read(file).get("weights") != weights:
            file.unlink()


def describe_plan(run) -> str:
    """The lines of a dry run: what would be asked of which stages."""
    from pynanochat.tasks import open_task

    wanted, where = run.tables[NAME], run.task_data()
    check_settings(wanted)
    lines = [f"eval: {', '.join(_stages(run))}"]
    for name in _names(wanted, where):
        if name.partition("/")[0] == BUNDLE:
            most = f"at most {wanted.core_examples:,} rows of each task" if wanted.core_examples else "all rows"
            lines.append(f"eval: {name}, {most}")
        else:
            task = open_task(name, "test", where)
            count = len(chat.chosen(task, wanted.max_examples))
            lines.append(f"eval: {name}, {count:,} of {len(task):,} questions, {task.kind}")
    return "\n".join(lines)


class _Evaluation:
    """One stage of a run on all of its tasks."""

    def __init__(self, run, stage: str, device):
        self.run, self.stage, self.device = run, stage, device
        self.wanted: EvalSettings = run.tables[NAME]
        self.folder = run.stage_folder(NAME) / stage
        self.weights = weights_of(run, stage)
        self._engine = None

    def engine(self):
        """The stage's model, loaded when a task first needs it."""
        if self._engine is None:
            from pynanochat.engine import Engine

            dtype = runtime.pick_compute_dtype(self.device, self.run.settings.dtype)
            self._engine = Engine.load(self.run.folder, self.stage, device=self.device, compute_dtype=dtype)
        return self._engine

    def carry_out(self) -> None:
        explicit = bool(_split(self.wanted.tasks))
        names = _names(self.wanted, self.run.task_data())
        labels = [name for name in names if name.partition("/")[0] == BUNDLE]
        for name in names:
            if name not in labels:
                with self._left_out(name, explicit):
                    self.chat_task(name)
        self._write_mean("ChatCORE", chat_core(read_scores(self.folder)))
        if labels and (explicit or self.stage == STAGES[0]):
            with self._left_out(BUNDLE, explicit):
                self.core_tasks(labels)

    @contextlib.contextmanager
    def _left_out(self, name: str, explicit: bool):
        """What was not asked for by name and cannot be had is named and left out."""
        try:
            yield
        except PynanochatError as error:
            if explicit:
                raise
            self.run.say(f"eval {self.stage}: {name} is left out: {error}")

    def chat_task(self, name: str) -> None:
        from pynanochat.tasks import open_task

        task, w = open_task(name, "test", self.run.task_data()), self.wanted
        check_isolation(task)
        facts = {"examples": w.max_examples, "questions": _digest(task[i] for i in chat.chosen(task, w.max_examples))}
        if task.kind == "generate":
            facts |= {"samples": w.samples, "temperature": w.temperature}
        self._result(
            self.folder / f"{name}.json",
            name,
            facts,
            lambda: chat.evaluate(
                self.engine(),
                task,
                max_examples=w.max_examples,
                ranks=self.run.ranks,
                samples=w.samples if task.kind == "generate" else 1,
                temperature=w.temperature,
                rows=w.rows,
            ),
        )

    def core_tasks(self, names: list[str]) -> None:
        tasks = open_bundle(core_folder(self.wanted.core_bundle, self.run.task_data()))
        known = {f"{BUNDLE}/{task.label}": task for task in tasks}
        if unknown := [name for name in names if name != BUNDLE and name not in known]:
            raise UsageError(f"--tasks {unknown[0]}: no such task in CORE; use {BUNDLE} or {', '.join(known)}")
        chosen = tasks if BUNDLE in names else [known[name] for name in names]
        for task in chosen:
            self._core_task(task)
        scores = read_scores(self.folder / "core")
        self._write_mean(BUNDLE, core.core([scores[task.label] for task in tasks if task.label in scores]))

    def _core_task(self, task) -> None:
        examples = self.wanted.core_examples
        facts = {"examples": examples, "shots": task.shots, "gap": task.delimiter, "baseline": task.baseline}
        self._result(
            self.folder / "core" / f"{task.label}.json",
            f"{BUNDLE}/{task.label}",
            facts | {"questions": _digest(task.rows)},
            lambda: core.evaluate(
                self.engine().model, self.engine().tokenizer, task, max_examples=examples, ranks=self.run.ranks
            ),
        )

    def _result(self, file: Path, name: str, facts: dict, evaluate) -> None:
        """Evaluate unless `file` holds the result for the same facts, weights and version."""
        key = settings.fingerprint(
            facts | {"weights": self.weights, "dtype": _dtype(self.run), "version": VERSION, "name": name}
        )
        if _read(file).get("key") == key:
            self.run.say(f"eval {self.stage}: {name} already done")
            return
        score = evaluate()
        if self.run.ranks.first:
            write_json(file, {"stage": self.stage, "weights": self.weights, "key": key} | score.to_dict())
        runtime.barrier(self.run.ranks)  # every rank reads the files for the means
        self.run.say(f"eval {self.stage}: {name} {_line(score)}")

    def _write_mean(self, name: str, mean: Score | None) -> None:
        """Write a mean over tasks; its own name says where some of them are missing."""
        if mean is None:
            return
        if self.run.ranks.first:
            write_json(self.folder / f"{name}.json", {"stage": self.stage, "weights": self.weights} | mean.to_dict())
        self.run.say(f"eval {self.stage}: {_line(mean, mean.task + ' ')}")


def core_folder(bundle: str, where) -> Path:
    """The folder of the CORE bundle. Raises DataError, with the remedy, where it cannot be had."""
    if bundle and "://" not in bundle:
        return Path(bundle)
    if not bundle and where.folder is not None:
        return where.folder / "core"
    if not bundle and where.data == "toyworld":
        raise DataError("the toy world has no CORE bundle; give --core-bundle, or --data FOLDER with core/ in it")
    url = bundle or CORE_URL
    folder = fetch_bundle(url, cache_dir=where.cache_dir or None, remedy="give --core-bundle FOLDER, or --no-core")
    tables = sorted(file for name in TABLES for file in folder.rglob(name))
    return tables[0].parent if tables else folder


def _digest(values) -> str:
    digest = hashlib.sha256()
    for value in values:
        digest.update(json.dumps(value, sort_keys=True, default=str).encode() + b"\n")
    return digest.hexdigest()


def _read(file: Path) -> dict:
    """The JSON object in `file`; nothing where it is missing, cut off or something else."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def read_scores(folder: Path) -> dict[str, Score]:
    """The scores in a stage's folder by task."""
    found = {}
    for file in sorted(folder.glob("*.json")):
        values = _read(file)
        with contextlib.suppress(TypeError):
            found[values.get("task", "")] = Score.from_dict(values)
    return found


def summarize(folder: Path) -> dict:
    """The summary of all results in RUN/eval."""
    summary = {name: {} for name in ("evals", "intervals", "totals", "baselines", "core")}
    seconds = []
    for stage in STAGES:
        scores, parts = read_scores(folder / stage), read_scores(folder / stage / "core")
        if not scores and not parts:
            continue
        summary["evals"][stage] = {name: s.score for name, s in scores.items()}
        summary["intervals"][stage] = {name: [s.low, s.high] for name, s in scores.items()}
        summary["totals"][stage] = {name: s.total for name, s in scores.items()}
        summary["baselines"] |= {name: s.baseline for name, s in scores.items()}
        summary["core"][stage] = {name: {"score": s.score, "centred": s.centred} for name, s in parts.items()}
        seconds += [s.seconds for name, s in {**scores, **parts}.items() if not _is_mean(name)]
    return summary | {"seconds": math.fsum(seconds)}


def _is_mean(name: str) -> bool:
    return name.startswith((BUNDLE, "ChatCORE"))


def _line(score: Score, name: str = "") -> str:
    cut = f", {score.cut:,} prompts cut" if score.cut else ""
    right = f"{score.correct:,} of {score.total:,} right, " if not _is_mean(score.task) else ""
    return f"{name}{score.score:.4f} ({score.low:.4f} to {score.high:.4f}), {right}{duration(score.seconds)}{cut}"


def table(summary: dict) -> str:
    """The scores of `summary`, a line for each task, a column for each stage."""
    stages = list(summary["evals"])
    names = list(dict.fromkeys(name for stage in stages for name in summary["evals"][stage]))
    names.sort(key=_is_mean)
    width = max(map(len, ["task", *names]))
    lines = [f"{'task':<{width}}  guess" + "".join(f"  {stage:>17}" for stage in stages)]
    for name in names:
        cells = []
        for stage in stages:
            score = summary["evals"][stage].get(name)
            low, high = summary["intervals"][stage].get(name, (0, 0))
            cells.append(f"  {'–':>17}" if score is None else f"  {score:.3f} ({low:.2f}-{high:.2f})".rjust(19))
        lines.append(f"{name:<{width}}  {summary['baselines'][name]:.3f}" + "".join(cells))
    return "\n".join(lines)
