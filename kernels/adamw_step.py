"""Triton twin of adamw_step: one launch for all tensors of a list.

    step(rates, params, grads, exp_avgs, exp_avg_sqs): in place; launch(rates, plan(rates, params, ...)) in two halves

rates (7,) fp32 on the tensors' device, in the order of `step_kernel`. Params and moments fp32, grads fp32 or all of
one narrower dtype, all contiguous. A program does BLOCK elements of one tensor, which it finds in a table of addresses
(int64, a row for each tensor) through `owner`, the row of each block. Bound by memory: 28 bytes an element, 26 with
bf16 gradients.

Plans are kept by the addresses that they hold, so a step with the tensors of the last one copies nothing but rates. In
a CUDA graph capture `launch` alone: keep the plan and the rates as long as the graph, and write new rates (`copy_`)
before each replay. Interpreted and compiled so far; it has not run on a GPU yet.
"""

import functools
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

BLOCK = 2048
PLANS = 16  # kept: a few for each group of an optimizer
TL_DTYPES = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}


@triton.jit
def _tensor(address, dtype: tl.constexpr, ALIGNED: tl.constexpr):
    pointer = tl.load(address).to(tl.pointer_type(dtype))
    if ALIGNED:
        pointer = tl.multiple_of(pointer, 16)
    return pointer


@triton.jit
def _update(p, g, m, v, index, inside, rates):
    decay, new1, old2, new2, unbias2, eps, rate = rates
    grad = tl.load(g + index, inside).to(tl.float32)
    first = tl.load(m + index, inside)
    first += (grad - first) * new1
    second = tl.load(v + index, inside) * old2 + grad * grad * new2
    moved = tl.div_rn(first, tl.sqrt_rn(second * unbias2) + eps)
    tl.store(p + index, tl.load(p + index, inside) * decay - rate * moved, inside)
    tl.store(m + index, first, inside)
    tl.store(v + index, second, inside)


@triton.jit
def step_kernel(places, owner, rates, BLOCK: tl.constexpr, GRADIENT: tl.constexpr, ALIGNED: tl.constexpr):
    program = tl.program_id(0)
    row = places + tl.load(owner + program).to(tl.int64) * 6
    p = _tensor(row, tl.float32, ALIGNED)
    g = _tensor(row + 1, GRADIENT, ALIGNED)
    m = _tensor(row + 2, tl.float32, ALIGNED)
    v = _tensor(row + 3, tl.float32, ALIGNED)
    size = tl.load(row + 4)
    start = (program - tl.load(row + 5)) * BLOCK
    index = start + tl.arange(0, BLOCK)
    values = (
        tl.load(rates),  # 1 - lr·wd
        tl.load(rates + 1),  # 1 - β1
        tl.load(rates + 2),  # β2
        tl.load(rates + 3),  # 1 - β2
        tl.load(rates + 4),  # 1 / (1 - β2ᵗ)
        tl.load(rates + 5),  # ε
        tl.load(rates + 6),  # lr / (1 - β1ᵗ)
    )
    if start + BLOCK <= size:
        _update(p, g, m, v, index, None, values)  # without a mask, for loads of 16 bytes whatever the size is
    else:
        _update(p, g, m, v, index, index < size, values)


@dataclass(frozen=True)
class Plan:
    """What a launch needs but for the rates: a row (four addresses, size, first block) for each tensor, and more."""

    table: torch.Tensor  # (tensors, 6) int64
    owner: torch.Tensor  # (blocks,) int32
    gradient: torch.dtype
    aligned: bool


@functools.lru_cache(maxsize=PLANS)
def _plan(addresses, sizes, gradient, device, stream):
    blocks = torch.tensor([triton.cdiv(size, BLOCK) for size in sizes])
    first = blocks.cumsum(0) - blocks
    table = torch.cat([torch.tensor(addresses), torch.tensor(sizes)[:, None], first[:, None]], dim=1)
    owner = torch.repeat_interleave(torch.arange(len(sizes), dtype=torch.int32), blocks)
    aligned = all(address % 16 == 0 for row in addresses for address in row)
    # from memory that is not pinned: the copies have left it when they return, and wait for nothing on the GPU
    return Plan(*(t.to(device, non_blocking=True) for t in (table, owner)), gradient, aligned)


def plan(rates, params, grads, exp_avgs, exp_avg_sqs) -> Plan:
    """The plan of a launch over these tensors, which must stay where they are as long as it is used."""
    addresses = tuple(
        tuple(t.data_ptr() for t in four) for four in zip(params, grads, exp_avgs, exp_avg_sqs, strict=True)
    )
    stream = torch.cuda.current_stream(rates.device).cuda_stream if rates.is_cuda else 0  # another's copy may be late
    return _plan(addresses, tuple(p.numel() for p in params), grads[0].dtype, rates.device, stream)


def launch(rates, plan) -> None:
    """One step over the tensors of `plan`."""
    if plan.owner.numel():
        step_kernel[(plan.owner.numel(),)](
            plan.table, plan.owner, rates,
            BLOCK=BLOCK, GRADIENT=TL_DTYPES[plan.gradient], ALIGNED=plan.aligned, num_warps=4,
        )  # fmt: skip


def step(rates, params, grads, exp_avgs, exp_avg_sqs) -> None:
    """One step in place on all params and their moments."""
    launch(rates, plan(rates, params, grads, exp_avgs, exp_avg_sqs))
