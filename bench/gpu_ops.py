"""Benchmarks of the ops on a GPU, for `pynanochat bench gpu`: the card's roofline, then each op against its peers.

Times are of CUDA events around many calls, the functions taking turns, the median over rounds. `of_bound` is the part
of a bound measured in the same run: the copy rate where memory is the bound, the bf16 product rate where products are.
"""

import statistics
import time

import torch

from pynanochat.bench import bench_linear_softcap_cross_entropy as cross_entropy
from pynanochat.bench import bench_rotary_qk_norm as rotary
from pynanochat.ops.backends import implementations

DEVICE = "cuda"  # the tests run everything here on the CPU
ROTARY_CASES = {"d12": (32, 2048, 6, 6, 128), "d24 grouped": (16, 2048, 12, 4, 128)}  # B, T, H, G, D
CROSS_ENTROPY_CASES = {"d12": (65536, 768, 32768), "d24": (32768, 1536, 32768)}  # N, C, V


def event_seconds(function, calls: int) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(calls):
        function()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / calls


def interleave(functions: dict, rounds: int = 7, round_seconds: float = 0.05) -> dict[str, float]:
    """name -> median seconds of a call, the functions taking turns. The first calls (compilation) are not counted."""
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
    op: str, case: str, times: dict, work: float, unit: str, bound: float, peers=("eager", "compiled")
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


def bench_rotary(case, label, kernels, rate) -> list[dict]:
    reference = implementations("rotary_qk_norm")["reference"]
    q, k, cos, sin, dq, dk = (x.to(DEVICE) for x in rotary.make(case, torch.bfloat16))
    compiled = torch.compile(reference.forward, dynamic=False)
    settings = (cos, sin, rotary.SCALE, 1e-6)
    forward = {name: (lambda f=kernel.forward: f(q, k, *settings)) for name, kernel in kernels.items()}
    forward |= {"eager": lambda: reference.forward(q, k, *settings), "compiled": lambda: compiled(q, k, *settings)}
    compiled_back = torch.compile(reference.backward, dynamic=False)
    backward = {name: (lambda f=kernel.backward: f(dq, dk, q, k, *settings)) for name, kernel in kernels.items()}
    backward |= {
        "eager": lambda: reference.backward(dq, dk, q, k, *settings),
        "compiled": lambda: compiled_back(dq, dk, q, k, *settings),
    }
    gigabytes = (q.numel() + k.numel()) * q.element_size() / 1e9
    rows = rows_of("rotary_qk_norm", f"{label} forward", interleave(forward), 2 * gigabytes, "gbs", rate["copy_gbs"])
    return rows + rows_of(
        "rotary_qk_norm", f"{label} backward", interleave(backward), 3 * gigabytes, "gbs", rate["copy_gbs"]
    )


def bench_cross_entropy(case, label, kernels, rate) -> list[dict]:
    N, C, V = case
    x, weight, targets, scale, vocab_size = (
        v.to(DEVICE) if isinstance(v, torch.Tensor) else v
        for v in cross_entropy.make(case, (torch.bfloat16, torch.bfloat16))
    )
    settings = (vocab_size, cross_entropy.SOFTCAP, cross_entropy.IGNORE)
    functions = {
        name: (lambda f=kernel.losses_and_grads: f(x, weight, targets, scale, *settings))
        for name, kernel in kernels.items()
    }
    reference = implementations("linear_softcap_cross_entropy")["reference"]
    functions["eager"] = lambda: reference.losses_and_grads(x, weight, targets, scale, *settings)
    if free_memory() > 24 * N * V:  # all logits at once, in fp32 and several times over
        compiled = torch.compile(cross_entropy.plain_formula, dynamic=False)
        functions["compiled"] = lambda: compiled(x, weight, targets, scale, vocab_size)
    times = interleave(functions, rounds=5)
    return rows_of(
        "linear_softcap_cross_entropy", f"{label} loss and gradients", times, 6 * N * C * V / 1e12, "tflops",
        rate["bf16_tflops"],
    )  # fmt: skip


from pynanochat.bench import gpu_attention  # noqa: E402  uses what stands above

BENCHMARKS = [
    ("attention", gpu_attention.bench_attention, gpu_attention.CASES),
    ("rotary_qk_norm", bench_rotary, ROTARY_CASES),
    ("linear_softcap_cross_entropy", bench_cross_entropy, CROSS_ENTROPY_CASES),
]


def measure(verified: list[dict], deadline: float) -> dict:
    """roofline, rows and `not_measured` (case: reason): what time or the card's memory did not allow."""
    rate = roofline()
    rows, missing = [], {}
    for op, bench, cases in BENCHMARKS:
        kernels = contenders(op, verified)
        for label, case in cases.items():
            if not kernels:
                missing[f"{op} {label}"] = "no backend of this op was verified"
            elif time.monotonic() > deadline:
                missing[f"{op} {label}"] = "the time was up"
            else:
                try:
                    rows += bench(case, label, kernels, rate)
                except torch.cuda.OutOfMemoryError:
                    missing[f"{op} {label}"] = "out of memory"
            torch.cuda.empty_cache()
    return {"roofline": rate, "rows": rows, "not_measured": missing}


def show(result: dict) -> None:
    """Print what `measure` gave, one line a row."""
    rate = result["roofline"]
    print(f"{result['device']}: products {rate['bf16_tflops']:.0f} TFLOP/s bf16, copy {rate['copy_gbs']:.0f} GB/s")
    for row in result["rows"]:
        words = [f"{key} {value:.3g}" if isinstance(value, float) else str(value) for key, value in row.items()]
        print("  " + "  ".join(words))
    for case, reason in result["not_measured"].items():
        print(f"  {case}: not measured, as {reason}")
