"""The curves of a stage as PNG bytes: training loss on the left, validation bits per byte on the right."""

import io
import itertools

from pynanochat.report.read import StageFiles

INK, FAINT, ACCENT = "#1f4e79", "#b9cde0", "#c0562b"


def draw_curves(stage: StageFiles) -> bytes | None:
    """Loss, raw and smoothed, and val_bpb over the steps; None where there are fewer than two points of either."""
    steps, losses = stage.series("loss")
    val_steps, bpb = stage.series("val_bpb")
    panels = [name for name, points in (("loss", losses), ("bpb", bpb)) if len(points) > 1]
    if not panels:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # a Figure of its own: pyplot would keep global state and pick a screen
    figure = Figure(figsize=(10.0, 3.4), dpi=150, layout="constrained")
    for axes, name in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        if name == "loss":
            axes.plot(steps, losses, color=FAINT, linewidth=0.8, label="each step")
            axes.plot(steps, smooth(losses), color=INK, linewidth=1.6, label="smoothed")
            axes.legend(frameon=False, fontsize=9)
            _frame(axes, losses, "training loss", "nats per token")
        else:
            axes.plot(val_steps, bpb, color=ACCENT, linewidth=1.6, marker="o", markersize=3.5)
            _frame(axes, bpb, f"validation, {bpb[-1]:.4f} at the end", "bits per byte")
    png = io.BytesIO()
    FigureCanvasAgg(figure).print_png(png)
    return png.getvalue()


def smooth(values: list[float]) -> list[float]:
    """Mean of a fortieth of the run around each value, less at both ends: it does not trail a falling curve."""
    sums = [0.0, *itertools.accumulate(values)]
    last = len(values) - 1
    result = []
    for i in range(len(values)):
        reach = min(max(1, len(values) // 80), i, last - i)
        result.append((sums[i + reach + 1] - sums[i - reach]) / (2 * reach + 1))
    return result


def _frame(axes, values: list[float], title: str, unit: str) -> None:
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel("step")
    axes.set_ylabel(unit)
    axes.grid(color="#e6eaee", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    # a spike must not flatten the rest of the curve
    ordered = sorted(values)
    top, low = ordered[int(0.995 * (len(ordered) - 1))], ordered[0]
    top = max(top, values[0] if values[0] < 2 * top else top)
    margin = 0.06 * (top - low) or 0.06 * abs(low) or 1.0
    axes.set_ylim(low - margin, top + margin)
