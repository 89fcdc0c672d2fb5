"""Benchmarks of whole steps on a GPU, for `pynanochat bench gpu`: training of a d12 and a d24 in bf16, and with the
blocks' products in fp8 where the card has them, and decoding of the d12 in bf16.

A training step is forward, backward and optimizer of one micro-batch; its bound is the measured product rate, `mfu`
is against the data sheet's where it is known, both of bf16, which fp8 may pass. A decoding step is one token of each of
R rows behind CONTEXT others, without sampling; it must read all weights and the keys and values that each row sees, so
its bound is the copy rate.
"""

import functools
import time

import torch

from pynanochat import runtime
from pynanochat.bench import gpu_scheduler
from pynanochat.bench import gpu_timing as timing
from pynanochat.engine.graphs import NAME as GRAPHS
from pynanochat.engine.graphs import DecodeGraphs
from pynanochat.engine.paged_cache import PagedCache
from pynanochat.model import GPT, GPTConfig, memory
from pynanochat.model.fp8 import MEASURED, Fp8, unable
from pynanochat.model.scaling import measure as size_of
from pynanochat.ops.casts import casts_kept
from pynanochat.optim import build_optimizer

CONFIG = GPTConfig.from_depth(12)
LARGE = GPTConfig.from_depth(24)
CONTEXT = 1024
DECODE_ROWS = (1, 64)
COMPILE_SECONDS = 90  # that torch.compile may take of a whole step of CONFIG: without them it is not begun
EAGER_SECONDS = 20


def train(config, compiled: bool, in_fp8: bool, rate: dict) -> list[dict]:
    """The row of a training step, eager or compiled, of as many rows as fit; the blocks' products in fp8 or not."""
    device = torch.device(timing.DEVICE)
    needed = memory.step_memory(config, ours=memory.ours_on(device, in_fp8), fp8=in_fp8)
    rows = memory.fit_rows(needed, timing.free_memory(), memory.MOST_ROWS)
    step = training_step(config, rows, compiled, in_fp8)
    for _ in range(MEASURED if in_fp8 else 0):  # these run uncompiled, and take longer
        step()
    seconds = timing.interleave({"step": step}, rounds=3)["step"]
    tokens = rows * config.sequence_len / seconds
    flops = tokens * size_of(config).flops_per_token
    return [
        {
            "op": "train_step",
            "case": f"d{config.n_layer}, {rows} rows of {config.sequence_len}",
            "backend": ("compiled" if compiled else "eager") + (", fp8" if in_fp8 else ""),
            "ms": seconds * 1e3,
            "tokens_per_second": tokens,
            "mfu": flops / runtime.peak_flops(device, torch.bfloat16),
            "of_bound": flops / 1e12 / rate["bf16_tflops"],
        }
    ]


def training_step(config, rows: int, compiled: bool, in_fp8: bool):
    """A function that takes one step, as the training loop does."""
    model = GPT(config, compute_dtype=torch.bfloat16).to(timing.DEVICE)
    model.fp8 = Fp8(model) if in_fp8 else None
    wanted = torch.compile(model, dynamic=False) if compiled else model
    optimizer = build_optimizer(model, config.arch, lr_multiplier=0.01)
    ids = torch.randint(0, config.vocab_size, (rows, config.sequence_len + 1), device=timing.DEVICE)

    def step():
        forward = wanted
        if in_fp8:
            forward = model if model.fp8.measuring else wanted
            model.fp8.begin()
        with casts_kept():
            forward(ids[:, :-1], ids[:, 1:]).backward()
        optimizer.step()
        if in_fp8:
            model.fp8.finish()
        optimizer.zero_grad(set_to_none=True)

    return step


