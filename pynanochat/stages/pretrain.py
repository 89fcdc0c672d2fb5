"""Pretraining: a base model from packed documents, everything derived from --depth unless a flag says otherwise."""

import dataclasses
import math
from dataclasses import dataclass
from itertools import islice

import torch

from pynanochat import checkpoint, runtime, settings
from pynanochat.data.packing import PackedLoader, ValidationLoader
from pynanochat.data.prefetch import Prefetch
from pynanochat.errors import UsageError
from pynanochat.evals.bpb import bits_per_byte
from pynanochat.model import GPT, GPTConfig, memory
from pynanochat.model.scaling import Horizon, horizon, measure
from pynanochat.optim import RECIPES, SCHEDULES, build_optimizer
from pynanochat.stages import fp8
from pynanochat.stages.compiling import compiled_forward
from pynanochat.stages.loop import LoopSettings, TrainingLoop
from pynanochat.stages.progress import duration

NAME = "pretrain"
SAMPLE_TOKENS = 48
PROMPT_CHARACTERS = 40
TOKENS_PER_PARAMETER = {"2025": 20.0, "2026": 10.5}


@dataclass(frozen=True)
class PretrainSettings(LoopSettings):
    depth: int = 12
    """Layers; width, learning rates, batch and tokens follow from it."""
    arch: str = "2026"
    """Architecture, optimizer recipe and schedule: 2025 or 2026."""
    head_dim: int = 128
    """Channels of an attention head."""
    kv_heads: int = 0
    """Key/value heads (grouped-query attention); 0 for as many as query heads."""
    sequence_len: int = 2048
    """The context, in tokens."""
    tokens_per_parameter: float = 0.0
    """Training tokens for each parameter of the blocks and the head; 0 for the architecture's own."""
    steps: int = 0
    """Optimizer steps; 0 for what tokens_per_parameter gives."""
    batch_tokens: int = 0
    """Tokens of one optimizer step over all ranks; 0 for what the depth gives."""
    device_rows: int = 0
    """Rows of one micro-batch; 0 for as many as memory allows, at most 32."""
    lr_scale: float = 1.0
    """Factor on every learning rate."""
    weight_decay: float = -1.0
    """Muon's weight decay before its scaling; negative for the recipe's own."""
    eval_tokens: int = 1_048_576
    """Validation tokens of each evaluation."""
    buffer_documents: int = 1000
    """Tokenized documents that packing chooses from."""
    compile: str = "auto"
    """Compile the training step with torch.compile: on, off, or auto, which is on for a GPU with Triton."""

    OPERATIONAL = LoopSettings.OPERATIONAL | {"compile"}


@dataclass(frozen=True)
class Plan:
    """What a pretraining run will do, before anything is allocated."""

    config: GPTConfig
    horizon: Horizon
    steps: int
    device_rows: int
    stream_count: int
    """Micro-batches of a step, over all ranks."""


