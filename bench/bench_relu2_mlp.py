"""linear and relu2_mlp, forward and backward on fp32 master weights, against eager torch and torch.compile.

    python -m pynanochat.bench.bench_relu2_mlp

The cases below also drive tests/ops/test_relu2_mlp.py and tests/ops/test_linear.py.
"""

import torch

from pynanochat.bench.harness import gemm_rate, interleave, prove, report, speedup
from pynanochat.ops.linear import linear, linear_reference
from pynanochat.ops.relu2_mlp import relu2_mlp, relu2_mlp_reference

DTYPES = {  # of x and the weights
    "fp32": (torch.float32, torch.float32),
    "bf16, fp32 weight": (torch.bfloat16, torch.float32),
    "bf16": (torch.bfloat16, torch.bfloat16),
}
BENCH_CASES = {"d4": (4096, 256, 1024), "d12": (1024, 768, 3072)}  # N, C, M
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


def main() -> None:
    rows = []
    for name, case in BENCH_CASES.items():
        for label in ("fp32", "bf16, fp32 weight"):
            x, grad, w_fc, w_proj = make(case, DTYPES[label])
            ops = {
                "linear": (linear, linear_reference, (x, grad, w_fc), 6),
                "relu2_mlp": (relu2_mlp, relu2_mlp_reference, (x, grad, w_fc, w_proj), 12),
            }
            for op, (function, reference, inputs, work) in ops.items():
                prove(compare(function, reference, inputs), x.dtype)
                peers = {"ours": function, "eager": reference, "compiled": torch.compile(reference)}
                times = interleave({peer: lambda f=f, i=inputs: run(f, *i) for peer, f in peers.items()}, seconds=3.0)
                rate = work * case[0] * case[1] * case[2] / times["ours"][0]
                rows.append(
                    {
                        "op": op,
                        "case": name,
                        "dtype": label,
                        "ms": times["ours"][0] * 1e3,
                        "times eager": speedup(times, "ours", "eager"),
                        "times compiled": speedup(times, "ours", "compiled"),
                        "gflops": rate / 1e9,
                        "of torch's gemm rate": rate / gemm_rate(x.dtype),
                    }
                )
    report("relu2_mlp", rows)


if __name__ == "__main__":
    main()
