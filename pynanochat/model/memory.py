"""How many bytes a training step takes on a GPU, and how many rows of a micro-batch fit.

N parameters, M of them in the blocks' matrices, C width, V rows of the head.

    always      weights and gradients in fp32, 8 N; one moment for Muon's matrices, two for AdamW's: 4 M + 8 (N - M);
                copies of the matrices in the compute dtype, or with fp8 of the blocks' in 8 bits, twice
    the passes  what the micro-batch's tokens leave for the backward pass, the cross-entropy's workspace, and the head's
                gradient twice more in fp32, 8 V C: as the loss makes it, and scaled
    the update  what Muon's iteration keeps beside its largest stack of matrices, or the gradients laid side by side
                where ranks sum them

The passes and the update come one after the other, so that a step takes `always` and the larger of the two.
tests/model/test_memory.py counts what autograd saves against `activation_bytes_per_token`. It has not been compared
with a GPU's allocator yet; where a plan is wrong, a step is done again in smaller pieces (stages/gradients.py).
"""

from dataclasses import dataclass

import torch

from pynanochat.model.config import GPTConfig
from pynanochat.model.scaling import measure
from pynanochat.ops import backends
from pynanochat.ops.linear_softcap_cross_entropy import CHUNK
from pynanochat.ops.linear_softcap_cross_entropy_gpu import WORKSPACE

RESERVE = 256 * 2**20  # bytes: libraries' own workspaces, and kernels that are loaded only later
USABLE = 0.92  # of what is free: the allocator's blocks do not fit each other to the last byte
MUON_BYTES = 24  # for each element of a stack: gradient, update and parameters in fp32, the iteration's terms in bf16
PLAIN_WIDTHS = 34  # that torch's own ops keep of a token in a layer, fp32 intermediates counted twice
WORKING_WIDTHS = 14  # two of the MLP's inner rows, gradients of the stream; attention's backward takes less
MOST_ROWS = 32


@dataclass(frozen=True)
class StepMemory:
    """Bytes of a training step; `row` for each row of the micro-batch."""

    always: int
    passes: int
    row: int
    update: int

    def needed(self, rows: int) -> int:
        """The most bytes in use at one time with micro-batches of `rows`."""
        return self.always + max(self.passes + rows * self.row, self.update)

    def rows_within(self, free: int) -> int:
        """The most rows for `free` bytes, of which RESERVE and what the allocator wastes stay; 0 where none fits."""
        room = int(USABLE * (free - RESERVE)) - self.always
        return 0 if room < self.update else max(0, room - self.passes) // self.row


def step_memory(
    config: GPTConfig, itemsize: int = 2, *, ours: bool = True, processes: int = 1, fp8: bool = False
) -> StepMemory:
    """The StepMemory of `config` with activations of `itemsize` bytes.

    ours: the blocks run on ops of ours, not on torch's. processes: ranks that sum their gradients. fp8: the blocks'
    products are in 8 bits.
    """
    size = measure(config)
    head = config.padded_vocab_size * config.n_embd
    blocks = size.scaling - head
    copy = itemsize if itemsize < 4 else 0
    workspace = WORKSPACE if ours else 5 * 4 * CHUNK * config.vocab_size  # torch's has a chunk in fp32 five times
    largest_stack = config.n_layer * 4 * config.n_embd**2
    return StepMemory(
        always=8 * size.parameters
        + 4 * blocks
        + 8 * (size.parameters - blocks)
        + copy * head
        + (2 if fp8 else copy) * blocks,
        passes=workspace + 8 * head,
        row=config.sequence_len * activation_bytes_per_token(config, itemsize, ours=ours, fp8=fp8),
        update=max(MUON_BYTES * largest_stack, 4 * size.parameters if processes > 1 else 0),
    )


def activation_bytes_per_token(config: GPTConfig, itemsize: int = 2, *, ours: bool = True, fp8: bool = False) -> int:
    """What one token of a micro-batch takes: saved in every layer, and the gradients of the one that is under way."""
    if not ours:
        return config.n_embd * (PLAIN_WIDTHS * config.n_layer + 16) * itemsize
    widths = saved_widths(config) + (more_widths_in_fp8(config, itemsize) if fp8 else 0.0)
    return int(config.n_embd * (widths + WORKING_WIDTHS) * itemsize)


def saved_widths(config: GPTConfig) -> float:
    """What our ops keep of one token for the backward pass, in widths C.

    In a layer: both norms' inputs and outputs, queries before and after their norm, the attention's output, and the
    MLP's 4 C; keys twice and values once. 2026 adds the stream before its scalars and, where there are any, the value
    embeddings; its smear and its backout keep three widths more.
    """
    keys = config.n_kv_head / config.n_head
    a_layer = 11 + 3 * keys + (1 if config.residual_scalars else 0)
    embedded = sum(config.has_value_embedding(layer) for layer in range(config.n_layer))
    ends = 3 + (2 if config.smear else 0) + (1 if config.backout else 0)
    return config.n_layer * a_layer + embedded * keys + ends


def more_widths_in_fp8(config: GPTConfig, itemsize: int) -> float:
    """What products in 8 bits keep more of one token, in widths C of `itemsize` bytes.

    In a layer: 7 C of 8 bits, the inputs of the four products, the MLP's inner one beside its form in full. The norms'
    outputs are no longer kept, but for the first where a value gate reads it.
    """
    embedded = sum(config.has_value_embedding(layer) for layer in range(config.n_layer))
    return config.n_layer * (7 / itemsize - 2) + embedded


def ours_on(device, fp8: bool = False) -> bool:
    """Whether the ops that decide how much is kept for the backward pass are ours on `device`."""
    tensor = torch.empty(0, device=device)
    products = ("linear_fp8", "relu2_mlp_fp8") if fp8 else ("relu2_mlp",)
    wanted = (*products, "attention", "rotary_qk_norm", "linear_softcap_cross_entropy")
    return all(backends.choose(op, tensor) != "reference" for op in wanted)


def fit_rows(memory: StepMemory, free: int, rows: int) -> int:
    """The largest divisor of `rows`, at most MOST_ROWS, that fits `free` bytes; 1 where none does."""
    most = max(1, memory.rows_within(free))
    return max(d for d in range(1, min(rows, MOST_ROWS, most) + 1) if rows % d == 0)
