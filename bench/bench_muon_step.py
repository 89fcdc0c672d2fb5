"""muon_step against plain torch, eager and compiled, torch.optim.Muon (2025), and the matrix products alone.

    python -m pynanochat.bench.bench_muon_step [--shapes 4x1024x256,...] [--recipe 2025] [--device cuda] [--threads 1]

First the updates are compared: ours may be at most twice as far from fp64 as plain torch in the same dtype. Then all
run in turn, round after round; the best of each counts. The bound is the iteration's products alone, in the same
dtype. The last line is one JSON object.
"""

import argparse
import json
import time

import torch

from pynanochat.errors import UsageError
from pynanochat.ops.muon_step import POLAR_EXPRESS, QUINTIC, default_ns_dtype, muon_step, second_moment_shape
from pynanochat.runtime import keep_freed_memory

SETTINGS = {"lr": 0.02, "momentum": 0.95, "weight_decay": 0.1}


def plain_step(params, grads, momentum, second, recipe, dtype):
    """The rule written line by line on stacks, as eager torch code usually is."""
    lr = SETTINGS["lr"] * max(1, params.size(-2) / params.size(-1)) ** 0.5
    momentum.lerp_(grads, 1 - SETTINGS["momentum"])
    g = grads.lerp(momentum, SETTINGS["momentum"])
    if recipe == "2026":
        row_norm = g.norm(dim=-1, keepdim=True).clamp_min(1e-6)
        g = g * (g.norm(dim=(-2, -1), keepdim=True) / g.size(-2) ** 0.5 / row_norm)
        x = (g / (g.norm(dim=(-2, -1), keepdim=True) * 1.01 + 1e-6)).to(dtype)
    else:
        x = (g / (g.norm(dim=(-2, -1), keepdim=True) + 1e-7)).to(dtype)
    tall = x.size(-2) > x.size(-1)
    x = x.mT if tall else x
    for a, b, c in POLAR_EXPRESS if recipe == "2026" else [QUINTIC] * 5:
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    update = (x.mT if tall else x).to(params.dtype)
    if recipe == "2025":
        params.mul_(1 - lr * SETTINGS["weight_decay"]).sub_(update, alpha=lr)
        return
    update = update * (min(update.shape[-2:]) ** 0.5 / update.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-6))
    along = -1 if update.size(-2) >= update.size(-1) else -2
    second.lerp_(update.square().mean(dim=along, keepdim=True), 1 - 0.9)
    scaled = update * second.clamp_min(1e-10).rsqrt()
    scaled = scaled * (
        update.norm(dim=(-2, -1), keepdim=True) / scaled.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-10)
    )
    params.sub_(lr * scaled + lr * SETTINGS["weight_decay"] * params * (scaled * params >= 0))


def case(shape, device, dtype=torch.float32):
    """(params, grads, momentum, second moment) of one shape, the same numbers every time."""
    generator = torch.Generator().manual_seed(0)
    params, grads = (torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype) for _ in range(2))
    second = torch.zeros(second_moment_shape(shape), device=device, dtype=dtype)
    return params, grads, torch.zeros_like(params), second


def ours_on(state, recipe):
    params, grads, momentum, second = state
    params, grads = list(params.unbind()), list(grads.unbind())
    return lambda: muon_step(params, grads, momentum, second, recipe=recipe, **SETTINGS)


def prove_equal(shape, device, recipe, dtype) -> float:
    """Our error over that of plain torch in `dtype`, against fp64. Raises AssertionError above 2."""
    exact, plain, ours = case(shape, device, torch.float64), case(shape, device), case(shape, device)
    start = exact[0].clone()
    plain_step(*exact, recipe, torch.float64)
    plain_step(*plain, recipe, dtype)
    ours_on(ours, recipe)()
    error = lambda got: float((got[0].double() - exact[0]).norm() / (exact[0] - start).norm())  # noqa: E731
    assert error(ours) <= 2 * error(plain) + 1e-7, (shape, error(ours), error(plain))
    return error(ours) / error(plain)


def torch_muon(shape, device):
    """A step of torch.optim.Muon on as many matrices."""
    params, grads, *_ = case(shape, device)
    matrices = [torch.nn.Parameter(p.clone()) for p in params]
    for p, g in zip(matrices, grads, strict=True):
        p.grad = g.clone()
    return torch.optim.Muon(matrices, lr=0.02, momentum=0.95, weight_decay=0.1, adjust_lr_fn="original").step


def products_alone(shape, device, dtype):
    """The iteration's matrix products and nothing else."""
    matrices = torch.randn(shape, device=device).to(dtype)
    matrices = (matrices if shape[1] <= shape[2] else matrices.mT.contiguous()) / shape[1]

    def run():
        for x in matrices if device.type == "cpu" else [matrices]:
            for _ in range(5):
                gram = x @ x.mT
                gram @ gram
                gram @ x

    return run


@torch.no_grad()
def measure(shape, device, recipe, rounds) -> dict:
    dtype = default_ns_dtype(device)
    result = {
        "shape": "x".join(map(str, shape)),
        "error_over_plain": round(prove_equal(shape, device, recipe, dtype), 3),
    }
    eager, compiled = case(shape, device), case(shape, device)
    fast = torch.compile(plain_step, dynamic=False)
    contenders = {
        "ours": ours_on(case(shape, device), recipe),
        "eager": lambda: plain_step(*eager, recipe, dtype),
        "compiled": lambda: fast(*compiled, recipe, dtype),
        "products": products_alone(shape, device, dtype),
    }
    if recipe == "2025":
        contenders["torch.optim.Muon"] = torch_muon(shape, device)
    best = dict.fromkeys(contenders, float("inf"))
    # one thread's own time does not count what other programs take
    clock = time.thread_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    for turn in range(rounds + 2):
        for name, step in contenders.items():
            started = clock()
            step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            if turn >= 2:
                best[name] = min(best[name], clock() - started)
    small, large = min(shape[1:]), max(shape[1:])
    flops = shape[0] * 5 * (4 * small**2 * large + 2 * small**3)
    result |= {"ms": round(best["ours"] * 1e3, 3), "gflops_per_second": round(flops / best["ours"] / 1e9)}
    result |= {
        f"{name}_over_ours": round(t / best["ours"], 2) for name, t in best.items() if name not in ("ours", "products")
    }
    return result | {"fraction_of_products": round(best["products"] / best["ours"], 3)}


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", default="16x256x256,4x1024x256,4x256x1024,6x768x3072")
    parser.add_argument("--recipe", default="2026", choices=("2025", "2026"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args(argv)
    keep_freed_memory()
    torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    results = []
    for text in given.shapes.split(","):
        shape = tuple(int(n) for n in text.split("x") if n.isdigit())
        if len(shape) != 3:
            raise UsageError(f"--shapes {text}: not COUNTxROWSxCOLUMNS, such as 4x1024x256")
        results.append(measure(shape, device, given.recipe, given.rounds))
        print("  ".join(f"{k} {v}" for k, v in results[-1].items()), flush=True)
    facts = {"op": "muon_step", "recipe": given.recipe, "device": str(device), "threads": torch.get_num_threads()}
    print(json.dumps(facts | {"dtype": str(default_ns_dtype(device)), "results": results}))


if __name__ == "__main__":
    main()
