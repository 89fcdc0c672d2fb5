"""adamw_step on the CPU against torch.optim.AdamW (fused, foreach, one by one), its formula compiled, and a copy.

    python -m pynanochat.bench.bench_adamw_step [--sizes 2048x256,32768x768]
    pytest bench/bench_adamw_step.py --benchmark-enable

Ours is torch's fused kernel without the optimizer object around it, so the ratio to `fused` is what that object costs.
`fraction_of_stream` puts the 28 bytes a parameter that a step moves against the rate of a large copy; small tables stay
in cache and can pass 1.
"""

import argparse
import functools

import pytest
import torch

from pynanochat.bench.harness import interleave, prove, race, ratios, report, stream_rate
from pynanochat.ops.adamw_step import adamw_step, adamw_step_reference
from pynanochat.runtime import keep_freed_memory

SIZES = "2048x256,32768x768"
THEIRS = {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-10, "weight_decay": 0.01}
OURS = {"lr": 0.01, "beta1": 0.8, "beta2": 0.95, "eps": 1e-10, "weight_decay": 0.01}


def numbers(size: str) -> tuple[int, ...]:
    return tuple(int(n) for n in size.split("x"))


def case(size, dtype=torch.float32):
    """Lists of params, grads, first and second moments: a table of `size` and two small vectors."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda shape: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)  # noqa: E731
    params, grads = ([draw(shape) for shape in (size, (12,), (1,))] for _ in range(2))
    return params, grads, [torch.zeros_like(p) for p in params], [torch.zeros_like(p) for p in params]


def torch_step(size, **how):
    """(parameters, step) of torch's own optimizer."""
    params, grads, *_ = case(size)
    params = [torch.nn.Parameter(p) for p in params]
    for p, g in zip(params, grads, strict=True):
        p.grad = g
    return params, torch.optim.AdamW(params, **THEIRS, **how).step


@functools.lru_cache(maxsize=1)
@torch.no_grad()
def contest(size: str) -> dict:
    """engine -> a step of it on tensors of its own; first, three steps of ours must be as good as torch's."""
    size = numbers(size)
    ours, exact = case(size), case(size, torch.float64)
    theirs, fused = torch_step(size, fused=True)
    for step in range(1, 4):
        adamw_step(*ours, step=step, **OURS)
        adamw_step_reference(*exact, step=step, **OURS)
        fused()
    prove({str(tuple(o.shape)): (o, t, e) for o, t, e in zip(ours[0], theirs, exact[0], strict=True)}, torch.float32)

    compiled, fast = case(size), torch.compile(adamw_step_reference, dynamic=False)
    return {
        "ours": lambda: adamw_step(*ours, step=5, **OURS),
        "fused": fused,
        "foreach": torch_step(size, foreach=True)[1],
        "one_by_one": torch_step(size, foreach=False)[1],
        "compiled": lambda: fast(*compiled, step=5, **OURS),
    }


@pytest.mark.parametrize("engine", ("ours", "fused", "foreach", "one_by_one", "compiled"))
@pytest.mark.parametrize("size", SIZES.split(","))
@torch.no_grad()
def test_adamw_step(benchmark, size, engine):
    race(benchmark, contest, engine, size)


@torch.no_grad()
def measure(size: str) -> dict:
    times = interleave(contest(size))
    rows, columns = numbers(size)
    rate = 28 * rows * columns / times["ours"][0]
    row = {"size": size, **ratios(times), "gigabytes_per_second": rate / 1e9}
    return row | {"fraction_of_stream": rate / stream_rate()}


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default=SIZES, help="ROWSxCOLUMNS, by commas")
    given = parser.parse_args(argv)
    keep_freed_memory()
    report("adamw_step", [measure(size) for size in given.sizes.split(",")])


if __name__ == "__main__":
    main()
