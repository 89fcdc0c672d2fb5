"""The tests marked `gpu`, for `pynanochat bench gpu`: a process for each file, several at a time, and what they prove.

    runs = run_tests(checkout, seconds=360)
    verified_pairs(runs)          # [{op, backend, tests}]

Most of their time goes into compiling kernels, which the processes do side by side. A file that breaks off or is not
done in time takes only its own op's verification away.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

MOST_PROCESSES = 8  # each has a CUDA context of about half a gigabyte on the card


@dataclass(frozen=True)
class Outcome:
    """What became of one test: op and backend are None where the test names none or never began."""

    test: str
    op: str | None
    backend: str | None
    result: str  # passed, failed or skipped


@dataclass(frozen=True)
class FileRun:
    """The outcomes of one file of tests, and whether it came to its end."""

    path: Path
    outcomes: list[Outcome]
    finished: bool

    @property
    def op(self) -> str:
        """The op that the file is about: tests/kernels/test_OP.py or test_OP_cuda.py."""
        return self.path.stem.removeprefix("test_").removesuffix("_cuda")


def read_outcomes(report: Path) -> list[Outcome]:
    """The outcomes in a JUnit file of pytest, whose tests record the properties op and backend. [] without a file."""
    try:
        root = ElementTree.parse(report).getroot()
    except (FileNotFoundError, ElementTree.ParseError):
        return []
    outcomes = []
    for case in root.iter("testcase"):
        said = {p.get("name"): p.get("value") for p in case.iter("property")}
        bad = case.find("failure") is not None or case.find("error") is not None
        result = "failed" if bad else "skipped" if case.find("skipped") is not None else "passed"
        name = f"{case.get('classname')}::{case.get('name')}"
        outcomes.append(Outcome(name, said.get("op"), said.get("backend"), result))
    return outcomes


def verified_pairs(runs: list[FileRun]) -> list[dict]:
    """[{op, backend, tests}] of what ran and passed whole.

    Nothing of an op is where one of its files did not finish, and nothing at all where a failure names no op and stands
    in no op's file: it might belong to any.
    """
    outcomes = [o for run in runs if run.finished for o in run.outcomes]
    unnamed = [run for run in runs if run.finished and any(o.result == "failed" and not o.op for o in run.outcomes)]
    if any(run.path.parent.name not in ("kernels", "ops") for run in unnamed):
        return []
    broken = {run.op for run in runs if not run.finished} | {run.op for run in unnamed}
    pairs = sorted({(o.op, o.backend) for o in outcomes if o.op and o.backend and o.op not in broken})
    verified = []
    for op, backend in pairs:
        results = [o.result for o in outcomes if (o.op, o.backend) == (op, backend)]
        if set(results) == {"passed"}:
            verified.append({"op": op, "backend": backend, "tests": len(results)})
    return verified


def summary(runs: list[FileRun]) -> dict:
    """Counts, the names of the tests that failed, and of the files that did not finish."""
    outcomes = [o for run in runs for o in run.outcomes]
    counts = Counter(o.result for o in outcomes)
    return {
        **{result: counts[result] for result in ("passed", "failed", "skipped")},
        "failures": [o.test for o in outcomes if o.result == "failed"],
        "unfinished": [run.path.name for run in runs if not run.finished],
    }


def test_files(checkout: Path) -> list[Path]:
    """The files with tests marked `gpu` (in tests/kernels conftest.py marks them), the longest first."""
    files = []
    for path in (checkout / "tests").rglob("test_*.py"):
        text = path.read_text()
        if "mark.gpu" in text or (path.parent.name == "kernels" and re.search("^OP = ", text, re.M)):
            files.append(path)
    return sorted(files, key=lambda path: path.stat().st_size, reverse=True)


def run_tests(checkout: Path, seconds: float) -> list[FileRun]:
    """Run `pytest -m gpu` on every file that has such tests, at most `seconds` in all."""
    deadline = time.monotonic() + seconds
    processes = max(2, min(MOST_PROCESSES, (os.cpu_count() or 1) // 2))
    with ThreadPoolExecutor(processes) as pool:
        return list(pool.map(lambda path: run_file(checkout, path, deadline), test_files(checkout)))


def run_file(checkout: Path, path: Path, deadline: float) -> FileRun:
    """One file in a process of its own; says in a line what became of it, and what pytest said where it went wrong."""
    started = time.monotonic()
    environment = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "PYNANOCHAT_BACKEND")}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", f"--junitxml={report}"]
        left, said = max(0.0, deadline - started), ""
        try:
            run = subprocess.run(
                [*command, str(path)], cwd=checkout, env=environment, timeout=left, capture_output=True, text=True
            )
            code, said = run.returncode, run.stdout[-3000:] + run.stderr[-1000:]
        except subprocess.TimeoutExpired:
            code = None
        result = FileRun(path, read_outcomes(report), code in (0, 1, 5))  # passed, some failed, none selected
    counts = Counter(o.result for o in result.outcomes)
    ended = ", ".join(f"{n} {what}" for what, n in counts.items()) if result.finished else "not finished"
    print(f"{path.name}: {ended or 'no tests'}, {time.monotonic() - started:.0f} s", flush=True)
    if code != 0 and said:
        print(said, flush=True)
    return result
