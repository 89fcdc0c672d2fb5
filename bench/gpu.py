"""The one-command check of a GPU: tests, roofline and benchmarks in ten minutes, no network, one results file.

    pynanochat bench gpu [--output FOLDER] [--minutes 10]

Run it from a checkout. It runs the tests marked gpu, measures what the card's matrix products and memory reach,
benchmarks every op whose tests passed against eager torch and torch.compile, then whole steps of training and decoding,
lets compute-sanitizer watch the CUDA ops where it is installed and time is left, and writes bench/results/DEVICE.json.
From then on the backends listed there as `verified` are the default on this architecture (pynanochat/ops/backends.py).
An op and a backend are verified where tests of them ran and every one of them passed.
"""

import argparse
import datetime
import json
import re
import subprocess
import time
from pathlib import Path

from pynanochat.bench import gpu_tests
from pynanochat.errors import BackendError, UsageError

TEST_SHARE = 0.6  # of the time, for the tests
OPS_SHARE = 0.75  # by then the ops are measured; whole steps and the memory check get the rest


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


def tuned_before(path: Path) -> dict:
    """The tiles that `pynanochat bench tune` has put into a results file (see bench/gpu_tune.py)."""
    try:
        return json.loads(path.read_text()).get("tiles", {})
    except (OSError, ValueError):
        return {}


def publish(folder: Path, result: dict) -> Path:
    """Write `result` to `folder` and where this installation looks for it; the path in `folder`."""
    path = write_results(folder, result)
    installed = Path(__file__).resolve().parent / "results"
    if installed != folder.resolve():
        try:
            write_results(installed, result)
        except OSError as error:
            print(
                f"{installed} cannot be written ({error.strerror}): install again from the checkout to use the result"
            )
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
    runs = gpu_tests.run_tests(checkout, seconds * TEST_SHARE)
    result = about_device(checkout)
    result["verified"] = gpu_tests.verified_pairs(runs)
    result["tests"] = gpu_tests.summary(runs)
    folder = options.output or checkout / "bench" / "results"
    result["tiles"] = tuned_before(results_file(folder, result["device"]))
    publish(folder, result)  # what the tests found stays, should a benchmark break

    from pynanochat.bench import gpu_decode_step, gpu_memcheck, gpu_ops, gpu_steps

    backends.verified.cache_clear()  # whole steps run on what has just passed
    result |= gpu_ops.measure(result["verified"], deadline=started + seconds * OPS_SHARE)
    for steps in (
        gpu_decode_step.measure(result["verified"], deadline=started + seconds),
        gpu_steps.measure(result["verified"], result["roofline"], deadline=started + seconds),
    ):
        result["rows"] += steps["rows"]
        result["not_measured"] |= steps["not_measured"]
    result |= gpu_memcheck.run_memcheck(checkout, started + seconds - time.monotonic())
    path = publish(folder, result)
    gpu_ops.show(result)
    print(f"memory check of the CUDA ops: {result['memcheck']}")
    passed = ", ".join(f"{v['op']} ({v['backend']})" for v in result["verified"]) or "nothing"
    print(f"verified on {result['architecture']}: {passed}\nwritten to {path}")
    failed, unfinished = result["tests"]["failed"], result["tests"]["unfinished"]
    if failed or unfinished:
        raise BackendError(
            f"bench gpu: {failed} tests failed and {len(unfinished)} files did not finish; see tests in {path}"
        )