def plan(
    wanted: PretrainSettings, vocab_size: int, device, world_size: int = 1, dtype=torch.bfloat16, in_fp8: bool = False
) -> Plan:
    """The Plan for these settings; `dtype` is that of activations. Raises UsageError for a batch that does not divide
    into micro-batches and ranks, and where fp8 is wanted and cannot be had."""
    _check_positive(wanted)
    runtime.wants_compiling(wanted.compile, torch.device("cpu"))  # the name is right
    heads = GPTConfig.from_depth(wanted.depth, arch=wanted.arch, head_dim=wanted.head_dim).n_head
    if wanted.kv_heads and heads % wanted.kv_heads:
        raise UsageError(f"--kv-heads {wanted.kv_heads} does not divide the {heads} query heads")
    config = GPTConfig.from_depth(
        wanted.depth,
        arch=wanted.arch,
        head_dim=wanted.head_dim,
        vocab_size=vocab_size,
        sequence_len=wanted.sequence_len,
        **({"n_kv_head": wanted.kv_heads} if wanted.kv_heads else {}),
    )
    fp8.check(in_fp8, device, config)
    ratio = wanted.tokens_per_parameter or TOKENS_PER_PARAMETER[wanted.arch]
    extent = horizon(config, ratio, wanted.batch_tokens or None)
    if extent.batch_tokens % (wanted.sequence_len * world_size):
        raise UsageError(
            f"--batch-tokens {extent.batch_tokens} does not divide into rows of {wanted.sequence_len} tokens on "
            f"{world_size} ranks; use a multiple of {wanted.sequence_len * world_size}"
        )
    rows = extent.batch_tokens // wanted.sequence_len
    device_rows = wanted.device_rows or fit_device_rows(
        config, device, rows // world_size, dtype=dtype, processes=world_size, in_fp8=in_fp8
    )
    if rows % (device_rows * world_size):
        raise UsageError(
            f"--device-rows {device_rows}: a step of {rows} rows does not divide into micro-batches of {device_rows} "
            f"on {world_size} ranks; use a divisor of {rows // world_size}"
        )
    steps = wanted.steps or max(1, round(extent.tokens / extent.batch_tokens))
    return Plan(config, extent, steps, device_rows, rows // device_rows)


def check_plan(run, vocab_size: int, processes: int, begun: bool) -> None:
    """Raise UsageError for settings that cannot be trained here, before a stage spends time on them.

    `begun`: go by the micro-batches of the run's checkpoint, where there is one.
    """
    device = runtime.pick_device(run.settings.device, run.ranks)
    dtype = runtime.pick_compute_dtype(device, run.settings.dtype)
    wanted = _with_recorded_rows(run) if begun else run.tables[NAME]
    in_fp8 = run.settings.fp8 and not (begun and run.done(NAME))  # what is done needs no card any more
    what = plan(wanted, vocab_size, device, processes, dtype, in_fp8)
    size = measure(what.config).parameters
    # Weights, gradients and at least one moment in fp32; ranks on a CPU share its memory.
    needed = 12 * size * (1 if device.type == "cuda" else processes)
    if device.type == "cuda":  # and on a GPU, where nothing is swapped out, one row
        needed = max(needed, memory_on(device, what.config, dtype, processes, in_fp8).needed(1))
    free = runtime.device_memory(device)
    if needed > free:
        raise UsageError(
            f"--depth {run.tables[NAME].depth}: {size:,} parameters need at least {needed / 2**30:,.1f} GiB to train "
            f"and {free / 2**30:,.1f} GiB are free on {device}; use a smaller depth"
        )


def _check_positive(wanted: PretrainSettings) -> None:
    whole = ("steps", "batch_tokens", "device_rows", "kv_heads", "tokens_per_parameter", "eval_every", "save_every")
    some = ("head_dim", "sequence_len", "eval_tokens", "buffer_documents", "keep_checkpoints", "max_bad_steps")
    settings.check_numbers(
        wanted,
        finite=("lr_scale", "tokens_per_parameter", "weight_decay"),
        zero_or_more=whole,
        positive=(*some, "lr_scale"),
    )


def fit_device_rows(
    config: GPTConfig, device, rows: int, *, dtype=torch.bfloat16, processes: int = 1, in_fp8: bool = False
) -> int:
    """The largest divisor of `rows`, at most 32, whose training step fits into the device's free memory; at least 1."""
    free = runtime.device_memory(device)
    if device.type == "cuda":
        return memory.fit_rows(memory_on(device, config, dtype, processes, in_fp8), free, rows)
    free -= measure(config).training_bytes()
    most = max(1, int(0.8 * free) // (memory.activation_bytes_per_token(config, ours=False) * config.sequence_len))
    return max(d for d in range(1, min(rows, memory.MOST_ROWS, most) + 1) if rows % d == 0)


def memory_on(device, config: GPTConfig, dtype, processes: int, in_fp8: bool = False) -> memory.StepMemory:
    """What a training step takes on a GPU with the ops that are used there."""
    ours = memory.ours_on(device, in_fp8)
    return memory.step_memory(config, dtype.itemsize, ours=ours, processes=processes, fp8=in_fp8)


def identity(run) -> dict:
    return {
        **settings.binding(run.tables[NAME]),
        "seed": run.settings.seed,
        "dtype": run.settings.dtype,
        "fp8": run.settings.fp8,
        "tokenizer_hash": run.tokenizer().hash(),
        "data_hash": run.source().hash(),
    }


def train(run) -> dict:
    """Train the base model of `run`; resumes from its newest checkpoint. Returns the loop's summary."""
    ranks = run.ranks
    wanted = _with_recorded_rows(run)
    device = runtime.pick_device(run.settings.device, ranks)
    runtime.init_distributed(ranks, device)
    if device.type == "cpu":
        runtime.keep_freed_memory()
    runtime.seed_everything(run.settings.seed, run.settings.deterministic)
    tokenizer = run.tokenizer()
    dtype = runtime.pick_compute_dtype(device, run.settings.dtype)
    what = plan(wanted, len(tokenizer), device, ranks.world_size, dtype, run.settings.fp8)
    size = measure(what.config)
    model = GPT(what.config, seed=run.settings.seed, compute_dtype=dtype).to(device)
    run.say(describe(what, size, dtype, device))
    fp8.give(model, run, NAME)
    loop = TrainingLoop(
        name=NAME,
        folder=run.stage_folder(NAME),
        model=model,
        forward=compiled_forward(model, wanted.compile, device, run.say),
        optimizer=_optimizer(model, wanted, what),
        schedule=SCHEDULES[wanted.arch]["pretrain"],
        streams=_streams(run, tokenizer, what, wanted, device),
        stream_count=what.stream_count,
        total_steps=what.steps,
        options=wanted,
        identity=identity(run) | {"fitted_rows": what.device_rows},
        flops_per_token=size.flops_per_token,
        peak_flops=runtime.peak_flops(device, dtype) * ranks.world_size,
        gradient_clip=RECIPES[wanted.arch].gradient_clip,
        evaluate=_evaluation(run, tokenizer, what, wanted, device),
        sample=lambda model: sample(model, tokenizer, prompts_of(run.source())),
        ranks=ranks,
    )
    name = str(dtype).removeprefix("torch.") + (" and fp8" if run.settings.fp8 else "")
    return loop.run() | {"parameters": size.parameters, "dtype": name}


def _with_recorded_rows(run) -> PretrainSettings:
    """The settings, where rows are fitted to memory with those that the run began with: memory may be another now."""
    wanted = run.tables[NAME]
    found = checkpoint.latest(run.stage_folder(NAME))
    if found is None or wanted.device_rows:
        return wanted
    return dataclasses.replace(wanted, device_rows=found.state("state")["identity"]["fitted_rows"])


def _optimizer(model, wanted, what):
    decay = RECIPES[wanted.arch].matrix_weight_decay if wanted.weight_decay < 0 else wanted.weight_decay
    return build_optimizer(
        model,
        wanted.arch,
        lr_multiplier=what.horizon.lr_multiplier * wanted.lr_scale,
        weight_decay=decay * what.horizon.weight_decay_multiplier,
    )


def _streams(run, tokenizer, what, wanted, device) -> dict:
    """This rank's loaders by number; for a GPU they make their batches ahead, on a CPU that would take its cores."""
    mine = range(run.ranks.rank, what.stream_count, run.ranks.world_size)
    loaders = {
        i: PackedLoader(
            run.source(),
            tokenizer,
            batch_size=what.device_rows,
            seq_len=what.config.sequence_len,
            split="train",
            rank=i,
            world_size=what.stream_count,
            buffer_documents=wanted.buffer_documents,
        )
        for i in mine
    }
    return {i: Prefetch(loader) for i, loader in loaders.items()} if device.type == "cuda" else loaders


def _evaluation(run, tokenizer, what, wanted, device):
    token_bytes = torch.as_tensor(tokenizer.token_lengths(), device=device)
    batches = ValidationLoader(
        run.source(),
        tokenizer,
        batch_size=what.device_rows,
        seq_len=what.config.sequence_len,
        max_tokens=wanted.eval_tokens,
    )
    return lambda model: {"val_bpb": bits_per_byte(model, batches, token_bytes, run.ranks)}


def prompts_of(source) -> list[str]:
    """Openings that a base model continues: those that the source names, else the first words of validation texts."""
    named = getattr(source, "prompts", None)
    if named:
        return list(named)
    # Bounded in characters too: a text may hold no space, and a prompt must leave room in a small context.
    openings = (" ".join(text[:200].split()[:4])[:PROMPT_CHARACTERS].strip() for text in source.texts("val"))
    return list(islice(filter(None, openings), 3))


def sample(model, tokenizer, prompts) -> list[dict]:
    """Greedy continuations of `prompts`, as {"prompt", "text"}."""
    from pynanochat.engine import Engine

    engine = Engine(model, tokenizer)
    room = model.config.sequence_len - 2  # for bos and one token of the answer
    fitting = [p for p in prompts if len(tokenizer.encode(p)) <= room]
    return [{"prompt": p, "text": engine.complete(p, max_tokens=SAMPLE_TOKENS, temperature=0.0)} for p in fitting]


def describe(what: Plan, size, dtype, device) -> str:
    c, h = what.config, what.horizon
    return (
        f"pretrain: d{c.n_layer} of width {c.n_embd}, {size.parameters:,} parameters, {c.arch} architecture, "
        f"{str(dtype).removeprefix('torch.')} on {device}\n"
        f"pretrain: {what.steps:,} steps of {h.batch_tokens:,} tokens ({what.stream_count} x {what.device_rows} rows "
        f"of {c.sequence_len}), {what.steps * h.batch_tokens * size.flops_per_token:.2e} FLOPs"
    )


def memory_needed(what: Plan, device, dtype, processes: int, in_fp8: bool = False) -> int:
    """Bytes that training will take on each rank, about."""
    if device.type == "cuda":
        return memory_on(device, what.config, dtype, processes, in_fp8).needed(what.device_rows)
    rows = what.device_rows * what.config.sequence_len
    return measure(what.config).training_bytes() + rows * memory.activation_bytes_per_token(what.config, ours=False)


def seconds_needed(what: Plan, flops_per_second: float) -> float:
    """How long training takes at `flops_per_second` over all ranks."""
    tokens = what.steps * what.horizon.batch_tokens
    return tokens * measure(what.config).flops_per_token / flops_per_second if flops_per_second else math.inf


ASSUMED_UTILISATION = 0.4  # of the peak, for a plan before anything has been measured


def describe_plan(wanted, vocab_size, device, run_settings, processes: int) -> str:
    """The lines of a dry run: parameters, FLOPs, memory, time and cost."""
    dtype = runtime.pick_compute_dtype(device, run_settings.dtype)
    what = plan(wanted, vocab_size, device, processes, dtype, run_settings.fp8)
    size = measure(what.config)
    needed = memory_needed(what, device, dtype, processes, run_settings.fp8)
    rate = ASSUMED_UTILISATION * runtime.peak_flops(device, dtype) * processes
    hours = seconds_needed(what, rate) / 3600
    cost = f", about ${hours * run_settings.price_per_hour:,.2f}" if run_settings.price_per_hour else ""
    return (
        f"{describe(what, size, dtype, device)}\n"
        f"pretrain: {size.flops_per_token:,} FLOPs a token, about "
        f"{needed / 2**30:.1f} GiB on each of {processes} ranks\n"
        f"pretrain: about {duration(hours * 3600)} at {ASSUMED_UTILISATION:.0%} of {rate / ASSUMED_UTILISATION:.2e} "
        f"FLOP/s{cost}"
    )
