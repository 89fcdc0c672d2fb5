"""The one-command check of a GPU: tests, roofline and benchmarks in ten minutes, no network, one results file.

    pynanochat bench gpu [--output FOLDER] [--minutes 10]

Run it from a checkout. It runs `pytest -m gpu`, measures what the card's matrix products and memory reach, benchmarks
every op whose tests passed against eager torch and torch.compile, then whole steps of training and decoding, lets
compute-sanitizer watch the CUDA ops where it is installed and time is left, and writes bench/results/DEVICE.json. From
then on the backends listed there as `verified` are the default on this architecture (pynanochat/ops/backends.py). An op
and a backend are verified where tests of them ran and every one of them passed.
"""

import argparse
import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from pynanochat.errors import BackendError, UsageError

TEST_SHARE = 0.6  # of the time, for the tests
OPS_SHARE = 0.75  # by then the ops are measured; whole steps and the memory check get the rest


@dataclass(frozen=True)
class Outcome:
    """What became of one test: op and backend are None where the test names none or never began."""

    test: str
    op: str | None
    backend: str | None
    result: str  # passed, failed or skipped


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


def verified_pairs(outcomes: list[Outcome], finished: bool) -> list[dict]:
    """[{op, backend, tests}] of what ran and passed whole.

    Nothing is where pytest did not finish, or where a failure names no op: it might belong to any.
    """
    if not finished or any(o.result == "failed" and o.op is None for o in outcomes):
        return []
    pairs = sorted({(o.op, o.backend) for o in outcomes if o.op and o.backend})
    verified = []
    for op, backend in pairs:
        results = [o.result for o in outcomes if (o.op, o.backend) == (op, backend)]
        if set(results) == {"passed"}:
            verified.append({"op": op, "backend": backend, "tests": len(results)})
    return verified


def test_summary(outcomes: list[Outcome], finished: bool) -> dict:
    """Counts, and the names of the tests that failed."""
    counts = Counter(o.result for o in outcomes)
    return {
        "finished": finished,
        **{result: counts[result] for result in ("passed", "failed", "skipped")},
        "failures": [o.test for o in outcomes if o.result == "failed"],
    }


def run_tests(checkout: Path, seconds: float) -> tuple[list[Outcome], bool]:
    """`pytest -m gpu` in a process of its own: its outcomes, and whether it came to its end."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-m",
            "gpu",
            "-p",
            "no:cacheprovider",
            f"--junitxml={report}",
            "tests",
        ]
        environment = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "PYNANOCHAT_BACKEND")}
        try:
            code = subprocess.run(command, cwd=checkout, env=environment, timeout=seconds).returncode
        except subprocess.TimeoutExpired:
            code = None
        return read_outcomes(report), code in (0, 1)  # 0 all passed, 1 some failed; else it broke off


def find_checkout() -> Path:
    """The folder with the tests: here, or where an editable install points."""
    for folder in (Path.cwd(), Path(__file__).resolve().parents[1]):
        if (folder / "tests" / "kernels").is_dir() and (folder / "pyproject.toml").is_file():
            return folder
    raise UsageError(
        "bench gpu runs the tests, which an installed wheel has not: run it from a checkout of the repository"
    )


def git(checkout: Path, *words: str) -> str:
    try:
        run = subprocess.run(["git", *words], cwd=checkout, capture_output=True, text=True)
    except OSError:
        return ""
    return run.stdout.strip() if run.returncode == 0 else ""


def commit(checkout: Path) -> str:
    """The commit that was measured, with "+changes" where the files differ from it; "unknown" without git."""
    head = git(checkout, "rev-parse", "HEAD")
    return (head + ("+changes" if git(checkout, "status", "--porcelain", "-uno") else "")) or "unknown"


def driver_version() -> str:
    try:
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return (
            subprocess.run(query, capture_output=True, text=True, timeout=30).stdout.split("\n")[0].strip() or "unknown"
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"


def about_device(checkout: Path) -> dict:
    """What was measured with what."""
    import torch

    from pynanochat import _C

    try:
        import triton

        triton_version = triton.__version__
    except ImportError:
        triton_version = None
    properties = torch.cuda.get_device_properties(0)
    return {
        "device": properties.name,
        "architecture": f"sm_{properties.major}{properties.minor}",
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "multiprocessors": properties.multi_processor_count,
        "driver": driver_version(),
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "triton": triton_version,
        "built_for": _C.cuda_architectures(),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit(checkout),
    }


def results_file(folder: Path, device: str) -> Path:
    """FOLDER/DEVICE.json, the device's name with hyphens for what a file name should not have."""
    return folder / (re.sub(r"[^A-Za-z0-9]+", "-", device).strip("-") + ".json")


def write_results(folder: Path, result: dict) -> Path:
    """Write `result` whole or not at all; an older file of the same device is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    path = results_file(folder, result["device"])
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1) + "\n")
    part.replace(path)
    return path


def main(argv: list[str]) -> None:
    """`pynanochat bench gpu`. Raises BackendError where there is no GPU."""
    started = time.monotonic()
    parser = argparse.ArgumentParser(prog="pynanochat bench gpu", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--output", type=Path, help="folder of the results file (default: bench/results of the checkout)"
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="stop measuring after so long (default 10)")
    options = parser.parse_args(argv)
    import torch

    from pynanochat.ops import backends

    if not torch.cuda.is_available():
        from pynanochat import _C

        reason = _C.cuda_available()[1] or f"torch {torch.__version__} was built without CUDA"
        raise BackendError(f"bench gpu: no GPU to check here ({reason}); run it on a machine with an NVIDIA GPU")
    checkout = find_checkout()
    seconds = options.minutes * 60
    outcomes, finished = run_tests(checkout, seconds * TEST_SHARE)
    result = about_device(checkout)
    result["verified"] = verified_pairs(outcomes, finished)
    result["tests"] = test_summary(outcomes, finished)
    folder = options.output or checkout / "bench" / "results"
    write_results(folder, result)  # what the tests found stays, should a benchmark break

    from pynanochat.bench import gpu_memcheck, gpu_ops, gpu_steps

    backends.verified.cache_clear()  # whole steps run on what has just passed
    result |= gpu_ops.measure(result["verified"], deadline=started + seconds * OPS_SHARE)
    steps = gpu_steps.measure(result["verified"], result["roofline"], deadline=started + seconds)
    result["rows"] += steps["rows"]
    result["not_measured"] |= steps["not_measured"]
    result |= gpu_memcheck.run_memcheck(checkout, started + seconds - time.monotonic())
    path = write_results(folder, result)
    gpu_ops.show(result)
    print(f"memory check of the CUDA ops: {result['memcheck']}")
    passed = ", ".join(f"{v['op']} ({v['backend']})" for v in result["verified"]) or "nothing"
    print(f"verified on {result['architecture']}: {passed}\nwritten to {path}")
    if result["tests"]["failed"] or not finished:
        raise BackendError(f"bench gpu: {result['tests']['failed']} tests failed; see tests.failures in {path}")
