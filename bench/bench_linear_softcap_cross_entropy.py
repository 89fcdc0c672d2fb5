"""linear_softcap_cross_entropy, loss and both gradients, against eager torch in chunks and torch.compile.

    python -m pynanochat.bench.bench_linear_softcap_cross_entropy [--full]
    pytest bench/bench_linear_softcap_cross_entropy.py --benchmark-enable

`--full` takes the sizes of a d4 and a d12 model's step, some seconds a call. The cases below also drive
tests/ops/test_linear_softcap_cross_entropy.py.
"""

import functools
import sys

import pytest
import torch
import torch.nn.functional as F

from pynanochat.bench.harness import gemm_rate, interleave, prove, race, ratios, report
from pynanochat.ops.backends import implementations
from pynanochat.ops.linear_softcap_cross_entropy import losses_and_grads_reference

DTYPES = {  # of x and the weight
    "fp32": (torch.float32, torch.float32),
    "bf16, fp32 weight": (torch.bfloat16, torch.float32),
    "bf16": (torch.bfloat16, torch.bfloat16),
}
BENCH_DTYPES = ("fp32", "bf16, fp32 weight")
BENCH_CASES = {"d4": (2048, 256, 8192), "d12": (1024, 768, 32768)}  # N, C, V
FULL_CASES = {"d4 full": (8192, 256, 8192), "d12 full": (4096, 768, 32768)}
TEST_CASES = {
    "plain": (64, 32, 128),
    "odd": (77, 33, 203),
    "two rows": (3, 1, 2),
    "one token": (1, 8, 40),
    "two chunks": (600, 16, 300),
    "wide": (40, 300, 97),
}
SOFTCAP, IGNORE = 15.0, -1


def make(case, dtypes, padding=0, layout="dense", seed=0):
    """x, weight, targets (a seventh ignored), token_scale and vocab_size; layout: dense or strided."""
    N, C, V = case
    generator = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)  # noqa: E731
    extra = 5 if layout == "strided" else 0
    x = normal(N, C + extra).to(dtypes[0])[:, :C]
    weight = (normal(V + padding, C + extra) * 3 / C**0.5).to(dtypes[1])[:, :C]
    targets = torch.randint(0, V, (N,), generator=generator)
    targets[3::7] = IGNORE
    token_scale = torch.rand(N, generator=generator) + 0.5
    if layout == "strided":
        targets = torch.stack([targets, targets], dim=1)[:, 0]
        token_scale = token_scale[:1].expand(N)
    return x, weight, targets, token_scale, V


def run(losses_and_grads, x, weight, targets, token_scale, vocab_size, softcap=SOFTCAP):
    losses, dx, dweight = losses_and_grads(x, weight, targets, token_scale, vocab_size, softcap, IGNORE)
    return {"losses": losses, "dx": dx, "dweight": dweight}


def compare(inputs, softcap=SOFTCAP, backend="cpu") -> dict:
    """name -> (ours, plain torch, float64), for harness.prove."""
    x, weight, targets, token_scale, vocab_size = inputs
    ours = run(implementations("linear_softcap_cross_entropy")[backend].losses_and_grads, *inputs, softcap)
    plain = run(losses_and_grads_reference, *inputs, softcap)
    wide = (x.double(), weight.double(), targets, token_scale.double(), vocab_size)
    exact = run(losses_and_grads_reference, *wide, softcap)
    return {name: (ours[name], plain[name], exact[name]) for name in ours}


def plain_formula(x, weight, targets, token_scale, vocab_size):
    """Loss and gradients by autograd from all logits at once, for torch.compile."""
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    logits = SOFTCAP * torch.tanh((x @ weight[:vocab_size].to(x.dtype).T).float() / SOFTCAP)
    losses = F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="none")
    return torch.autograd.grad((losses * token_scale).sum(), (x, weight))


@functools.lru_cache(maxsize=1)
def contest(case: str, dtype: str) -> dict:
    """engine -> a call of it; first, ours must be as good as eager torch on 256 of the tokens."""
    N, C, V = (BENCH_CASES | FULL_CASES)[case]
    prove(compare(make((256, C, V), DTYPES[dtype])), DTYPES[dtype][0])
    inputs = make((N, C, V), DTYPES[dtype])
    ours, compiled = (
        implementations("linear_softcap_cross_entropy")["cpu"].losses_and_grads,
        torch.compile(plain_formula),
    )
    return {
        "ours": lambda: run(ours, *inputs),
        "eager": lambda: run(losses_and_grads_reference, *inputs),
        "compiled": lambda: compiled(*inputs),
    }


@pytest.mark.parametrize("engine", ("ours", "eager", "compiled"))
@pytest.mark.parametrize("dtype", BENCH_DTYPES)
@pytest.mark.parametrize("case", BENCH_CASES)
def test_linear_softcap_cross_entropy(benchmark, case, dtype, engine):
    race(benchmark, contest, engine, case, dtype)


def main() -> None:
    rows = []
    for case, (N, C, V) in (FULL_CASES if "--full" in sys.argv else BENCH_CASES).items():
        for dtype in BENCH_DTYPES:
            times = interleave(contest(case, dtype), seconds=20.0, rounds=5)
            rate = 6 * N * C * V / times["ours"][0]
            rows.append(
                {
                    "case": case,
                    "dtype": dtype,
                    **ratios(times),
                    "gflops": rate / 1e9,
                    "of torch's gemm rate": rate / gemm_rate(DTYPES[dtype][0]),
                }
            )
    report("linear_softcap_cross_entropy", rows)


if __name__ == "__main__":
    main()
