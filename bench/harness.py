"""What every benchmark shares: proof of equal results, interleaved timing, the machine's roofline, a line of JSON.

A bench_OP.py has cases, which its tests use too, and one function that both ways of running it share:

    def contest(case, dtype):                      # cached, so that every engine gets the same inputs
        prove({"dx": (ours, plain, exact)}, dtype)     # first
        return {"ours": f, "eager": g}                 # engine -> a call of it

    python -m pynanochat.bench.bench_OP            # engines take turns; ratios, the part of the roofline, JSON
    pytest bench/bench_OP.py --benchmark-enable    # pytest-benchmark's table of the engines, a table a case

Without --benchmark-enable the second is a quick check that every call works. OMP_NUM_THREADS sets the threads.
"""

import functools
import json
import statistics
import time

import torch

from pynanochat import _C
from pynanochat.runtime import cpu_name


def relative_error(x, exact) -> float:
    """‖x - exact‖ / ‖exact‖ in float64."""
    exact = exact.double()
    return ((x.double() - exact).norm() / exact.norm().clamp_min(1e-300)).item()


def prove(results: dict, dtype, factor: float = 2.0) -> None:
    """Raise AssertionError unless every result is as good as plain torch's.

    results: name -> (ours, plain, exact): tensors of ours, of plain torch in the same dtype, and of plain torch in
    float64. The error of ours against exact may be `factor` times plain's, or the rounding to its own dtype. Fewer than
    512 elements are too few to average luck out: there it may also be the precision of `dtype`, which products are in.
    """
    for name, (ours, plain, exact) in results.items():
        assert ours.dtype == plain.dtype and ours.shape == plain.shape, (name, ours.dtype, ours.shape, plain.shape)
        allowed = factor * max(relative_error(plain, exact), relative_error(exact.to(ours.dtype), exact))
        if exact.numel() < 512:
            allowed = max(allowed, torch.finfo(dtype).eps)
        error = relative_error(ours, exact)
        assert error <= allowed, f"{name}: error {error:.3g}, allowed {allowed:.3g}"


def interleave(functions: dict, seconds: float = 4.0, rounds: int = 15) -> dict:
    """name -> (median seconds of one call, its time in each round), the functions taking turns.

    The first call of each is not counted. Stops after `rounds` rounds or, three rounds at least, `seconds` seconds.
    """
    for function in functions.values():
        function()
    times = {name: [] for name in functions}
    end = time.perf_counter() + seconds
    for turn in range(rounds):
        if turn >= 3 and time.perf_counter() > end:
            break
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            times[name].append(time.perf_counter() - start)
    return {name: (statistics.median(t), t) for name, t in times.items()}


def speedup(times: dict, ours: str, peer: str) -> float:
    """How many times faster `ours` is than `peer`: the median over rounds, so that a noisy spell hits both."""
    return statistics.median(p / o for o, p in zip(times[ours][1], times[peer][1], strict=True))


def ratios(times: dict, ours: str = "ours") -> dict:
    """{"ms": of ours, "times PEER": how many times faster ours is}, for a row of the report."""
    row = {"ms": times[ours][0] * 1e3}
    return row | {f"times {peer}": speedup(times, ours, peer) for peer in times if peer != ours}


def race(benchmark, contest, engine: str, *case) -> None:
    """Time `contest(*case)[engine]` by pytest-benchmark, in one table with the other engines of the case."""
    benchmark.group = f"{contest.__module__.rpartition('.')[2]}: {', '.join(map(str, case))}"
    if benchmark.disabled and engine == "compiled":
        import pytest

        pytest.skip("compiling takes long: with --benchmark-enable only")
    benchmark(contest(*case)[engine])


@functools.cache
def gemm_rate(dtype, size: int = 1536) -> float:
    """Operations a second of torch's matrix product in `dtype`, the best of several."""
    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    best = min(interleave({"gemm": lambda: a @ b}, seconds=2.0)["gemm"][1])
    return 2 * size**3 / best


@functools.cache
def stream_rate(megabytes: int = 256) -> float:
    """Bytes a second of a copy that no cache holds, reads and writes both counted."""
    a = torch.ones(megabytes << 18)
    b = torch.empty_like(a)
    best = min(interleave({"copy": lambda: b.copy_(a)}, seconds=2.0)["copy"][1])
    return 2 * a.numel() * 4 / best


def report(name: str, rows: list[dict]) -> None:
    """Print `rows` as a table, then one line of JSON with the machine they were measured on."""
    for row in rows:
        print(
            "  ".join(
                f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()
            )
        )
    machine = {"cpu": cpu_name(), "isa": _C.cpu_isa(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    print(json.dumps({"benchmark": name, "machine": machine, "rows": rows}))
