"""What stands in the report, in order: summary, time and cost, curves and samples of each stage, tokenizer, settings,
environment. `write_report(folder)` reads the run's files and writes report.md, report.html and report/*.png there.
"""

from pathlib import Path

from pynanochat.report.document import Heading, Picture, Samples, Table, Text, to_html, to_markdown
from pynanochat.report.plots import draw_curves
from pynanochat.report.read import STAGES, TITLES, RunFiles, StageFiles, number

TASKS = ("CORE", "ARC-Challenge", "ARC-Easy", "GSM8K", "HumanEval", "MMLU", "SpellingBee", "ChatCORE")
ABSENT = "–"


def write_report(run_dir: Path) -> Path:
    """Write the report of a run into its folder; the path of report.md. Raises DataError where there is no run."""
    run_dir = Path(run_dir)
    run = RunFiles.read(run_dir)
    blocks = compose(run)
    pictures = [block for block in blocks if isinstance(block, Picture)]
    if pictures:
        (run_dir / "report").mkdir(exist_ok=True)
    for picture in pictures:
        (run_dir / picture.name).write_bytes(picture.png)
    (run_dir / "report.html").write_text(to_html(f"pynanochat: {run.folder.name}", blocks), encoding="utf-8")
    markdown = run_dir / "report.md"
    markdown.write_text(to_markdown(blocks), encoding="utf-8")
    return markdown


def compose(run: RunFiles) -> list:
    """The blocks of the report."""
    blocks = [Heading(f"pynanochat: {run.folder.name}", 1), Text(headline(run))]
    blocks += [Text(problem) for problem in run.problems]
    blocks += summary(run) + timings(run)
    for stage in run.stages.values():
        blocks += curves_and_samples(stage)
    return blocks + tokenizer(run) + settings(run) + environment(run)


def headline(run: RunFiles) -> str:
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
    if (cost := price(run)) is not None:
        parts.append(f"${cost * sum(run.seconds.values()) / 3600:.2f}")
    return ("; ".join(parts) or "Nothing is trained yet") + "."


def summary(run: RunFiles) -> list:
    """The table of scores by stage, a row for what was evaluated."""
    names = [task for task in TASKS if any(task in scores for scores in run.evals.values())]
    names += sorted({task for scores in run.evals.values() for task in scores} - set(TASKS))
    rows = [[task, *(score(run.evals.get(stage, {}).get(task)) for stage in STAGES)] for task in names]
    bpb = {name: stage.last("val_bpb") for name, stage in run.stages.items()}
    if any(value is not None for value in bpb.values()):
        rows.insert(0, ["validation bpb", *(score(bpb.get(stage)) for stage in STAGES)])
    return [Heading("Summary"), Table(["", *(TITLES[s] for s in STAGES)], rows)] if rows else []


def timings(run: RunFiles) -> list:
    """Time, tokens, speed and cost of each stage."""
    if not run.seconds:
        return []
    cost = price(run)
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
    png = draw_curves(stage)
    if png is not None:
        blocks.append(Picture(f"report/{stage.name}.png", png, f"Loss and bits per byte of {TITLES[stage.name]}"))
    facts = [
        ["steps", count(stage.last("steps") or stage.last("step"))],
        ["final loss", score(stage.series("loss")[1])],
    ]
    facts += [["skipped steps", count(stage.last("skipped_steps"))], ["peak memory", gibibytes(stage)]]
    facts += [["compute dtype", str(stage.summary.get("dtype", ABSENT))]]
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
        blocks += [Heading(name, 3), Table(["setting", "value"], [[k, str(v)] for k, v in values.items()], prose=True)]
    return [Heading("Settings"), *blocks] if blocks else []


def environment(run: RunFiles) -> list:
    """What it ran on."""
    rows = [[name.replace("_", " "), str(value)] for name, value in run.environment.items()]
    return [Heading("Environment"), Table(["", ""], rows, prose=True)] if rows else []


def price(run: RunFiles) -> float | None:
    """Dollars an hour, where the settings name a price."""
    nested = run.settings.get("run")
    value = run.settings.get("price_per_hour", nested.get("price_per_hour") if isinstance(nested, dict) else None)
    return number(value) or None


def duration(seconds: float) -> str:
    """3 h 51 min, 7 min 20 s, 12.3 s."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def dollars(cost: float | None, seconds: float) -> str:
    return ABSENT if cost is None else f"${cost * seconds / 3600:.2f}"


def score(value, digits: int = 4) -> str:
    """A score, or the last of a list of them."""
    value = value[-1] if isinstance(value, list) and value else value
    return ABSENT if number(value) is None else f"{value:.{digits}f}"


def count(value: float | None, form: str = "{:,.0f}") -> str:
    return ABSENT if value is None else form.format(value)


def percent(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.1%}"


def gibibytes(stage: StageFiles) -> str:
    value = stage.last("peak_memory_bytes") or stage.last("memory_bytes")
    return ABSENT if value is None else f"{value / 2**30:.2f} GiB"
