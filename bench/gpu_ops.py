"""Benchmarks of the ops on a GPU, for `pynanochat bench gpu`: the card's roofline, then each op against its peers."""

import functools
import time

import torch

from pynanochat.bench import bench_linear_softcap_cross_entropy as cross_entropy
from pynanochat.bench import bench_rotary_qk_norm as rotary
from pynanochat.bench import gpu_attention, gpu_small
from pynanochat.bench import gpu_attention_paged as paged
from pynanochat.bench import gpu_products as products
from pynanochat.bench import gpu_timing as timing
from pynanochat.bench.gpu_timing import contenders, interleave, rows_of
from pynanochat.ops.backends import implementations

ROTARY_CASES = {"d12": (32, 2048, 6, 6, 128), "d24 grouped": (16, 2048, 12, 4, 128)}  # B, T, H, G, D
CROSS_ENTROPY_CASES = {"d12": (65536, 768, 32768), "d24": (32768, 1536, 32768)}  # N, C, V


def bench_rotary(case, label, kernels, rate) -> list[dict]:
    reference = implementations("rotary_qk_norm")["reference"]
    q, k, cos, sin, dq, dk = (x.to(timing.DEVICE) for x in rotary.make(case, torch.bfloat16))
    compiled = torch.compile(reference.forward, dynamic=False)
    settings = (cos, sin, rotary.SCALE, 1e-6)
    forward = {name: (lambda f=kernel.forward: f(q, k, *settings)) for name, kernel in kernels.items()}
    forward |= {"eager": lambda: reference.forward(q, k, *settings), "compiled": lambda: compiled(q, k, *settings)}
    compiled_back = torch.compile(reference.backward, dynamic=False)
    backward = {name: (lambda f=kernel.backward: f(dq, dk, q, k, *settings)) for name, kernel in kernels.items()}
    backward |= {
        "eager": lambda: reference.backward(dq, dk, q, k, *settings),
        "compiled": lambda: compiled_back(dq, dk, q, k, *settings),
    }
    gigabytes = (q.numel() + k.numel()) * q.element_size() / 1e9
    rows = rows_of("rotary_qk_norm", f"{label} forward", interleave(forward), 2 * gigabytes, "gbs", rate["copy_gbs"])
    return rows + rows_of(
        "rotary_qk_norm", f"{label} backward", interleave(backward), 3 * gigabytes, "gbs", rate["copy_gbs"]
    )


def bench_cross_entropy(case, label, kernels, rate) -> list[dict]:
    N, C, V = case
    x, weight, targets, scale, vocab_size = (
        v.to(timing.DEVICE) if isinstance(v, torch.Tensor) else v
        for v in cross_entropy.make(case, (torch.bfloat16, torch.bfloat16))
    )
    settings = (vocab_size, cross_entropy.SOFTCAP, cross_entropy.IGNORE)
    functions = {
        name: (lambda f=kernel.losses_and_grads: f(x, weight, targets, scale, *settings))
        for name, kernel in kernels.items()
    }
    reference = implementations("linear_softcap_cross_entropy")["reference"]
    functions["eager"] = lambda: reference.losses_and_grads(x, weight, targets, scale, *settings)
    if timing.free_memory() > 24 * N * V:  # all logits at once, in fp32 and several times over
        compiled = torch.compile(cross_entropy.plain_formula, dynamic=False)
        functions["compiled"] = lambda: compiled(x, weight, targets, scale, vocab_size)
    times = interleave(functions, rounds=5)
    return rows_of(
        "linear_softcap_cross_entropy", f"{label} loss and gradients", times, 6 * N * C * V / 1e12, "tflops",
        rate["bf16_tflops"],
    )  # fmt: skip


def bench_paged(case, label, kernels, rate) -> list[dict]:
    return rows_of(
        "attention_paged", label, interleave(paged.contest(case, kernels, timing.DEVICE)), *paged.work(case, rate)
    )


def bench_products(case, label, kernels, rate, *, op) -> list[dict]:
    contest, flops, _ = products.OPS[op]
    times = interleave(contest(case, kernels, timing.DEVICE), rounds=5)
    return rows_of(op, label, times, flops(case) / 1e12, "tflops", rate["bf16_tflops"])


BENCHMARKS = [
    ("attention", gpu_attention.bench_attention, gpu_attention.CASES),
    ("rotary_qk_norm", bench_rotary, ROTARY_CASES),
    ("linear_softcap_cross_entropy", bench_cross_entropy, CROSS_ENTROPY_CASES),
    ("attention_paged", bench_paged, paged.CASES),
    *gpu_small.BENCHMARKS,
]
BENCHMARKS += [(op, functools.partial(bench_products, op=op), cases) for op, (_, _, cases) in products.OPS.items()]


def measure(verified: list[dict], deadline: float, ops=None, done=lambda result: None) -> dict:
    """roofline, rows and `not_measured` (case: reason): what time or the card's memory did not allow.

    Every op first, or those of `ops`, then once more with the peers of torch.compile, which take the most time. After
    each case `done` is called with what there is by then.
    """
    rate = timing.roofline()
    rows, missing, again = {}, {}, []
    wanted = [benchmark for benchmark in BENCHMARKS if ops is None or benchmark[0] in ops]
    cases = [
        (op, label, functools.partial(bench, case, label)) for op, bench, of in wanted for label, case in of.items()
    ]

    def result():
        return {"roofline": rate, "rows": [row for part in rows.values() for row in part], "not_measured": missing}

    def run(op, label, bench, name):
        kernels = contenders(op, verified)
        if not kernels:
            missing[name] = "no backend of this op was verified"
        elif time.monotonic() > deadline:
            missing[name] = "the time was up"
        else:
            found, reason = timing.attempt(lambda: bench(kernels, rate))
            if reason:
                missing[name] = reason
            else:
                rows[op, label] = found
        done(result())

    for case in cases:
        with timing.without_compiled() as left_out:
            run(*case, f"{case[0]} {case[1]}")
        if left_out and case[:2] in rows:
            again.append(case)
    for case in again:
        run(*case, f"{case[0]} {case[1]} against torch.compile")
    return result()


def show(result: dict) -> None:
    """Print what `measure` gave, one line a row."""
    rate = result["roofline"]
    print(f"{result['device']}: products {rate['bf16_tflops']:.0f} TFLOP/s bf16, copy {rate['copy_gbs']:.0f} GB/s")
    for row in result["rows"]:
        words = [f"{key} {value:.3g}" if isinstance(value, float) else str(value) for key, value in row.items()]
        print("  " + "  ".join(words))
    for case, reason in result["not_measured"].items():
        print(f"  {case}: not measured, as {reason}")
