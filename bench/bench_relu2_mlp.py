"""linear and relu2_mlp, forward and backward on fp32 master weights, against eager torch and torch.compile.

    python -m pynanochat.bench.bench_relu2_mlp
    pytest bench/bench_relu2_mlp.py --benchmark-enable

The cases below also drive tests/ops/test_relu2_mlp.py and tests/ops/test_linear.py.
"""

import functools

import pytest
import torch

from pynanochat.bench.harness import gemm_rate, interleave, prove, race, ratios, report
from pynanochat.ops.linear import linear, linear_reference
from pynanochat.ops.relu2_mlp import relu2_mlp, relu2_mlp_reference

DTYPES = {  # of x and the weights
    "fp32": (torch.float32, torch.float32),
    "bf16, fp32 weight": (torch.bfloat16, torch.float32),
    "bf16": (torch.bfloat16, torch.bfloat16),
}
BENCH_DTYPES = ("fp32", "bf16, fp32 weight")
BENCH_CASES = {"d4": (4096, 256, 1024), "d12": (1024, 768, 3072)}  # N, C, M
OPS = {"linear": (linear, linear_reference, 1), "relu2_mlp": (relu2_mlp, relu2_mlp_reference, 2)}  # and its weights
TEST_CASES = {
    "plain": (64, 32, 128),
    "odd": (77, 33, 65),
    "long": (700, 40, 24),
    "wide": (66, 300, 530),
}


def make(case, dtypes, seed=0):
    """x (N, C), the output's gradient, w_fc (M, C) and w_proj (C, M)."""
    N, C, M = case
    generator = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)  # noqa: E731
    x, grad = normal(N, C).to(dtypes[0]), normal(N, C).to(dtypes[0])
    return x, grad, (normal(M, C) / C**0.5).to(dtypes[1]), (normal(C, M) / M**0.5).to(dtypes[1])


def run(function, x, grad, *weights):
    """Output and gradients, by name; `grad` is widened or cut to the output's columns."""
    inputs = [t.detach().requires_grad_() for t in (x, *weights)]
    y = function(*inputs)
    columns = torch.arange(y.size(-1)) % grad.size(-1)
    return dict(zip(("y", "dx", "dw", "dw2"), (y, *torch.autograd.grad(y, inputs, grad[..., columns])), strict=False))


def compare(function, reference, inputs) -> dict:
    """name -> (ours, plain torch, float64), for harness.prove."""
    results = [run(function, *inputs), run(reference, *inputs), run(reference, *(x.double() for x in inputs))]
    return {name: tuple(result[name] for result in results) for name in results[0]}


@functools.lru_cache(maxsize=1)
def contest(op: str, case: str, dtype: str) -> dict:
    """engine -> a call of it, forward and backward; first, ours must be as good as eager torch."""
    function, reference, weights = OPS[op]
    inputs = make(BENCH_CASES[case], DTYPES[dtype])[: 2 + weights]
    prove(compare(function, reference, inputs), DTYPES[dtype][0])
    engines = {"ours": function, "eager": reference, "compiled": torch.compile(reference)}
    return {engine: functools.partial(run, f, *inputs) for engine, f in engines.items()}


@pytest.mark.parametrize("engine", ("ours", "eager", "compiled"))
@pytest.mark.parametrize("dtype", BENCH_DTYPES)
@pytest.mark.parametrize("case", BENCH_CASES)
@pytest.mark.parametrize("op", OPS)
def test_relu2_mlp(benchmark, op, case, dtype, engine):
    race(benchmark, contest, engine, op, case, dtype)


def main() -> None:
    rows = []
    for case, (N, C, M) in BENCH_CASES.items():
        for dtype in BENCH_DTYPES:
            for op, (_, _, weights) in OPS.items():
                times = interleave(contest(op, case, dtype), seconds=3.0)
                rate = 6 * weights * N * C * M / times["ours"][0]
                rows.append(
                    {
                        "op": op,
                        "case": case,
                        "dtype": dtype,
                        **ratios(times),
                        "gflops": rate / 1e9,
                        "of torch's gemm rate": rate / gemm_rate(DTYPES[dtype][0]),
                    }
                )
    report("relu2_mlp", rows)


if __name__ == "__main__":
    main()
