"""Causal and windowed attention, forward and backward, against torch's scaled_dot_product_attention.

    python -m pynanochat.bench.bench_attention
    pytest bench/bench_attention.py --benchmark-enable

The cases below also drive tests/ops/test_attention.py.
"""

import functools

import pytest
import torch

from pynanochat.bench.harness import gemm_rate, interleave, prove, race, ratios, report
from pynanochat.ops.attention import attention, attention_reference

DTYPES = (torch.float32, torch.bfloat16)
BENCH_CASES = {  # B, T, H, G, D, window
    "d4 window": (16, 512, 2, 2, 128, 128),
    "d4 full": (16, 512, 2, 2, 128, -1),
    "d12 window": (1, 2048, 6, 6, 128, 512),
    "d12 full": (1, 2048, 6, 6, 128, -1),
    "grouped": (4, 1024, 8, 2, 64, -1),
}
TEST_CASES = {
    "plain": (2, 40, 2, 2, 16, -1),
    "one position": (3, 1, 1, 1, 8, -1),
    "grouped": (1, 70, 6, 2, 32, -1),
    "odd": (2, 99, 1, 1, 33, -1),
    "window of two": (1, 130, 2, 1, 16, 1),
    "window": (1, 333, 2, 2, 24, 100),
    "window as long as all": (1, 50, 1, 1, 16, 49),
    "several key blocks": (1, 700, 1, 1, 16, -1),
    "large head": (1, 60, 1, 1, 256, -1),
}


def make(case, dtype, layout="dense", seed=0):
    """q, k, v, the output's gradient, and the window. layout: dense, packed (slices of one qkv) or heads first."""
    B, T, H, G, D, window = case
    generator = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)  # noqa: E731
    if layout == "packed":
        q, k, v = normal(B, T, H + 2 * G, D).split([H, G, G], dim=2)
    elif layout == "heads first":
        q, k, v = (normal(B, heads, T, D).transpose(1, 2) for heads in (H, G, G))
    else:
        q, k, v = (normal(B, T, heads, D) for heads in (H, G, G))
    return q, k, v, normal(B, T, H, D), window


def run(function, q, k, v, grad, window):
    """Output and gradients, by name."""
    q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
    out = function(q, k, v, window)
    dq, dk, dv = torch.autograd.grad(out, (q, k, v), grad)
    return {"out": out, "dq": dq, "dk": dk, "dv": dv}


def compare(inputs) -> dict:
    """name -> (ours, plain torch, float64), for harness.prove."""
    exact = [x.double() if isinstance(x, torch.Tensor) else x for x in inputs]
    results = [
        run(f, *x) for f, x in ((attention, inputs), (attention_reference, inputs), (attention_reference, exact))
    ]
    return {name: tuple(result[name] for result in results) for name in results[0]}


def visible_pairs(T: int, window: int) -> int:
    """How many (query, key) pairs of one head attend."""
    seen = T if window < 0 else min(T, window + 1)
    return seen * (seen + 1) // 2 + (T - seen) * seen


@functools.lru_cache(maxsize=1)
def contest(case: str, dtype) -> dict:
    """engine -> a call of it, forward and backward; first, ours must be as good as torch's on one of the rows."""
    prove(compare(make((1, *BENCH_CASES[case][1:]), dtype)), dtype)
    inputs = make(BENCH_CASES[case], dtype)
    engines = {"ours": attention, "torch": attention_reference}
    return {engine: functools.partial(run, function, *inputs) for engine, function in engines.items()}


@pytest.mark.parametrize("engine", ("ours", "torch"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", BENCH_CASES)
def test_attention(benchmark, case, dtype, engine):
    race(benchmark, contest, engine, case, dtype)


def main() -> None:
    rows = []
    for case, (B, T, H, _, D, window) in BENCH_CASES.items():
        for dtype in DTYPES:
            times = interleave(contest(case, dtype), seconds=3.0)
            rate = 14 * D * B * H * visible_pairs(T, window) / times["ours"][0]  # 4 forward, 10 backward
            rows.append(
                {
                    "case": case,
                    "dtype": str(dtype)[6:],
                    **ratios(times),
                    "gflops": rate / 1e9,
                    "of torch's gemm rate": rate / gemm_rate(dtype),
                }
            )
    report("attention", rows)


if __name__ == "__main__":
    main()
