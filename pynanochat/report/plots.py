"""The report's pictures as PNG bytes, each drawn for a light and for a dark page: `both(draw_curves, stage)`.

Figures are made without pyplot, which would keep global state and pick a screen.
"""

import io
import itertools
import warnings
from dataclasses import dataclass

from pynanochat.report.read import TITLES, Result, StageFiles
from pynanochat.runs import STAGES


@dataclass(frozen=True)
class Theme:
    """Colours of a page: its ground, text, grid, and of the stages or runs that are compared."""

    back: str
    ink: str
    grid: str
    faint: str
    colours: tuple[str, ...]


LIGHT = Theme(
    "#ffffff", "#2b3542", "#e3e8ee", "#b4c8dc", ("#7d8a99", "#1f77b4", "#c9650a", "#0a8a5f", "#8e4fb0", "#b8305a")
)
DARK = Theme(
    "#14191f", "#d5dde7", "#2c3641", "#43607c", ("#9aa8b8", "#5ab0ee", "#f2a14b", "#3ccb9b", "#c58fe6", "#f0789c")
)
GUESS = {"linewidth": 1.1, "linestyle": (0, (2, 2))}


def both(draw, *arguments) -> tuple[bytes, bytes] | None:
    """`draw(theme, *arguments)` for a light and a dark page; None where it has nothing to draw."""
    light = draw(LIGHT, *arguments)
    return None if light is None else (light, draw(DARK, *arguments))


def draw_curves(theme: Theme, stage: StageFiles) -> bytes | None:
    """What a stage's metrics hold of loss, bits per byte, reward, pass@k, length and speed, over its steps."""
    panels = [draw for draw, *names in PANELS if any(len(stage.series(name)[1]) > 1 for name in names)]
    if not panels:
        return None
    figure, axes = _figure(theme, len(panels))
    for each, draw in zip(axes, panels, strict=True):
        draw(theme, each, stage)
        each.set_xlabel("step")
    return _png(figure)


def _loss(theme, axes, stage):
    steps, losses = stage.series("loss")
    _raw_and_smooth(theme, axes, steps, losses, theme.colours[1])
    _frame(theme, axes, losses, "policy loss" if stage.name == "rl" else "training loss", "nats per token")


def _bpb(theme, axes, stage):
    steps, bpb = stage.series("val_bpb")
    axes.plot(steps, bpb, color=theme.colours[2], linewidth=1.6, marker="o", markersize=3.5)
    _frame(theme, axes, bpb, f"validation, {bpb[-1]:.4f} at the end", "bits per byte")


def _reward(theme, axes, stage):
    steps, rewards = stage.series("reward")
    _raw_and_smooth(theme, axes, steps, rewards, theme.colours[3])
    _frame(theme, axes, rewards, "reward of sampled answers", "mean over a step")


def _held_out(theme, axes, stage):
    values = []
    ks = sorted((int(name[5:]) for line in stage.lines for name in line if _is_pass(name)), reverse=True)
    for k, colour in zip(dict.fromkeys([1, *ks[:1]]), (theme.colours[3], theme.colours[1]), strict=False):
        steps, rates = stage.series(f"pass@{k}")
        axes.plot(steps, rates, color=colour, linewidth=1.6, marker="o", markersize=3.5, label=f"pass@{k}")
        values += rates
    _legend(theme, axes)
    _frame(theme, axes, values, "held-out questions", "part answered right")


def _length(theme, axes, stage):
    steps, lengths = stage.series("answer_tokens")
    _raw_and_smooth(theme, axes, steps, lengths, theme.colours[1], "sampled, smoothed")
    held_steps, held = stage.series("val_answer_tokens")
    axes.plot(held_steps, held, color=theme.colours[2], linewidth=1.6, marker="o", markersize=3.5, label="held-out")
    _legend(theme, axes)
    _frame(theme, axes, lengths + held, "length of answers", "tokens")


def _speed(theme, axes, stage):
    steps, rates = stage.series("tokens_per_second")
    _raw_and_smooth(theme, axes, steps, rates, theme.colours[0])
    mfu = stage.typical("mfu")
    _frame(theme, axes, rates, f"speed, MFU {mfu:.1%}" if mfu is not None and mfu <= 1 else "speed", "tokens/s")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")


