"""The tests marked `gpu`, for `pynanochat bench gpu`: a process for each file, several at a time, and what they prove.

    runs = run_tests(checkout, seconds=360)
    verified_pairs(runs)          # [{op, backend, tests}]
    failed_pairs(runs)            # [{op, backend}]

Most of their time goes into compiling kernels, which the processes do side by side; the longest files are run in parts.
A file or part that breaks off or is not done in time takes only its own op's verification away.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path

from pynanochat.errors import UsageError

MOST_PROCESSES = 8  # each has a CUDA context of about half a gigabyte on the card
PARTS = {"test_attention.py": 6, "test_attention_paged.py": 4, "test_muon_step.py": 2}  # of files that compile long
FILE_SECONDS = 240  # for one file or part: a kernel that hangs must not hold a process until the end


@dataclass(frozen=True)
class Outcome:
    """What became of one test: op and backend are None where the test names none or never began."""

    test: str
    op: str | None
    backend: str | None
    result: str  # passed, failed or skipped


@dataclass(frozen=True)
class FileRun:
    """The outcomes of one file of tests or a part of it."""

    path: Path
    op: str
    outcomes: list[Outcome]
    ended: str  # "finished", "broke off", or "time" where that was up, maybe before it began
    part: str = "1/1"

    @property
    def finished(self) -> bool:
        return self.ended == "finished"

    @property
    def name(self) -> str:
        return self.path.name if self.part == "1/1" else f"{self.path.name} {self.part}"


def op_of(path: Path) -> str:
    """The op, or what else is verified, that a file is about: its line `OP = "NAME"` says it, or else test_NAME.py."""
    said = re.search(r'^OP = "(\w+)"', path.read_text(encoding="utf-8"), re.MULTILINE)
    return said[1] if said else path.stem.removeprefix("test_")


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


def failed_pairs(runs: list[FileRun]) -> list[dict]:
    """[{op, backend}] of what failed a test or broke a file off. What was not done in time has not failed."""
    from pynanochat.ops import backends, fingerprints

    failed = {(o.op, o.backend) for run in runs for o in run.outcomes if o.result == "failed" and o.op and o.backend}
    for run in runs:
        if run.ended == "broke off" and run.op in fingerprints.OTHERS:
            failed.add((run.op, "cuda"))
        elif run.ended == "broke off" and run.op in backends.ops():
            kinds = ("cuda",) if run.path.stem.endswith("_cuda") else ("triton", "cuda")
            failed |= {(run.op, kind) for kind in kinds if kind in backends.implementations(run.op)}
    return [{"op": op, "backend": backend} for op, backend in sorted(failed)]


def summary(runs: list[FileRun]) -> dict:
    """Counts, the names of the tests that failed, and of the files that did not finish."""
    outcomes = [o for run in runs for o in run.outcomes]
    counts = Counter(o.result for o in outcomes)
    return {
        **{result: counts[result] for result in ("passed", "failed", "skipped")},
        "failures": [o.test for o in outcomes if o.result == "failed"],
        "unfinished": [run.name for run in runs if not run.finished],
    }


def test_files(checkout: Path) -> list[Path]:
    """The files with tests marked `gpu` (in tests/kernels conftest.py marks them), the longest first."""
    files = []
    for path in (checkout / "tests").rglob("test_*.py"):
        text = path.read_text()
        if "mark.gpu" in text or (path.parent.name == "kernels" and re.search("^OP = ", text, re.M)):
            files.append(path)
    return sorted(files, key=lambda path: path.stat().st_size, reverse=True)


def run_tests(checkout: Path, seconds: float, ops=None, done=lambda runs: None) -> list[FileRun]:
    """Run `pytest -m gpu` on every file that has such tests, or only those of `ops`; at most `seconds` in all.

    After each, `done` is called with what is known by then; what has not ended yet counts as not done in time.
    """
    deadline = time.monotonic() + seconds
    processes = max(2, min(MOST_PROCESSES, (os.cpu_count() or 1) // 2))
    runs = [
        FileRun(path, op_of(path), [], "time", f"{part + 1}/{PARTS.get(path.name, 1)}")
        for path in test_files(checkout)
        for part in range(PARTS.get(path.name, 1))
    ]
    have = {run.op for run in runs}
    if unknown := set(ops or ()) - have:
        raise UsageError(f"--ops {min(unknown)}: has no tests for a GPU; use some of {', '.join(sorted(have))}")
    runs = [run for run in runs if ops is None or run.op in ops]
    with ThreadPoolExecutor(processes) as pool:
        places = {pool.submit(run_file, checkout, run, deadline): at for at, run in enumerate(runs)}
        for future in as_completed(places):
            runs[places[future]] = future.result()
            done(runs)
    return runs


def run_file(checkout: Path, run: FileRun, deadline: float) -> FileRun:
    """One file in a process of its own; says in a line what became of it, and what pytest said where it went wrong."""
    started = time.monotonic()
    environment = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "PYNANOCHAT_BACKEND")}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-v", "-m", "gpu", "-p", "no:cacheprovider", f"--junitxml={report}"]
        if run.part != "1/1":
            command += ["-p", "pynanochat.bench.part_of_tests"]
            environment["PYNANOCHAT_PART"] = run.part
        left = max(0.0, min(deadline - started, FILE_SECONDS))
        code, said = run_limited([*command, str(run.path)], checkout, environment, left)
        ended = "time" if code is None else "finished" if code in (0, 1, 5) else "broke off"  # 5: no test was selected
        result = replace(run, outcomes=read_outcomes(report), ended=ended)
    counts = Counter(o.result for o in result.outcomes)
    words = ", ".join(f"{n} {what}" for what, n in counts.items()) or "no tests"
    words = words if result.finished else "not finished" if code is None else f"not finished: it ended with {code}"
    print(f"{result.name}: {words}, {time.monotonic() - started:.0f} s", flush=True)
    if code != 0 and said:
        print(said[-4000:], flush=True)
    return result


def run_limited(command, folder, environment, seconds: float) -> tuple[int | None, str]:
    """The exit code, None where it took more than `seconds` and was ended, and what it printed. It prints to a file:
    what it started may outlive it and would hold a pipe open."""
    with tempfile.TemporaryFile() as output:
        try:
            run = subprocess.run(
                command, cwd=folder, env=environment, timeout=seconds, stdout=output, stderr=subprocess.STDOUT
            )
            code = run.returncode
        except subprocess.TimeoutExpired:
            code = None
        output.seek(0)
        return code, output.read().decode(errors="replace")
