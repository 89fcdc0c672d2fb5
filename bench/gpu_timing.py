"""What the GPU benchmarks share: the device, times of CUDA events, the card's roofline, rows of the results.

Times are of CUDA events around many calls, the functions taking turns, the median over rounds. `of_bound` is the part
of a bound measured in the same run: the copy rate where memory is the bound, the bf16 product rate where products are.
"""

import contextlib
import statistics
from collections.abc import Callable

import torch

from pynanochat.ops.backends import implementations

DEVICE = "cuda"  # the tests run everything here on the CPU
PEERS = ("eager", "compiled")


def event_seconds(function, calls: int) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(calls):
        function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / calls


_left_out: list[list] = []


@contextlib.contextmanager
def without_compiled():
    """Within, `interleave` leaves out the peers of torch.compile, which takes many seconds for each; gives the list of
    what it left out."""
    _left_out.append([])
    try:
        yield _left_out[-1]
    finally:
        _left_out.pop()


def interleave(functions: dict, rounds: int = 7, round_seconds: float = 0.05) -> dict[str, float]:
    """name -> median seconds of a call, the functions taking turns. The first calls (compilation) are not counted."""
    if _left_out and "compiled" in functions:
        functions = {name: function for name, function in functions.items() if name != "compiled"}
        _left_out[-1].append("compiled")
    calls = {}
    for name, function in functions.items():
        function()
        calls[name] = max(1, min(200, int(round_seconds / max(event_seconds(function, 2), 1e-6))))
    times = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            times[name].append(event_seconds(function, calls[name]))
    return {name: statistics.median(t) for name, t in times.items()}


def roofline(size: int = 8192, copied: int = 2**30) -> dict:
    """What the card reaches: bf16 products in TFLOP/s, a copy in GB/s with reads and writes both counted."""
    a = torch.randn(size, size, device=DEVICE, dtype=torch.bfloat16)
    source = torch.empty(copied, device=DEVICE, dtype=torch.uint8)
    target = torch.empty_like(source)
    times = interleave({"product": lambda: a @ a, "copy": lambda: target.copy_(source)})
    return {"bf16_tflops": 2 * size**3 / times["product"] / 1e12, "copy_gbs": 2 * copied / times["copy"] / 1e9}


def free_memory() -> int:
    """Bytes free on the card."""
    return torch.cuda.mem_get_info()[0]


def contenders(op: str, verified: list[dict]) -> dict:
    """backend -> implementation, of the verified backends of `op`."""
    return {v["backend"]: implementations(op)[v["backend"]] for v in verified if v["op"] == op}


def rows_of(
    op: str, case: str, times: dict, work: float, unit: str, bound: float, peers=("eager", "compiled", "sdpa")
) -> list[dict]:
    """A row for each backend: `work` (in units that make `unit` per second) over its time, and its peers."""
    peers = {name: times[name] for name in peers if name in times}
    return [
        {
            "op": op,
            "case": case,
            "backend": backend,
            "ms": seconds * 1e3,
            unit: work / seconds,
            "of_bound": work / seconds / bound,
            **{f"times_{peer}": theirs / seconds for peer, theirs in peers.items()},
        }
        for backend, seconds in times.items()
        if backend not in peers
    ]


def attempt(run: Callable[[], list[dict]]) -> tuple[list[dict], str]:
    """The rows that `run` gives and "", or no rows and the reason: what breaks must not take others' figures away."""
    try:
        return run(), ""
    except torch.cuda.OutOfMemoryError:
        return [], "out of memory"
    except Exception as error:
        return [], " ".join(f"{type(error).__name__}: {error}".split())[:200]
    finally:
        torch.cuda.empty_cache()
