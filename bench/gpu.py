"""The one-command check of a GPU: tests, roofline and benchmarks in ten minutes, no network, one results file.

    pynanochat bench gpu [--output FOLDER] [--minutes 10] [--only tests,ops,steps,memcheck] [--ops NAME,...]

Run it from a checkout. It runs the tests marked gpu, measures what the card's matrix products and memory reach,
benchmarks every op whose tests passed against eager torch and torch.compile, then whole steps of training and decoding,
lets compute-sanitizer watch the CUDA ops where it is installed and time is left, and writes bench/results/DEVICE.json.
From then on the backends listed there as `verified` are the default on this architecture (pynanochat/ops/backends.py).
An op and a backend are verified where tests of them ran and every one of them passed.

The file is written after every file of tests and every benchmark: what there is stays, whenever the run is ended.
--only and --ops cut a run into pieces, where a card is lent for minutes: what a piece does not measure stays in the
file, as far as it is of the same code.
"""

import argparse
import datetime
import faulthandler
import json
import re
import subprocess
import sys
import time
from pathlib import Path

from pynanochat.bench import gpu_tests
from pynanochat.errors import BackendError, UsageError

PARTS = {"tests": 0.6, "ops": 0.75, "steps": 1.0, "memcheck": 1.0}  # by what share of the time each has to be done
FIGURES = (
    "tests",
    "roofline",
    "rows",
    "not_measured",
    "memcheck",
    "racecheck",
    "output",
)  # of one commit, in a results file
GRACE_SECONDS = 90  # after the time is up: what has not ended by then hangs


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


def read_results(path: Path) -> dict:
    """What a results file says, without what an older or a damaged one has wrong; {} where it says nothing."""
    try:
        result = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(result, dict):
        return {}
    for key in {"verified", "failed"} & result.keys():
        entries = result[key] if isinstance(result[key], list) else []
        result[key] = [e for e in entries if isinstance(e, dict) and {"op", "backend", "code"} <= e.keys()]
    return result


def installed_folder() -> Path:
    return Path(__file__).resolve().parent / "results"


def publish(folder: Path, result: dict) -> Path:
    """Write `result` to `folder` and where this installation looks for it; the path in `folder`."""
    path = write_results(folder, result)
    installed = installed_folder()
    if installed != folder.resolve():
        try:
            write_results(installed, result)
        except OSError as error:
            print(
                f"{installed} cannot be written ({error.strerror}): install again from the checkout to use the result"
            )
    return path


def begun(folder: Path, device: dict, whole: bool) -> dict:
    """The results to go on from: what the file of this `device` says so far, in `folder` or else in the installation;
    its figures only if they are of the same commit and this run is not `whole`."""
    result = read_results(results_file(folder, device["device"])) or read_results(
        results_file(installed_folder(), device["device"])
    )
    if whole or result.get("commit") != device["commit"]:
        result = {key: value for key, value in result.items() if key not in FIGURES}
    return result | device


def tested(result: dict, runs: list) -> dict:
    """`result` with what the tests have shown by now, each pair bound to the code it was shown of. What an earlier run
    has shown of that code stays, of ops that were not tested again."""
    from pynanochat.ops.fingerprints import fingerprint

    now = {"verified": gpu_tests.verified_pairs(runs), "failed": gpu_tests.failed_pairs(runs)}
    again = {run.op for run in runs if run.ended != "time"} | {o.op for run in runs for o in run.outcomes}
    pairs = {}
    for key, found in now.items():
        found = [{**entry, "code": fingerprint(entry["op"], entry["backend"])} for entry in found]
        pairs[key] = found + [
            entry
            for entry in result.get(key, [])
            if entry["op"] not in again and entry["code"] == fingerprint(entry["op"], entry["backend"])
        ]
    return result | pairs | {"tests": gpu_tests.summary(runs)}


def measured(result: dict, part: dict) -> dict:
    """`result` with the rows of `part` in place of those of the same case, and its reasons in place of its ops'."""
    cases = {(row["op"], row["case"]) for row in part["rows"]}
    rows = [row for row in result.get("rows", []) if (row["op"], row["case"]) not in cases]
    ops = {op for op, _ in cases} | {name.split()[0] for name in part["not_measured"]}
    missing = {name: why for name, why in result.get("not_measured", {}).items() if name.split()[0] not in ops}
    return result | part | {"rows": rows + part["rows"], "not_measured": missing | part["not_measured"]}


