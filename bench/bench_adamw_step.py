"""adamw_step against torch.optim.AdamW (fused, foreach, one by one, compiled formula) and a memory copy.

    python -m pynanochat.bench.bench_adamw_step [--sizes 2048x256,32768x768] [--device cuda] [--threads 1] [--rounds 20]

First the results are compared with fp64: ours may be at most twice as far from it as torch's. Then all run in turn,
round after round; the best of each counts. The bound is 28 bytes a parameter at the rate of a plain copy, measured in
the same rounds. The last line is one JSON object.
"""

import argparse
import json
import time

import torch

from pynanochat.ops.adamw_step import adamw_step, adamw_step_reference
from pynanochat.runtime import keep_freed_memory

SETTINGS = {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-10, "weight_decay": 0.01}
OURS = {"lr": 0.01, "beta1": 0.8, "beta2": 0.95, "eps": 1e-10, "weight_decay": 0.01}


def case(size, device, dtype=torch.float32):
    """Lists of (params, grads, first moments, second moments): a table of `size` and two small vectors."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda shape: torch.randn(shape, generator=generator, dtype=torch.float64).to(device, dtype)  # noqa: E731
    params, grads = ([draw(shape) for shape in (size, (12,), (1,))] for _ in range(2))
    return params, grads, [torch.zeros_like(p) for p in params], [torch.zeros_like(p) for p in params]


def torch_step(size, device, **how):
    """(parameters, step) of torch's own optimizer."""
    params, grads, *_ = case(size, device)
    params = [torch.nn.Parameter(p) for p in params]
    for p, g in zip(params, grads, strict=True):
        p.grad = g
    return params, torch.optim.AdamW(params, **SETTINGS, **how).step


def prove_equal(size, device) -> float:
    """Our largest error over that of torch's fused step, after three, against fp64. Raises AssertionError above 2."""
    exact, ours = case(size, device, torch.float64), case(size, device)
    theirs, step_theirs = torch_step(size, device, fused=True)
    for step in range(1, 4):
        adamw_step_reference(*exact, step=step, **OURS)
        adamw_step(*ours, step=step, **OURS)
        step_theirs()
    error = lambda got: max(float((p - q).abs().max()) for p, q in zip(got, exact[0], strict=True))  # noqa: E731
    assert error(ours[0]) <= 2 * error(theirs), (size, error(ours[0]), error(theirs))
    return error(ours[0]) / error(theirs)


@torch.no_grad()
def measure(size, device, rounds) -> dict:
    result = {"size": "x".join(map(str, size)), "error_over_torch": round(prove_equal(size, device), 3)}
    ours, compiled = case(size, device), case(size, device)
    fast = torch.compile(adamw_step_reference, dynamic=False)
    source, target = torch.randn(size, device=device), torch.empty(size, device=device)
    contenders = {
        "ours": lambda: adamw_step(*ours, step=5, **OURS),
        "fused": torch_step(size, device, fused=True)[1],
        "foreach": torch_step(size, device, foreach=True)[1],
        "one_by_one": torch_step(size, device, foreach=False)[1],
        "compiled": lambda: fast(*compiled, step=5, **OURS),
        "copy": lambda: target.copy_(source),
    }
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
    bound = best["copy"] * 28 / 8  # a copy moves 8 bytes a parameter
    result |= {
        "ms": round(best["ours"] * 1e3, 3),
        "gigabytes_per_second": round(28 * source.numel() / best["ours"] / 1e9, 1),
    }
    result |= {
        f"{name}_over_ours": round(t / best["ours"], 2) for name, t in best.items() if name not in ("ours", "copy")
    }
    return result | {"fraction_of_copy_rate": round(bound / best["ours"], 3)}


def main(argv=None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="2048x256,32768x768")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args(argv)
    keep_freed_memory()
    torch.set_num_threads(given.threads)
    device = torch.device(given.device)
    results = []
    for text in given.sizes.split(","):
        results.append(measure(tuple(int(n) for n in text.split("x")), device, given.rounds))
        print("  ".join(f"{k} {v}" for k, v in results[-1].items()), flush=True)
    facts = {"op": "adamw_step", "device": str(device), "threads": torch.get_num_threads()}
    print(json.dumps(facts | {"results": results}))


if __name__ == "__main__":
    main()
