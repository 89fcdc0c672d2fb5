"""Benchmarks of whole steps on a GPU, for `pynanochat bench gpu`: training and decoding of a d12 in bf16.

A training step is forward, backward and optimizer of one micro-batch; its bound is the measured product rate, `mfu`
is against the data sheet's where it is known. A decoding step is one token of each of R rows behind CONTEXT others,
without sampling; it must read all weights and the keys and values that each row sees, so its bound is the copy rate.
"""

import time

import torch

from pynanochat import runtime
from pynanochat.bench import gpu_timing as timing
from pynanochat.engine.graphs import NAME as GRAPHS
from pynanochat.engine.graphs import DecodeGraphs
from pynanochat.engine.paged_cache import PagedCache
from pynanochat.model import GPT, GPTConfig, memory
from pynanochat.model.scaling import measure as size_of
from pynanochat.ops.casts import casts_kept
from pynanochat.optim import build_optimizer

CONFIG = GPTConfig.from_depth(12)
CONTEXT = 1024
DECODE_ROWS = (1, 64)
COMPILE_SECONDS = 90  # that torch.compile may take of a whole step: without them it is not begun
EAGER_SECONDS = 20


def train(compiled: bool, rate: dict) -> list[dict]:
    """The row of a training step, eager or compiled, of as many rows as fit."""
    device = torch.device(timing.DEVICE)
    needed = memory.step_memory(CONFIG, ours=memory.ours_on(device))
    rows = memory.fit_rows(needed, timing.free_memory(), memory.MOST_ROWS)
    model = GPT(CONFIG, compute_dtype=torch.bfloat16).to(device)
    forward = torch.compile(model, dynamic=False) if compiled else model
    optimizer = build_optimizer(model, CONFIG.arch, lr_multiplier=0.01)
    ids = torch.randint(0, CONFIG.vocab_size, (rows, CONFIG.sequence_len + 1), device=device)

    def step():
        with casts_kept():
            forward(ids[:, :-1], ids[:, 1:]).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    seconds = timing.interleave({"step": step}, rounds=3)["step"]
    tokens = rows * CONFIG.sequence_len / seconds
    flops = tokens * size_of(CONFIG).flops_per_token
    how = "compiled" if compiled else "eager"
    return [
        {
            "op": "train_step",
            "case": f"{rows} rows of {CONFIG.sequence_len}",
            "backend": how,
            "ms": seconds * 1e3,
            "tokens_per_second": tokens,
            "mfu": flops / runtime.peak_flops(device, torch.bfloat16),
            "of_bound": flops / 1e12 / rate["bf16_tflops"],
        }
    ]


@torch.inference_mode()
def decode(rows: int, graphs: bool, rate: dict) -> list[dict]:
    """A row for the eager decoding step of `rows` sequences, and one for its graph."""
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
    ]


def bf16_model():
    """A model whose weights too are bf16, as the engine has it; the rotary tables keep all their digits."""
    model = GPT(CONFIG, compute_dtype=torch.bfloat16).to(timing.DEVICE).eval()
    for parameter in model.parameters():
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
    cases.append(("train_step eager", EAGER_SECONDS, lambda: train(False, rate)))
    cases.append(("train_step compiled", COMPILE_SECONDS, lambda: train(True, rate)))
    rows, missing = [], {} if graphs else {"decode_step as a graph": "graphs were not verified"}
    for label, seconds, run in cases:
        if time.monotonic() + seconds > deadline:
            missing[label] = "the time was up"
            continue
        try:
            rows += run()
        except torch.cuda.OutOfMemoryError:
            missing[label] = "out of memory"
        except Exception as error:  # a step that breaks must not take the others' figures away
            missing[label] = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        torch.cuda.empty_cache()
        done({"rows": rows, "not_measured": missing})
    return {"rows": rows, "not_measured": missing}