@torch.inference_mode()
def decode(rows: int, graphs: bool, rate: dict) -> list[dict]:
    """A row for the eager decoding step of `rows` sequences, one for its graph, and those of the scheduler's steps."""
    model = bf16_model()
    cache, layout = decoding(model, rows)
    functions = {"eager": lambda: eager_step(model, cache, layout)}
    if graphs:
        runner = DecodeGraphs(model, cache, rows)
        functions["graph"] = lambda: runner.run(layout)
    gigabytes = (2 * size_of(CONFIG).matmul + rows * cache_bytes(CONFIG, CONTEXT)) / 1e9
    return [
        {
            "op": "decode_step",
            "case": f"{rows} x {CONTEXT} tokens",
            "backend": name,
            "ms": seconds * 1e3,
            "tokens_per_second": rows / seconds,
            "gbs": gigabytes / seconds,
            "of_bound": gigabytes / seconds / rate["copy_gbs"],
        }
        for name, seconds in timing.interleave(functions, rounds=5).items()
    ] + gpu_scheduler.speak(model, rows)


def bf16_model(config: GPTConfig | None = None):
    """A model whose weights too are bf16, as the engine has it; the rotary tables keep all their digits. What begins as
    zeros, or almost, is random, so that every layer counts in its logits."""
    model = GPT(config or CONFIG, compute_dtype=torch.bfloat16).to(timing.DEVICE).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(("c_proj.weight", "lm_head.weight")):
            torch.nn.init.normal_(parameter, std=parameter.size(1) ** -0.5)
        parameter.data = parameter.data.to(torch.bfloat16)
    return model


def decoding(model, rows: int):
    """A cache in which `rows` sequences have CONTEXT - 1 tokens, and the layout of their next one. What the cache holds
    is zeros: a step takes as long whatever it reads."""
    device = model.lm_head.weight.device
    cache = PagedCache(model.config, torch.bfloat16, device, rows * (CONTEXT + 32), windows=rows, burst=rows * CONTEXT)
    text = [1] * CONTEXT
    sequences = [cache.open((), share=False) for _ in range(rows)]
    for sequence in sequences:
        assert cache.reserve(sequence, CONTEXT)
        sequence.length = CONTEXT - 1
    return cache, cache.layout([(sequence, text, 1) for sequence in sequences])


def eager_step(model, cache, layout):
    ids, part = cache.on_device(layout)
    return model(ids, cache=part)


def cache_bytes(config, context: int) -> int:
    """Bytes of keys and values that one query at the end of `context` tokens sees, in bf16."""
    windows = (config.window(layer) for layer in range(config.n_layer))
    tokens = sum(context if window < 0 else min(context, window + 1) for window in windows)
    return tokens * 2 * config.n_kv_head * config.head_dim * 2


def measure(verified: list[dict], rate: dict, deadline: float, done=lambda result: None) -> dict:
    """`rows` and `not_measured` (case: reason), as of gpu_ops.measure; `done` is called with them after each case."""
    graphs = any((v["op"], v["backend"]) == (GRAPHS, "cuda") for v in verified)
    cases = [(f"decode_step {r} rows", EAGER_SECONDS, lambda r=r: decode(r, graphs, rate)) for r in DECODE_ROWS]
    rows, missing = [], {} if graphs else {"decode_step as a graph": "graphs were not verified"}
    for label, seconds, *case in training_cases():
        reason = unable(torch.device(timing.DEVICE)) if case[-1] else ""
        if reason:
            missing[label] = reason
        else:
            cases.append((label, seconds, functools.partial(train, *case, rate)))
    for label, seconds, run in cases:
        if time.monotonic() + seconds > deadline:
            missing[label] = "the time was up"
            continue
        found, reason = timing.attempt(run)
        rows += found
        missing |= {label: reason} if reason else {}
        done({"rows": rows, "not_measured": missing})
    return {"rows": rows, "not_measured": missing}


def training_cases() -> list[tuple]:
    """(label, seconds that it may take, config, compiled, in fp8), the quickest first."""
    return [
        (
            f"train_step d{config.n_layer} {'compiled' if compiled else 'eager'}{', fp8' if in_fp8 else ''}",
            (COMPILE_SECONDS if compiled else EAGER_SECONDS) * config.n_layer // CONFIG.n_layer,
            config,
            compiled,
            in_fp8,
        )
        for compiled in (False, True)
        for config in (CONFIG, LARGE)
        for in_fp8 in (False, True)
    ]
