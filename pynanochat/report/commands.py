"""`pynanochat report RUN`: write the report of a run again from its files."""

import argparse
from pathlib import Path

from pynanochat.errors import UsageError
from pynanochat.report.compose import write_report


def main(argv: list[str] | None = None) -> int:
    """Write the report of the run named in `argv`, by default the newest under runs/, and print where it is."""
    parser = argparse.ArgumentParser(prog="pynanochat report", description="Write report.md and report.html of a run.")
    parser.add_argument("name", nargs="?", metavar="RUN", help="a folder under runs/, or a path (default: the newest)")
    parser.add_argument("--run", help="the same")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    given = parser.parse_args(argv)
    name = given.name or given.run
    folder = (Path(name) if "/" in name else Path("runs") / name) if name else newest()
    markdown = write_report(folder)
    print(f"{markdown}\n{markdown.with_suffix('.html')}")
    return 0


def newest(runs: Path = Path("runs")) -> Path:
    """The run whose settings were written last. Raises UsageError where there is none."""
    found = sorted(runs.glob("*/settings.json"), key=lambda file: file.stat().st_mtime)
    if not found:
        raise UsageError("runs/ holds no run here; name one, or train one with `pynanochat speedrun`")
    return found[-1].parent
