"""`pynanochat bench`: lists the benchmarks, runs one or all of them, or checks a GPU.

pynanochat bench                 the benchmarks there are
pynanochat bench NAME [flags]    bench/bench_NAME.py
pynanochat bench cpu             every one of them
pynanochat bench gpu             tests, roofline and benchmarks of a GPU into bench/results (see bench/gpu.py)
pynanochat bench tune            the fastest tiles of its Triton kernels, into the same file (see bench/gpu_tune.py)
"""

import importlib.resources
import subprocess
import sys

from pynanochat.errors import UsageError


def names() -> list[str]:
    """The NAME of every bench_NAME.py that is installed."""
    files = (f.name for f in importlib.resources.files("pynanochat.bench").iterdir())
    return sorted(f[6:-3] for f in files if f.startswith("bench_") and f.endswith(".py"))


def run(name: str, flags: list[str]) -> int:
    """Run one benchmark in a process of its own, so that no other disturbs its threads and caches; its exit code."""
    print(f"== {name}", flush=True)
    return subprocess.run([sys.executable, "-m", f"pynanochat.bench.bench_{name}", *flags]).returncode


def main(argv: list[str]) -> None:
    """Raises UsageError for a name that is none, or where a benchmark fails."""
    if not argv or argv[0] in ("-h", "--help"):
        print(
            "usage: pynanochat bench [gpu | tune | cpu | NAME] [flags]\n\n"
            + __doc__
            + "\nbenchmarks: "
            + ", ".join(names())
        )
        return
    what, *flags = argv
    if what == "gpu":
        from pynanochat.bench import gpu

        return gpu.main(flags)
    if what == "tune":
        from pynanochat.bench import gpu_tune

        return gpu_tune.main(flags)
    if what != "cpu" and what not in names():
        raise UsageError(f"bench {what}: not a benchmark; use gpu, tune, cpu or one of {', '.join(names())}")
    failed = [name for name in (names() if what == "cpu" else [what]) if run(name, flags) != 0]
    if failed:
        raise UsageError(f"bench {what}: {', '.join(failed)} failed; its own words stand above")
