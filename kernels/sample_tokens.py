"""Triton twin of sample_tokens: a token for each row of logits, by the row's own settings, without waiting for the GPU.

    forward(logits, temperature, top_k, top_p, min_p, number) -> tokens

R rows, V vocabulary. A program does one row. Its logits are ordered by a key, the bits of the float as an integer that
rises as the float does: the k-th largest is found by halving the range of keys and counting, the least key of top-p by
halving it and adding the weights above. Both keep or drop equal logits together. A filter that is off costs nothing.
Then the tokens kept are added up in the order of their ids until they pass the number. Weights and sums are in fp64.

Bound: the row's logits from cache once for each halving, 20 to 32 times with top-k; with top-p the fp64 weights, which
lie in a workspace of 8·R·V bytes, as often. Versions: (1) this one. It has not run on a GPU yet; it is interpreted and
compiled in tests/kernels.
"""

import torch
import triton
import triton.language as tl

BLOCK = 2048  # logits of a row at once


@triton.jit
def _keys(x):
    """int64, which rise as x does; one for both zeros."""
    bits = tl.where(x == 0, 0.0, x).to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)


@triton.jit
def _largest(row, columns, stride, BLOCK: tl.constexpr):
    """The largest logit, where it is first, and whether there is a NaN."""
    lane = tl.arange(0, BLOCK)
    best = tl.full([BLOCK], float("-inf"), tl.float32)
    at = tl.zeros([BLOCK], tl.int32)
    nan = tl.zeros([BLOCK], tl.int32)
    for first in range(0, columns, BLOCK):
        column = first + lane
        x = tl.load(row + column.to(tl.int64) * stride, column < columns, other=float("-inf"))
        nan |= (x != x).to(tl.int32)
        at = tl.where(x > best, column, at)
        best = tl.where(x > best, x, best)
    top = tl.max(best, axis=0)
    return top, tl.min(tl.where(best == top, at, columns), axis=0), tl.max(nan, axis=0) > 0


@triton.jit
def _kth_key(row, columns, stride, wanted, top, BLOCK: tl.constexpr):
    """A key that exactly the `wanted` largest logits, and what equals the last of them, reach. `top` is the largest."""
    lane = tl.arange(0, BLOCK)
    low = tl.full([], -(2**31), tl.int64)  # reached by at least `wanted`
    high = top + 1  # reached by fewer
    while high - low > 1:
        middle = low + (high - low) // 2
        count = tl.zeros([BLOCK], tl.int32)
        for first in range(0, columns, BLOCK):
            column = first + lane
            inside = column < columns
            x = tl.load(row + column.to(tl.int64) * stride, inside, other=0.0)
            count += ((_keys(x) >= middle) & inside).to(tl.int32)
        reached = tl.sum(count, axis=0).to(tl.int64)
        low = tl.where(reached >= wanted, middle, low)
        high = tl.where(reached > wanted, high, tl.where(reached == wanted, middle + 1, middle))
    return low


@triton.jit
def _write_weights(row, weights, columns, stride, best, heat, least, BLOCK: tl.constexpr):
    """exp((logit - best) / heat), 0 below the key `least`, into `weights`. Their sum."""
    lane = tl.arange(0, BLOCK)
    whole = tl.zeros([BLOCK], tl.float64)
    for first in range(0, columns, BLOCK):
        column = first + lane
        inside = column < columns
        x = tl.load(row + column.to(tl.int64) * stride, inside, other=float("-inf"))
        weight = tl.exp((x.to(tl.float64) - best.to(tl.float64)) / heat)
        weight = tl.where(inside & (_keys(x) >= least), weight, 0.0)
        tl.store(weights + column, weight, inside)
        whole += weight
    return tl.sum(whole, axis=0)


