"""`pynanochat report RUN`: write the report of a run again from its files; `pynanochat report compare RUN RUN ...`."""

import argparse
import math
from pathlib import Path

from pynanochat.errors import UsageError
from pynanochat.report.compare import write_comparison
from pynanochat.report.compose import write_report


def main(argv: list[str] | None = None) -> int:
    """Write the report of the run named in `argv`, by default the newest under runs/, or the comparison of several,
    and print where it is."""
    parser = argparse.ArgumentParser(
        prog="pynanochat report",
        description="Write report.md and report.html of a run, or `compare` runs side by side.",
        usage="%(prog)s [RUN] [flags] | %(prog)s compare RUN RUN [RUN ...] [--out FOLDER] [flags]",
    )
    parser.add_argument("names", nargs="*", metavar="RUN", help="a folder under runs/, or a path (default: the newest)")
    parser.add_argument("--run", help="the same")
    parser.add_argument("--price-per-hour", type=float, metavar="X", help="dollars (default: the settings')")
    parser.add_argument("--out", default="compare", metavar="FOLDER", help="of a comparison (default: %(default)s)")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    given = parser.parse_intermixed_args(argv)
    price = given.price_per_hour
    if price is not None and not (math.isfinite(price) and price >= 0):
        raise UsageError(f"--price-per-hour {price}: must be 0 or more")
    names = given.names + ([given.run] if given.run else [])
    if names[:1] == ["compare"]:
        if len(names) < 3:
            raise UsageError("compare: name two runs or more")
        markdown = write_comparison([folder_of(name) for name in names[1:]], Path(given.out), price)
    elif len(names) > 1:
        raise UsageError(
            f"{' '.join(names)}: one report at a time; put `compare` before the runs to lay them side by side"
        )
    else:
        markdown = write_report(folder_of(names[0]) if names else newest(), price)
    print(f"{markdown}\n{markdown.with_suffix('.html')}")
    return 0


def folder_of(name: str) -> Path:
    """The run's folder: a path where `name` has a slash, else under runs/."""
    return Path(name) if "/" in name else Path("runs") / name


def newest(runs: Path = Path("runs")) -> Path:
    """The run whose settings were written last. Raises UsageError where there is none."""
    found = sorted(runs.glob("*/settings.json"), key=lambda file: file.stat().st_mtime)
    if not found:
        raise UsageError("runs/ holds no run here; name one, or train one with `pynanochat speedrun`")
    return found[-1].parent
