"""What stands in the report, in order: summary, time and cost, evaluation, curves and samples of each stage,
tokenizer, settings, environment, how to do it again. `write_report(folder)` reads the run's files and writes
report.md, report.html and report/*.png there.
"""

from pathlib import Path

from pynanochat.report.document import Code, Fold, Heading, Picture, Samples, Table, Text, to_html, to_markdown
from pynanochat.report.plots import draw_curves
from pynanochat.report.read import TITLES, RunFiles, StageFiles, number
from pynanochat.report.results import evaluation, picture, summary
from pynanochat.report.words import ABSENT, count, dollars, duration, gibibytes, percent, score


def write_report(run_dir: Path, price_per_hour: float | None = None) -> Path:
    """Write the report of a run into its folder; the path of report.md. Raises DataError where there is no run.

    price_per_hour: dollars; by default what the run's settings say.
    """
    run = RunFiles.read(Path(run_dir))
    return write_document(run.folder, f"pynanochat: {run.folder.name}", compose(run, price_per_hour))


def write_document(folder: Path, title: str, blocks: list) -> Path:
    """Write report.md, report.html and their pictures into `folder`; the path of report.md."""
    for each in (block for block in blocks if isinstance(block, Picture)):
        for name, png in ((each.name, each.light), (each.dark_name, each.dark)):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(png)
    (folder / "report.html").write_text(to_html(title, blocks), encoding="utf-8")
    markdown = folder / "report.md"
    markdown.write_text(to_markdown(blocks), encoding="utf-8")
    return markdown


def compose(run: RunFiles, price_per_hour: float | None = None) -> list:
    """The blocks of the report."""
    cost = price(run) if price_per_hour is None else price_per_hour or None
    blocks = [Heading(f"pynanochat: {run.folder.name}", 1), Text(headline(run, cost))]
    blocks += [Text(problem) for problem in run.problems]
    blocks += summary(run) + timings(run, cost) + evaluation(run)
    for stage in run.stages.values():
        blocks += curves_and_samples(stage)
    return blocks + tokenizer(run) + settings(run) + environment(run) + again(run)


def headline(run: RunFiles, cost: float | None) -> str:
    """One sentence: the model, its data, how long, how good."""
    base = run.stages.get("pretrain")
    chosen = run.settings.get("pretrain", {}) if isinstance(run.settings.get("pretrain"), dict) else {}
    parts = []
    if base:
        if parameters := base.last("parameters"):
            parts.append(f"A model of {parameters:,.0f} parameters")
        if depth := chosen.get("depth"):
            parts.append(f"{depth} layers" + (f", {chosen['arch']} architecture" if "arch" in chosen else ""))
        if tokens := base.last("tokens"):
            parts.append(f"{tokens:,.0f} tokens")
        if (bpb := base.last("val_bpb")) is not None:
            parts.append(f"{bpb:.4f} bits per byte on validation text")
    if run.seconds:
        parts.append(f"{duration(sum(run.seconds.values()))} in all")
    if run.seconds and cost is not None:
        parts.append(f"${cost * sum(run.seconds.values()) / 3600:.2f}")
    return ("; ".join(parts) or "Nothing is trained yet") + "."


def timings(run: RunFiles, cost: float | None) -> list:
    """Time, tokens, speed and cost of each stage."""
    if not run.seconds:
        return []
    rows = []
    for name, seconds in run.seconds.items():
        stage = run.stages.get(name, StageFiles(name))
        row = [TITLES[name], duration(seconds), count(stage.last("tokens")), count(stage.typical("tokens_per_second"))]
        row += [percent(stage.typical("mfu")), count(stage.last("flops"), "{:.2e}")]
        rows.append([*row, dollars(cost, seconds)])
    total = sum(run.seconds.values())
    rows.append(["total", duration(total), "", "", "", "", dollars(cost, total)])
    header = ["stage", "time", "tokens", "tokens/s", "MFU", "FLOPs", "cost"]
    if cost is None:
        return [Heading("Time"), Table(header[:-1], [row[:-1] for row in rows])]
    return [Heading("Time and cost"), Text(f"At ${cost:.2f} an hour."), Table(header, rows)]


