"""rotary_qk_norm, forward and backward, against eager torch and torch.compile.

    python -m pynanochat.bench.bench_rotary_qk_norm
    pytest bench/bench_rotary_qk_norm.py --benchmark-enable

The cases below also drive tests/ops/test_rotary_qk_norm.py.
"""

import functools

import pytest
import torch

from pynanochat.bench.harness import interleave, prove, race, ratios, report, stream_rate
from pynanochat.ops.rotary_qk_norm import rotary_qk_norm, rotary_qk_norm_reference, rotary_table

DTYPES = (torch.float32, torch.bfloat16)
BENCH_CASES = {"d4": (16, 512, 2, 2, 128), "d12": (4, 1024, 6, 6, 128), "grouped": (4, 1024, 8, 2, 64)}  # B, T, H, G, D
TEST_CASES = {
    "plain": (2, 7, 2, 2, 16),
    "grouped": (1, 9, 6, 2, 32),
    "odd half": (2, 5, 1, 1, 6),
    "one of each": (1, 1, 1, 1, 2),
    "largest head": (1, 3, 2, 1, 256),
    "threads": (2, 64, 4, 2, 64),
}
SCALE = 1.2


def make(case, dtype, layout="dense", row_tables=False, seed=0):
    """q, k, cos, sin and gradients of the outputs. layout: dense, packed (slices of one qkv), or heads first."""
    B, T, H, G, D = case
    generator = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)  # noqa: E731
    if layout == "packed":
        q, k, _ = normal(B, T, H + 2 * G, D).split([H, G, G], dim=2)
    elif layout == "heads first":
        q, k = normal(B, H, T, D).transpose(1, 2), normal(B, G, T, D).transpose(1, 2)
    else:
        q, k = normal(B, T, H, D), normal(B, T, G, D)
    cos, sin = rotary_table(T, D, 10000.0)
    if row_tables:
        shift = torch.arange(B)[:, None] + torch.arange(T)
        cos, sin = (table[shift] for table in rotary_table(T + B, D, 10000.0))
    return q, k, cos, sin, normal(B, T, H, D), normal(B, T, G, D)


def run(function, q, k, cos, sin, grad_q, grad_k, scale=SCALE):
    """Outputs and gradients, by name."""
    q, k = q.detach().requires_grad_(), k.detach().requires_grad_()
    q_out, k_out = function(q, k, cos, sin, scale, 1e-6)
    dq, dk = torch.autograd.grad((q_out, k_out), (q, k), (grad_q, grad_k))
    return {"q": q_out, "k": k_out, "dq": dq, "dk": dk}


def compare(inputs) -> dict:
    """name -> (ours, plain torch, float64), for harness.prove."""
    ours, plain = run(rotary_qk_norm, *inputs), run(rotary_qk_norm_reference, *inputs)
    exact = run(rotary_qk_norm_reference, *(x.double() for x in inputs))
    return {name: (ours[name], plain[name], exact[name]) for name in ours}


@functools.lru_cache(maxsize=1)
def contest(case: str, dtype) -> dict:
    """engine -> a call of it, forward and backward; first, ours must be as good as eager torch."""
    inputs = make(BENCH_CASES[case], dtype)
    prove(compare(inputs), dtype)
    compiled = torch.compile(rotary_qk_norm_reference)
    engines = {"ours": rotary_qk_norm, "eager": rotary_qk_norm_reference, "compiled": compiled}
    return {engine: functools.partial(run, function, *inputs) for engine, function in engines.items()}


@pytest.mark.parametrize("engine", ("ours", "eager", "compiled"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", BENCH_CASES)
def test_rotary_qk_norm(benchmark, case, dtype, engine):
    race(benchmark, contest, engine, case, dtype)


def main() -> None:
    rows = []
    for case, (B, T, H, G, D) in BENCH_CASES.items():
        for dtype in DTYPES:
            times = interleave(contest(case, dtype), seconds=3.0)
            moved = 5 * B * T * (H + G) * D * dtype.itemsize  # 2 forward, 3 backward
            rows.append(
                {
                    "case": case,
                    "dtype": str(dtype)[6:],
                    **ratios(times),
                    "of stream": moved / times["ours"][0] / stream_rate(),
                }
            )
    report("rotary_qk_norm", rows)


if __name__ == "__main__":
    main()