def names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def options_of(argv: list[str]):
    parser = argparse.ArgumentParser(prog="pynanochat bench gpu", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--output", type=Path, help="folder of the results file (default: bench/results of the checkout)"
    )
    parser.add_argument("--minutes", type=float, default=10.0, help="stop measuring after so long (default 10)")
    parser.add_argument("--only", type=names, default=list(PARTS), help=f"some of {','.join(PARTS)} (default all)")
    parser.add_argument("--ops", type=names, help="tests and benchmarks of these ops only")
    options = parser.parse_args(argv)
    unknown = [name for name in options.only if name not in PARTS]
    if unknown:
        raise UsageError(f"--only {unknown[0]}: not a part; use some of {', '.join(PARTS)}")
    return options


def main(argv: list[str]) -> None:
    """`pynanochat bench gpu`. Raises BackendError where there is no GPU."""
    started = time.monotonic()
    options = options_of(argv)
    import torch

    if not torch.cuda.is_available():
        from pynanochat import _C

        reason = _C.cuda_available()[1] or f"torch {torch.__version__} was built without CUDA"
        raise BackendError(f"bench gpu: no GPU to check here ({reason}); run it on a machine with an NVIDIA GPU")
    checkout = find_checkout()
    faulthandler.dump_traceback_later(options.minutes * 60 + GRACE_SECONDS, exit=True, file=sys.__stderr__)
    try:
        conclude(*run(checkout, options, started))
    finally:
        faulthandler.cancel_dump_traceback_later()


def run(checkout: Path, options, started: float) -> tuple[dict, Path]:
    """The results of what is asked for, and their file, which is written after every step."""
    from pynanochat.ops import backends

    seconds = options.minutes * 60
    shares = PARTS if len(options.only) > 1 else dict.fromkeys(PARTS, 1.0)
    deadline = {part: started + seconds * share for part, share in shares.items()}
    folder = options.output or checkout / "bench" / "results"
    result = begun(folder, about_device(checkout), whole=not options.ops and set(options.only) == set(PARTS))
    if "tests" in options.only:
        keep = lambda runs: publish(folder, tested(result, runs))  # noqa: E731
        runs = gpu_tests.run_tests(checkout, deadline["tests"] - time.monotonic(), options.ops, keep)
        result = tested(result, runs)
        publish(folder, result)
    backends.verified.cache_clear()  # whole steps run on what has just passed
    verified = [{"op": op, "backend": backend} for op, backend in sorted(backends.current(result)["verified"])]
    result = measure(result, verified, options, deadline, lambda result: publish(folder, result), checkout)
    return result, publish(folder, result)


def measure(result: dict, verified: list[dict], options, deadline: dict, keep, checkout: Path) -> dict:
    """`result` with the parts that are asked for beyond the tests; `keep` is called with it after each step."""
    from pynanochat.bench import gpu_decode_step, gpu_memcheck, gpu_ops, gpu_steps

    if "ops" in options.only:
        part = gpu_ops.measure(verified, deadline["ops"], options.ops, lambda part: keep(measured(result, part)))
        result = measured(result, part)
    if "steps" in options.only:
        rate = result.get("roofline") or gpu_ops.timing.roofline()
        result = measured(result, gpu_decode_step.measure(verified, deadline["steps"])) | {"roofline": rate}
        part = gpu_steps.measure(verified, rate, deadline["steps"], lambda part: keep(measured(result, part)))
        result = measured(result, part)
    if {"ops", "steps"} & set(options.only):
        gpu_ops.show(result)
    if "memcheck" in options.only:
        result = result | gpu_memcheck.run_memcheck(checkout, deadline["memcheck"] - time.monotonic())
        print(f"memory check of the CUDA ops: {result['memcheck']}; race check: {result['racecheck']}")
    return result


def conclude(result: dict, path: Path) -> None:
    """Say what is verified. Raises BackendError where tests failed or did not finish."""
    passed = ", ".join(f"{v['op']} ({v['backend']})" for v in result.get("verified", [])) or "nothing"
    print(f"verified on {result['architecture']}: {passed}\nwritten to {path}")
    tests = result.get("tests", {"failed": 0, "unfinished": []})
    if tests["failed"] or tests["unfinished"]:
        raise BackendError(
            f"bench gpu: {tests['failed']} tests failed and {len(tests['unfinished'])} files did not finish; "
            f"see tests in {path}"
        )