def curves_and_samples(stage: StageFiles) -> list:
    """A stage's curves, how its first prompt was continued as training went on, and its last samples."""
    blocks = [Heading(TITLES[stage.name])]
    if not stage.summary:
        blocks.append(Text(f"Not finished: the figures are those up to step {count(stage.last('step'))}."))
    blocks += picture(f"report/{stage.name}.png", f"Curves of {TITLES[stage.name]}", draw_curves, stage)
    memory = stage.last("peak_memory_bytes") or stage.last("memory_bytes")
    facts = [
        ["steps", count(stage.last("steps") or stage.last("step"))],
        ["final loss", score(stage.series("loss")[1])],
        ["skipped steps", count(stage.last("skipped_steps"))],
        ["peak memory", gibibytes(memory)],
        ["compute dtype", str(stage.summary.get("dtype", ABSENT))],
    ]
    if facts := [row for row in facts if row[1] != ABSENT]:
        blocks.append(Table(["", ""], facts, prose=True))
    rounds = [(step, pairs) for step, pairs in stage.samples() if pairs]
    if rounds:
        step, pairs = rounds[-1]
        blocks += [Heading(f"Samples at step {step:,}", 3), Samples([("", prompt, text) for prompt, text in pairs])]
    if len(rounds) > 1:
        chosen = [rounds[i] for i in sorted({0, len(rounds) // 3, 2 * len(rounds) // 3, len(rounds) - 1})]
        first = [(f"step {step:,}", *pairs[0]) for step, pairs in chosen]
        blocks += [Heading("The first prompt as training went on", 3), Samples(first)]
    return blocks


def tokenizer(run: RunFiles) -> list:
    """Vocabulary and bytes per token, against other vocabularies where they were measured."""
    blocks = []
    size = number(run.tokenizer_summary.get("vocab_size"))
    if size is not None:
        blocks.append(Text(f"{size:,.0f} tokens."))
    measured = run.tokenizer.get("bytes_per_token")
    if isinstance(measured, dict) and measured:
        by_text = {text: v if isinstance(v, dict) else {"ours": v} for text, v in measured.items()}
        vocabularies = list(dict.fromkeys(name for v in by_text.values() for name in v))
        rows = [[text, *(score(v.get(name), 3) for name in vocabularies)] for text, v in by_text.items()]
        blocks += [Text("Bytes per token (more is better):"), Table(["text", *vocabularies], rows)]
    return [Heading("Tokenizer"), *blocks] if blocks else []


def settings(run: RunFiles) -> list:
    """The resolved settings, a table for each group."""
    plain = {name: value for name, value in run.settings.items() if not isinstance(value, dict)}
    groups = ({"run": plain} if plain else {}) | {n: v for n, v in run.settings.items() if isinstance(v, dict)}
    blocks = []
    for name, values in groups.items():
        table = Table(["setting", "value"], [[k, str(v)] for k, v in values.items()], prose=True)
        blocks.append(Fold(name, [table]))
    return [Heading("Settings"), *blocks] if blocks else []


def environment(run: RunFiles) -> list:
    """What it ran on."""
    rows = [[name.replace("_", " "), str(value)] for name, value in run.environment.items()]
    return [Heading("Environment"), Table(["", ""], rows, prose=True)] if rows else []


def again(run: RunFiles) -> list:
    """The commands that make the same run."""
    command, commit = run.environment.get("command"), str(run.environment.get("commit", ""))
    if not isinstance(command, str) or not command:
        return []
    lines = [f"git checkout {commit.split()[0]}"] if commit and commit.split()[0].isalnum() else []
    changed = [Text("The source had changes that no commit holds.")] if commit.endswith("(changed)") else []
    return [Heading("The same again"), Code("\n".join([*lines, command])), *changed]


def price(run: RunFiles) -> float | None:
    """Dollars an hour, where the settings name a price."""
    nested = run.settings.get("run")
    value = run.settings.get("price_per_hour", nested.get("price_per_hour") if isinstance(nested, dict) else None)
    return number(value) or None