PANELS = (
    (_loss, "loss"),
    (_bpb, "val_bpb"),
    (_reward, "reward"),
    (_held_out, "pass@1"),
    (_length, "answer_tokens", "val_answer_tokens"),
    (_speed, "tokens_per_second"),
)


def _is_pass(name: str) -> bool:
    return name.startswith("pass@") and name[5:].isdigit()


def draw_accuracies(theme: Theme, rows: list[tuple[str, float | None, list[tuple[str, Result]]]]) -> bytes | None:
    """Scores with their intervals, a row for each (task, score of guessing, [(label, result), ...])."""
    rows = [row for row in rows if row[2]]
    if not rows:
        return None
    labels = sorted(dict.fromkeys(label for _, _, marks in rows for label, _ in marks), key=_stage_order)
    figure, (axes,) = _figure(theme, 1, (9.0, 1.1 + (0.16 + 0.115 * len(labels)) * len(rows)))
    gap = 0.68 / max(len(labels), 2)
    for i, (_, guess, marks) in enumerate(rows):
        if guess is not None:
            axes.plot([guess, guess], [i - 0.42, i + 0.42], color=theme.ink, zorder=1, **GUESS)
        for label, result in marks:
            j = labels.index(label)
            y, colour = i + (j - (len(labels) - 1) / 2) * gap, _colour(theme, label, labels)
            if result.low is not None and result.high is not None:
                axes.plot([result.low, result.high], [y, y], color=colour, linewidth=2.2, alpha=0.75)
            axes.plot([result.score], [y], color=colour, marker="o", markersize=5.5, linestyle="none")
    for label in labels:
        axes.plot([], [], color=_colour(theme, label, labels), marker="o", linewidth=2.2, label=_plain(label))
    axes.plot([], [], color=theme.ink, label="guessing", **GUESS)
    scores = [v for _, _, marks in rows for _, r in marks for v in (r.score, r.low) if v is not None]
    axes.set_xlim(min(0.0, *scores) - 0.01, 1.01)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [_plain(task) for task, _, _ in rows])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.set_xlabel("score, with its 95 % interval")
    _style(theme, axes)
    axes.grid(axis="y", visible=False)
    for boundary in range(1, len(rows)):
        axes.axhline(boundary - 0.5, color=theme.grid, linewidth=0.7)
    _legend(theme, axes, "lower left", ncols=6, bbox_to_anchor=(0.0, 1.0), borderaxespad=0.2)
    return _png(figure)


