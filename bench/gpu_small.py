"""Benchmarks of the ops that memory bounds, for bench/gpu_ops.py: norms, smear, value gate, AdamW, sampling.

GB/s count what an op must read and write at least, each array once; the bound is the copy rate of the same run.
Peers: the reference in eager torch and under torch.compile; of sampling also the usual code with torch.multinomial.
AdamW's `cuda` backend is torch._fused_adamw_.
"""

import torch

from pynanochat.bench import bench_sample_tokens as sampling
from pynanochat.bench import gpu_timing as timing
from pynanochat.ops.backends import implementations

NORM_CASES = {"d12": (65536, 768), "d24": (32768, 1536)}  # N, C
SMEAR_CASES = {"d12": (32, 2048, 768), "d24": (16, 2048, 1536)}  # B, T, C
GATE_CASES = {"d12": (32, 2048, 6, 128, 768, 32768), "d24": (16, 2048, 12, 128, 1536, 32768)}  # B, T, G, D, C, V
ADAMW_CASES = {"d12": (8, 32768, 768), "many small": (256, 512, 512)}  # tensors, rows, columns
SAMPLE_CASES = {f"{R} rows, {name}": (R, sampling.V, name) for R in sampling.ROWS for name in sampling.SETTINGS}
SETTINGS = {"step": 5, "lr": 0.01, "beta1": 0.8, "beta2": 0.95, "eps": 1e-10, "weight_decay": 0.01}
SMEAR_CHANNELS, GATE_CHANNELS = 24, 12


def draw(*size, dtype=torch.bfloat16):
    return torch.randn(size, device=timing.DEVICE, dtype=dtype)


def contest(op, label, kernels, part, inputs, moved, rate, **settings) -> list[dict]:
    """The rows of `part` (a function of each implementation, "" where it is one) on `inputs`; `moved` is in bytes."""
    find = lambda implementation: getattr(implementation, part) if part else implementation  # noqa: E731
    reference = find(implementations(op)["reference"])
    functions = {name: find(kernel) for name, kernel in kernels.items()}
    functions |= {"eager": reference, "compiled": torch.compile(reference, dynamic=False)}
    times = timing.interleave({name: (lambda f=f: f(*inputs, **settings)) for name, f in functions.items()})
    peers = ("eager", "compiled", "multinomial")
    return timing.rows_of(op, f"{label} {part}".strip(), times, moved / 1e9, "gbs", rate["copy_gbs"], peers)


def bench_norm(case, label, kernels, rate) -> list[dict]:
    x, dy = draw(*case), draw(*case)
    size = x.numel() * x.element_size()
    rows = contest("rms_norm", label, kernels, "forward", (x, 1e-6), 2 * size, rate)
    return rows + contest("rms_norm", label, kernels, "backward", (dy, x, 1e-6), 3 * size, rate)


def bench_norm_residual(case, label, kernels, rate) -> list[dict]:
    x, residual, dtotal = draw(*case), draw(*case), draw(*case)
    moved = 4 * x.numel() * x.element_size()  # both ways: three and one
    rows = contest("rms_norm_residual", label, kernels, "forward", (x, residual, 1e-6), moved, rate)
    return rows + contest("rms_norm_residual", label, kernels, "backward", (dtotal, residual, x, 1e-6), moved, rate)


def bench_smear(case, label, kernels, rate) -> list[dict]:
    x, dy = draw(*case), draw(*case)
    inputs = x, draw(1, SMEAR_CHANNELS, dtype=torch.float32), draw(1, dtype=torch.float32), None
    size = x.numel() * x.element_size()
    rows = contest("smear", label, kernels, "forward", inputs, 2 * size, rate)
    return rows + contest("smear", label, kernels, "backward", (dy, *inputs), 3 * size, rate)


def bench_value_gate(case, label, kernels, rate) -> list[dict]:
    B, T, G, D, C, V = case
    v, x, table = draw(B, T, G, D), draw(B, T, C), draw(V, G * D, dtype=torch.float32)
    ids = (torch.rand(B, T, device=v.device) ** 4 * V).long()  # some words are frequent
    inputs = x, ids, table, draw(G, GATE_CHANNELS, dtype=torch.float32)
    looked_up = 4 * v.numel()
    rows = contest("value_gate", label, kernels, "forward", (v, *inputs), 4 * v.numel() + looked_up, rate)
    moved = 2 * v.numel() + looked_up + 2 * x.numel() + 4 * table.numel()
    return rows + contest("value_gate", label, kernels, "backward", (v, *inputs), moved, rate)


def bench_adamw(case, label, kernels, rate) -> list[dict]:
    tensors, *size = case
    four = [[draw(*size, dtype=torch.float32) for _ in range(tensors)] for _ in range(4)]
    four[3] = [v.square() for v in four[3]]
    moved = 28 * sum(p.numel() for p in four[0])
    return contest("adamw_step", label, kernels, "", four, moved, rate, **SETTINGS)


def bench_sample(case, label, kernels, rate) -> list[dict]:
    rows, vocabulary, name = case
    settings = sampling.SETTINGS[name]
    logits, numbers = sampling.make(rows, vocabulary, timing.DEVICE)
    column = lambda value: torch.full_like(numbers, value)  # noqa: E731
    columns = [column(x) for x in (settings.temperature, settings.top_k, settings.top_p, settings.min_p)]
    columns[1] = columns[1].long()
    kernels = {**kernels, "multinomial": lambda logits, *_: sampling.plain(logits, settings)}
    moved = logits.numel() * logits.element_size()
    return contest("sample_tokens", label, kernels, "", (logits, *columns, numbers), moved, rate)


BENCHMARKS = [
    ("rms_norm", bench_norm, NORM_CASES),
    ("rms_norm_residual", bench_norm_residual, NORM_CASES),
    ("smear", bench_smear, SMEAR_CASES),
    ("value_gate", bench_value_gate, GATE_CASES),
    ("adamw_step", bench_adamw, ADAMW_CASES),
    ("sample_tokens", bench_sample, SAMPLE_CASES),
]