@triton.jit
def _nucleus_key(row, weights, columns, stride, goal, least, top, BLOCK: tl.constexpr):
    """The least key above which the weights add up to less than `goal`; between `least` and `top`."""
    lane = tl.arange(0, BLOCK)
    low = least - 1  # above it there is as much as `goal`
    high = top
    while high - low > 1:
        middle = low + (high - low) // 2
        above = tl.zeros([BLOCK], tl.float64)
        for first in range(0, columns, BLOCK):
            column = first + lane
            inside = column < columns
            x = tl.load(row + column.to(tl.int64) * stride, inside, other=0.0)
            weight = tl.load(weights + column, inside, other=0.0)
            above += tl.where(_keys(x) > middle, weight, 0.0)
        less = tl.sum(above, axis=0) < goal
        high = tl.where(less, middle, high)
        low = tl.where(less, low, middle)
    return high


@triton.jit
def _kept(row, weights, column, columns, stride, least, min_p):
    """The weights of tokens whose key is at least `least` and whose weight is at least min_p, else 0."""
    inside = column < columns
    x = tl.load(row + column.to(tl.int64) * stride, inside, other=0.0)
    weight = tl.load(weights + column, inside, other=0.0)
    return tl.where((_keys(x) >= least) & (weight >= min_p), weight, 0.0)


@triton.jit
def sample_kernel(
    logits, weights, temperature, top_k, top_p, min_p, number, drawn, columns, row_stride, stride,
    BLOCK: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0).to(tl.int64)
    row = logits + index * row_stride
    weights += index * columns
    best, at, nan = _largest(row, columns, stride, BLOCK)
    heat = tl.load(temperature + index)
    if nan | (best == float("inf")) | (best == float("-inf")):
        tl.store(drawn + index, columns.to(tl.int64))
        return
    if heat == 0:
        tl.store(drawn + index, at.to(tl.int64))
        return

    lane = tl.arange(0, BLOCK)
    top = _keys(best)
    least = tl.full([], -(2**31), tl.int64)
    wanted = tl.load(top_k + index)
    if (wanted > 0) & (wanted < columns):
        least = _kth_key(row, columns, stride, wanted, top, BLOCK)
    whole = _write_weights(row, weights, columns, stride, best, heat, least, BLOCK)
    tl.debug_barrier()  # the weights that a thread reads from here on may be another's
    share = tl.load(top_p + index)
    if share < 1:
        least = _nucleus_key(row, weights, columns, stride, share * whole, least, top, BLOCK)

    smallest = tl.load(min_p + index)
    total = tl.zeros([], tl.float64)
    for first in range(0, columns, BLOCK):
        total += tl.sum(_kept(row, weights, first + lane, columns, stride, least, smallest), axis=0)
    below = (total.to(tl.int64, bitcast=True) - 1).to(tl.float64, bitcast=True)  # the next smaller float
    goal = tl.minimum(tl.load(number + index) * total, below)
    passed = tl.zeros([], tl.float64)
    token = tl.full([], -1, tl.int32)
    for first in range(0, columns, BLOCK):
        kept = _kept(row, weights, first + lane, columns, stride, least, smallest)
        after = passed + tl.sum(kept, axis=0)
        if (token < 0) & (after > goal):
            mass = passed + tl.cumsum(kept, axis=0)
            last = tl.max(tl.where(kept > 0, first + lane, -1), axis=0)  # where the scan's rounding ends at the goal
            token = tl.minimum(tl.min(tl.where((mass > goal) & (kept > 0), first + lane, columns), axis=0), last)
        passed = after
    tl.store(drawn + index, token.to(tl.int64))


def forward(logits, temperature, top_k, top_p, min_p, number):
    """tokens (R,) int64 of logits (R, V) fp32 and settings (R,), as ops/sample_tokens.py describes them."""
    rows, columns = logits.shape
    tokens = torch.empty(rows, dtype=torch.int64, device=logits.device)
    if rows == 0:
        return tokens
    weights = torch.empty(rows, columns, dtype=torch.float64, device=logits.device)
    settings = [x.contiguous() for x in (temperature, top_k, top_p, min_p, number)]
    sample_kernel[(rows,)](
        logits, weights, *settings, tokens, columns, *logits.stride(),
        BLOCK=min(BLOCK, triton.next_power_of_2(columns)), num_warps=16,
    )  # fmt: skip
    return tokens