def draw_reliability(theme: Theme, tasks: list[tuple[str, list[tuple[str, Result]]]]) -> bytes | None:
    """How often answers were right against how sure the model was, a panel for each (task, [(label, result), ...])."""
    tasks = [(task, found) for task, marks in tasks if (found := [m for m in marks if m[1].reliability])]
    if not tasks:
        return None
    labels = sorted(dict.fromkeys(label for _, marks in tasks for label, _ in marks), key=_stage_order)
    across = min(3, len(tasks))
    down = -(-len(tasks) // across)
    figure, axes = _figure(theme, len(tasks), (3.6 * across, 3.7 * down), across)
    for panel, (task, marks) in zip(axes, tasks, strict=False):
        panel.plot([0, 1], [0, 1], color=theme.ink, linewidth=0.9, linestyle=(0, (2, 2)), label="as sure as right")
        for label, result in marks:
            colour = _colour(theme, label, labels)
            bins = sorted(result.reliability, key=lambda b: b["confidence"])
            sure, right = [b["confidence"] for b in bins], [b["accuracy"] for b in bins]
            answers = sum(b["count"] for b in bins)
            panel.plot(sure, right, color=colour, linewidth=1.3, label=_plain(label))
            panel.scatter(sure, right, [10 + 150 * b["count"] / answers for b in bins], color=colour, linewidths=0)
        panel.set_xlim(0, 1)
        panel.set_ylim(-0.03, 1.03)
        panel.set_aspect("equal", adjustable="box")
        panel.set_title(_plain(task), loc="left", fontsize=11, color=theme.ink)
        panel.set_xlabel("probability given to the answer")
        panel.set_ylabel("part of them right")
        _style(theme, panel)
        _legend(theme, panel, loc="upper left")
    return _png(figure)


def draw_overlay(theme: Theme, panels: list[tuple[str, str, list[tuple[str, list, list]]]]) -> bytes | None:
    """Curves of several runs over each other: a panel for each (title, unit, [(label, steps, values), ...])."""
    panels = [panel for panel in panels if panel[2]]
    if not panels:
        return None
    figure, axes = _figure(theme, len(panels))
    labels = list(dict.fromkeys(label for _, _, lines in panels for label, _, _ in lines))
    for i, (panel, (title, unit, lines)) in enumerate(zip(axes, panels, strict=False)):
        values = []
        for label, x, y in lines:
            colour = _colour(theme, label, labels)
            dense = len(y) > 60
            drawn, marker = (smooth(y), "") if dense else (y, "o")
            panel.plot(x, drawn, color=colour, linewidth=1.5, marker=marker, markersize=3, label=_plain(label))
            values += y
        panel.set_xlabel("step")
        _frame(theme, panel, sorted(values, reverse=True), title, unit)
        if i == 0:
            _legend(theme, panel)
    return _png(figure)


def smooth(values: list[float]) -> list[float]:
    """Mean of a fortieth of the run around each value, less at both ends: it does not trail a falling curve."""
    sums = [0.0, *itertools.accumulate(values)]
    last = len(values) - 1
    result = []
    for i in range(len(values)):
        reach = min(max(1, len(values) // 80), i, last - i)
        result.append((sums[i + reach + 1] - sums[i - reach]) / (2 * reach + 1))
    return result


def _stage_order(label: str) -> int:
    titles = [TITLES[stage] for stage in STAGES]
    return titles.index(label) if label in titles else len(titles)


def _colour(theme: Theme, label: str, labels: list[str]) -> str:
    """Of a stage always the same one; of a run by its place, beginning with the second: the first is grey."""
    place = _stage_order(label)
    return theme.colours[(place if place < len(STAGES) else 1 + labels.index(label)) % len(theme.colours)]


def _plain(name: str) -> str:
    """A name from a file as a label: no formula, no control character, not hidden from the legend, not too long."""
    name = "".join(c if c.isprintable() else "\ufffd" for c in name)
    name = (name if len(name) <= 40 else name[:39] + "…").replace("$", r"\$")
    return f" {name}" if name.startswith("_") else name


def _figure(theme: Theme, panels: int, size: tuple[float, float] | None = None, across: int = 0):
    """A figure with so many panels, three in a row at most where nothing else is said, and the panels."""
    from matplotlib.figure import Figure

    across = across or (panels if panels <= 3 else 2 if panels == 4 else 3)
    down = -(-panels // across)
    figure = Figure(
        figsize=size or (10.0, (3.4, 3.4, 2.8)[across - 1] * down), dpi=130, layout="constrained", facecolor=theme.back
    )
    axes = [each for row in figure.subplots(down, across, squeeze=False) for each in row]
    for each in axes[panels:]:
        each.remove()
    return figure, axes[:panels]


def _png(figure) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    png = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a box is drawn
        FigureCanvasAgg(figure).print_png(png)
    return png.getvalue()


def _raw_and_smooth(theme, axes, steps, values, colour, label="smoothed"):
    axes.plot(steps, values, color=theme.faint, linewidth=0.8)
    axes.plot(steps, smooth(values), color=colour, linewidth=1.6, label=label)


def _legend(theme, axes, loc="best", **where):
    for text in axes.legend(frameon=False, fontsize=9, loc=loc, **where).get_texts():
        text.set_color(theme.ink)


def _style(theme, axes):
    axes.set_facecolor(theme.back)
    axes.grid(color=theme.grid, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(theme.ink)
    axes.tick_params(colors=theme.ink, labelsize=9)
    axes.xaxis.label.set_color(theme.ink)
    axes.yaxis.label.set_color(theme.ink)


def _frame(theme, axes, values: list[float], title: str, unit: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, color=theme.ink)
    axes.set_ylabel(unit)
    _style(theme, axes)
    # a spike must not flatten the rest of the curve
    ordered = sorted(values)
    top, low = ordered[int(0.995 * len(ordered))], ordered[0]
    top = max(top, values[0] if values[0] < 2 * top else top)
    margin = 0.06 * (top - low) or 0.06 * abs(low) or 1.0
    axes.set_ylim(low - margin, top + margin)
