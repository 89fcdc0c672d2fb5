"""muon_step on the CPU against plain torch, eager and compiled, against torch.optim.Muon (2025), and products alone.

    python -m pynanochat.bench.bench_muon_step [--recipe 2025] [--shapes 16x256x256,4x1024x256,...]
    pytest bench/bench_muon_step.py --benchmark-enable

`times products` is the time of the iteration's matrix products alone over that of the step, both in the dtype
that the step iterates in; `fraction_of_gemm` puts the step's products against the rate of large ones.
"""

import argparse
import functools

import pytest
import torch

from pynanochat.bench.harness import gemm_rate, interleave, prove, race, ratios, report
from pynanochat.errors import UsageError
from pynanochat.ops.muon_step import POLAR_EXPRESS, QUINTIC, default_ns_dtype, muon_step, second_moment_shape
from pynanochat.runtime import keep_freed_memory

SETTINGS = {"lr": 0.02, "momentum": 0.95, "weight_decay": 0.1}
SHAPES = "16x256x256,4x1024x256,4x256x1024,6x768x3072"  # a d4 and the larger matrices of a d12
ENGINES = [(recipe, engine) for recipe in ("2025", "2026") for engine in ("ours", "eager", "compiled", "products")]
ENGINES.insert(4, ("2025", "torch.optim.Muon"))  # which has that recipe only
CPU = torch.device("cpu")


def plain_step(params, grads, momentum, second, recipe, dtype):
    """The rule written line by line on stacks (n, R, C), as eager torch code usually is."""
    lr = SETTINGS["lr"] * max(1, params.size(-2) / params.size(-1)) ** 0.5
    momentum.lerp_(grads, 1 - SETTINGS["momentum"])
    g = grads.lerp(momentum, SETTINGS["momentum"])
    norm = lambda x: x.norm(dim=(-2, -1), keepdim=True)  # noqa: E731
    if recipe == "2026":
        g = g * (norm(g) / g.size(-2) ** 0.5 / g.norm(dim=-1, keepdim=True).clamp_min(1e-6))
        x = (g / (norm(g) * 1.01 + 1e-6)).to(dtype)
    else:
        x = (g / (norm(g) + 1e-7)).to(dtype)
    tall = x.size(-2) > x.size(-1)
    x = x.mT if tall else x
    for a, b, c in POLAR_EXPRESS if recipe == "2026" else [QUINTIC] * 5:
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    update = (x.mT if tall else x).to(params.dtype)
    if recipe == "2025":
        params.mul_(1 - lr * SETTINGS["weight_decay"]).sub_(update, alpha=lr)
        return
    update = update * (min(update.shape[-2:]) ** 0.5 / norm(update).clamp_min(1e-6))
    along = -1 if update.size(-2) >= update.size(-1) else -2
    second.lerp_(update.square().mean(dim=along, keepdim=True), 1 - 0.9)
    scaled = update * second.clamp_min(1e-10).rsqrt()
    scaled = scaled * (norm(update) / norm(scaled).clamp_min(1e-10))
    params.sub_(lr * scaled + lr * SETTINGS["weight_decay"] * params * (scaled * params >= 0))


def numbers(shape: str) -> tuple[int, ...]:
    return tuple(int(n) for n in shape.split("x") if n.isdigit())


def case(shape, dtype=torch.float32):
    """(params, grads, momentum, second moment) of one shape, the same numbers every time."""
    generator = torch.Generator().manual_seed(0)
    params, grads = (torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))
    return params, grads, torch.zeros_like(params), torch.zeros(second_moment_shape(shape), dtype=dtype)


def ours_on(state, recipe):
    params, grads, momentum, second = state
    params, grads = list(params.unbind()), list(grads.unbind())
    return lambda: muon_step(params, grads, momentum, second, recipe=recipe, **SETTINGS)


def torch_muon(shape):
    """A step of torch.optim.Muon on as many matrices."""
    params, grads, *_ = case(shape)
    matrices = [torch.nn.Parameter(p.clone()) for p in params]
    for p, g in zip(matrices, grads, strict=True):
        p.grad = g.clone()
    return torch.optim.Muon(matrices, lr=0.02, momentum=0.95, weight_decay=0.1, adjust_lr_fn="original").step


def products_alone(shape, dtype):
    """The iteration's matrix products and nothing else."""
    matrices = torch.randn(shape).to(dtype)
    matrices = (matrices if shape[1] <= shape[2] else matrices.mT.contiguous()) / shape[1]

    def run():
        for x in matrices:
            for _ in range(5):
                gram = x @ x.mT
                gram @ gram
                gram @ x

    return run


@functools.lru_cache(maxsize=1)
@torch.no_grad()
def contest(shape: str, recipe: str) -> dict:
    """engine -> a step of it on tensors of its own; first, a step of ours must be as good as plain torch's."""
    shape = numbers(shape)
    dtype = default_ns_dtype(CPU)
    ours, plain, exact = case(shape), case(shape), case(shape, torch.float64)
    start = case(shape)[0]
    ours_on(ours, recipe)()
    plain_step(*plain, recipe, dtype)
    plain_step(*exact, recipe, torch.float64)
    prove({"update": (ours[0] - start, plain[0] - start, exact[0] - start)}, dtype)

    eager, compiled, fast = case(shape), case(shape), torch.compile(plain_step, dynamic=False)
    functions = {
        "ours": ours_on(ours, recipe),
        "eager": lambda: plain_step(*eager, recipe, dtype),
        "compiled": lambda: fast(*compiled, recipe, dtype),
        "products": products_alone(shape, dtype),
    }
    if recipe == "2025":
        functions["torch.optim.Muon"] = torch_muon(shape)
    return functions


@pytest.mark.parametrize(("recipe", "engine"), ENGINES)
@pytest.mark.parametrize("shape", SHAPES.split(","))
@torch.no_grad()
def test_muon_step(benchmark, recipe, shape, engine):
    race(benchmark, contest, engine, shape, recipe)


@torch.no_grad()
def measure(shape: str, recipe: str) -> dict:
    dtype = default_ns_dtype(CPU)
    times = interleave(contest(shape, recipe))
    count, *sides = numbers(shape)
    small, large = min(sides), max(sides)
    rate = count * 5 * (4 * small**2 * large + 2 * small**3) / times["ours"][0]
    row = {"shape": shape, "recipe": recipe, "dtype": str(dtype).removeprefix("torch."), **ratios(times)}
    return row | {"gflops_per_second": rate / 1e9, "fraction_of_gemm": rate / gemm_rate(dtype)}


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", default=SHAPES, help="COUNTxROWSxCOLUMNS, by commas")
    parser.add_argument("--recipe", default="2026", choices=("2025", "2026"))
    given = parser.parse_args(argv)
    shapes = given.shapes.split(",")
    if any(len(numbers(shape)) != 3 for shape in shapes):
        raise UsageError(f"--shapes {given.shapes}: not COUNTxROWSxCOLUMNS by commas, such as 4x1024x256,6x768x3072")
    keep_freed_memory()
    report("muon_step", [measure(shape, given.recipe) for shape in shapes])


if __name__ == "__main__":
    main()
