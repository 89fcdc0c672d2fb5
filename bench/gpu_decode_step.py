"""Benchmark of decoding one row on a GPU, for `pynanochat bench gpu`: eager, as a graph, as one launch.

A d12 and a d24 in bf16. A step must read all weights and the keys and values that its row sees, so its bound is the
rate at which memory is read: measured here on as many bytes as d24 has, far more than a cache holds. Sampling is not in
it.
"""

import time

import torch

from pynanochat.bench import gpu_steps, gpu_timing
from pynanochat.engine.graphs import NAME as GRAPHS
from pynanochat.engine.graphs import DecodeGraphs
from pynanochat.engine.persistent import NAME, PersistentSteps
from pynanochat.model import GPTConfig
from pynanochat.model.scaling import measure as size_of

CONFIGS = {"d12": GPTConfig.from_depth(12), "d24": GPTConfig.from_depth(24)}
STREAMED = 3 * 2**29  # bytes
TOLERANCE = 0.1  # between logits that were rounded to bf16 at other places of up to 24 layers
SECONDS = 20  # that a model may take: with fewer it is not begun


def stream_gbs() -> float:
    """GB/s of reading memory once."""
    x = torch.ones(STREAMED // 4, device=gpu_timing.DEVICE)
    return STREAMED / 1e9 / gpu_timing.interleave({"sum": x.sum}, rounds=5)["sum"]


@torch.inference_mode()
def one_row(name: str, verified: list[dict]) -> list[dict]:
    """A row for each way of decoding one sequence of a model, those first shown to say the same."""
    config, passed = CONFIGS[name], {(v["op"], v["backend"]) for v in verified}
    model = gpu_steps.bf16_model(config)
    cache, layout = gpu_steps.decoding(model, 1)
    steps = {"eager": lambda: gpu_steps.eager_step(model, cache, layout).squeeze(1)}
    if (GRAPHS, "cuda") in passed:
        graphs = DecodeGraphs(model, cache, 1)
        steps["graph"] = lambda: graphs.run(layout)
    if (NAME, "cuda") in passed:
        persistent = PersistentSteps(model, cache)
        steps["one launch"] = lambda: persistent.run(layout)
    logits = {how: step().clone() for how, step in steps.items()}
    for how, theirs in logits.items():
        distance = ((theirs - logits["eager"]).norm() / logits["eager"].norm()).item()
        assert distance <= TOLERANCE, f"{how}: its logits are {distance:.2g} of their length from the eager ones"
    gigabytes = (2 * size_of(config).matmul + gpu_steps.cache_bytes(config, gpu_steps.CONTEXT)) / 1e9
    times, rate = gpu_timing.interleave(steps, rounds=5), stream_gbs()
    return [
        {
            "op": "decode_one_row",
            "case": f"{name}, {gpu_steps.CONTEXT} tokens",
            "backend": how,
            "ms": seconds * 1e3,
            "tokens_per_second": 1 / seconds,
            "gbs": gigabytes / seconds,
            "of_bound": gigabytes / seconds / rate,
            "times_eager": times["eager"] / seconds,
        }
        for how, seconds in times.items()
    ]


def measure(verified: list[dict], deadline: float) -> dict:
    """`rows` and `not_measured` (case: reason), as of gpu_ops.measure."""
    rows, missing = [], {}
    for name in CONFIGS:
        found, reason = [], "the time was up"
        if time.monotonic() + SECONDS <= deadline:
            found, reason = gpu_timing.attempt(lambda name=name: one_row(name, verified))
        rows += found
        missing |= {f"decode_one_row {name}": reason} if reason else {}
    return {"rows": rows, "not_measured": missing}
