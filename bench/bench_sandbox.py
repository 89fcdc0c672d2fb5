"""The sandbox: milliseconds a program under each tier, against one bare interpreter that runs the same text.

    python -m pynanochat.bench.bench_sandbox [--data FOLDER] [--seconds 4]
    pytest bench/bench_sandbox.py --benchmark-enable

"bare" is `python -I -S -c program+tests`: what starting an interpreter costs at all; the sandbox starts two, at once.
With --data, a FOLDER with tasks/HumanEval.jsonl.gz, its canonical solutions run under the best tier as well.
"""

import argparse
import gzip
import json
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import pytest

from pynanochat.bench.harness import interleave, race, report, speedup
from pynanochat.tools import sandbox

PROGRAM = "def add(a, b):\n    return a + b\n"
TESTS = "assert add(2, 3) == 5\n"


def tiers() -> list[str]:
    """The tiers that can be had here, the best first."""
    best = sandbox.active_tier()
    lower = ["landlock+seccomp"] if {"landlock", "seccomp"} <= set(best.split("+")) else []
    return list(dict.fromkeys([best, *lower, "rlimits only"]))


def sandboxed(tier: str) -> None:
    """Run the program under `tier`; it must pass, and a wrong one fail."""
    with mock.patch.object(sandbox, "active_tier", lambda: tier):
        assert sandbox.passes(PROGRAM, TESTS, timeout=60).passed


def bare() -> None:
    command = [*sandbox.interpreter()[:-1], PROGRAM + TESTS]
    subprocess.run(command, check=True, env={}, stdin=subprocess.DEVNULL, capture_output=True)


def contest() -> dict:
    """engine -> one program, start to end."""
    assert not sandbox.passes("def add(a, b):\n    return 0\n", TESTS, timeout=60).passed
    return {tier: (lambda tier=tier: sandboxed(tier)) for tier in tiers()} | {"bare": bare}


def human_eval(data: Path, threads: int) -> dict:
    """Milliseconds a canonical solution of HumanEval, one after another and `threads` at once."""
    with gzip.open(data / "tasks/HumanEval.jsonl.gz", "rt") as file:
        rows = [json.loads(line) for line in file]
    jobs = [(r["prompt"] + r["canonical_solution"], f"{r['test']}\ncheck({r['entry_point']})\n") for r in rows]
    judge = lambda job: sandbox.passes(*job, timeout=60).passed  # noqa: E731
    row = {"case": "HumanEval", "tier": sandbox.active_tier(), "programs": len(jobs)}
    for name, workers in (("ms", 1), (f"ms, {threads} at once", threads)):
        with ThreadPoolExecutor(workers) as pool:
            start = time.perf_counter()
            passed = sum(pool.map(judge, jobs))
            row[name] = 1e3 * (time.perf_counter() - start) / len(jobs)
        assert passed == len(jobs), f"{passed} of {len(jobs)} pass"
    return row


@pytest.mark.parametrize("engine", [*tiers(), "bare"])
def test_program(engine, benchmark):
    race(benchmark, contest, engine)


def main() -> None:
    parser = argparse.ArgumentParser(prog="pynanochat bench sandbox", description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, help="a folder with tasks/HumanEval.jsonl.gz")
    parser.add_argument("--seconds", type=float, default=4.0)
    given = parser.parse_args()
    times = interleave(contest(), given.seconds, rounds=60)
    rows = [
        {
            "case": "one program",
            "tier": tier,
            "ms": 1e3 * times[tier][0],
            "times bare": 1 / speedup(times, tier, "bare"),
        }
        for tier in times
    ]
    if given.data:
        rows.append(human_eval(given.data, os.cpu_count() or 1))
    report("sandbox", rows)


if __name__ == "__main__":
    main()
