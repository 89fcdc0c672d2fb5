"""Triton twin of sample_tokens: a token for each row of logits, by the row's own settings, without waiting for the GPU.

    forward(logits, temperature, top_k, top_p, min_p, number) -> tokens

R rows, V vocabulary. A program does one row. Its thresholds are found by halving a range of keys, integers that rise as
the floats whose bits they are: for top-k by counting the logits that reach the middle, for top-p by adding the weights
above it. So equal logits are kept or dropped together. A search ends early where the next logit decides, and a filter
that is off costs nothing. Then the tokens kept are added up in the order of their ids until they pass the number.
Weights and sums are in fp64.

Bound: each halving, of which there are at most 32, reads the row's logits from cache; with top-p also those weights
that count, from a workspace of 8·R·V bytes. Versions: (1) keys of all logits compared as integers; (2) this one, the
middle compared as a float, weights read only above it, early ends. It has not run on a GPU yet; it is interpreted and
compiled in tests/kernels.
"""

import torch
import triton
import triton.language as tl

BLOCK = 2048  # logits of a row at once
LEAST_KEY = tl.constexpr(-(2**31) + 2**23 - 1)  # of -inf


@triton.jit
def _key(x):
    """int64, which rises as x does."""
    bits = x.to(tl.int32, bitcast=True)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.int64)


@triton.jit
def _value(key):
    """The float whose key it is."""
    bits = key.to(tl.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


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
def _kth(row, columns, stride, wanted, best, BLOCK: tl.constexpr):
    """A value that exactly the `wanted` largest logits, and what equals the last of them, reach."""
    lane = tl.arange(0, BLOCK)
    low = tl.full([], LEAST_KEY, tl.int64)  # reached by at least `wanted`
    high = _key(best) + 1  # reached by fewer
    while high - low > 1:
        middle = low + (high - low) // 2
        value = _value(middle)
        count = tl.zeros([BLOCK], tl.int32)
        for first in range(0, columns, BLOCK):
            column = first + lane
            x = tl.load(row + column.to(tl.int64) * stride, column < columns, other=float("-inf"))
            count += (x >= value).to(tl.int32)  # the middle is above -inf
        reached = tl.sum(count, axis=0).to(tl.int64)
        low = tl.where(reached >= wanted, middle, low)
        high = tl.where(reached > wanted, high, tl.where(reached == wanted, middle + 1, middle))
    return _value(low)


@triton.jit
def _write_weights(row, weights, columns, stride, best, heat, least, BLOCK: tl.constexpr):
    """exp((logit - best) / heat), 0 for logits below `least`, into `weights`. Their sum."""
    lane = tl.arange(0, BLOCK)
    whole = tl.zeros([BLOCK], tl.float64)
    for first in range(0, columns, BLOCK):
        column = first + lane
        inside = column < columns
        x = tl.load(row + column.to(tl.int64) * stride, inside, other=float("-inf"))
        weight = tl.exp((x.to(tl.float64) - best.to(tl.float64)) / heat)
        weight = tl.where(inside & (x >= least), weight, 0.0)
        tl.store(weights + column, weight, inside)
        whole += weight
    return tl.sum(whole, axis=0)


@triton.jit
def _nucleus(row, weights, columns, stride, goal, least, best, BLOCK: tl.constexpr):
    """A value that the tokens of top-p are above, and no others: above each of them there is less weight than `goal`.

    From `least` on there is as much.
    """
    lane = tl.arange(0, BLOCK)
    low = tl.maximum(_key(least) - 1, LEAST_KEY)  # above it there is as much as `goal`
    low = tl.where(low == -1, -2, low)  # not between the zeros, which are one value
    high = _key(best)  # above it there is less
    above_low = tl.zeros([], tl.int32) + columns  # logits, or more than there are
    above_high = tl.zeros([], tl.int32)
    while high - low > 1:
        middle = low + (high - low) // 2
        value = _value(middle)
        count = tl.zeros([BLOCK], tl.int32)
        mass = tl.zeros([BLOCK], tl.float64)
        for first in range(0, columns, BLOCK):
            column = first + lane
            x = tl.load(row + column.to(tl.int64) * stride, column < columns, other=float("-inf"))
            above = x > value
            count += above.to(tl.int32)
            mass += tl.load(weights + column, above, other=0.0)
        counted = tl.sum(count, axis=0)
        less = tl.sum(mass, axis=0) < goal
        above_high = tl.where(less, counted, above_high)
        above_low = tl.where(less, above_low, counted)
        low = tl.where(less, low, middle)
        high = tl.where(less, middle, high)
        high = tl.where(above_low - above_high == 1, low + 1, high)  # the one logit between them is the last one kept
    return _value(low)


@triton.jit
def _kept(row, weights, column, columns, stride, least, beyond, min_p):
    """The weights of tokens that no filter drops, else 0."""
    x = tl.load(row + column.to(tl.int64) * stride, column < columns, other=float("-inf"))
    weight = tl.load(weights + column, (column < columns) & (x >= least) & (x > beyond), other=0.0)
    return tl.where(weight >= min_p, weight, 0.0)


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
        tl.store(drawn + index, tl.zeros([], tl.int64) + columns)
        return
    if heat == 0:
        tl.store(drawn + index, at.to(tl.int64))
        return

    lane = tl.arange(0, BLOCK)
    least = tl.full([], float("-inf"), tl.float32)
    wanted = tl.load(top_k + index)
    if (wanted > 0) & (wanted < columns):
        least = _kth(row, columns, stride, wanted, best, BLOCK)
    whole = _write_weights(row, weights, columns, stride, best, heat, least, BLOCK)
    tl.debug_barrier()  # the weights that a thread reads from here on may be another's
    share = tl.load(top_p + index)
    beyond = tl.full([], float("-inf"), tl.float32)
    if share < 1:
        beyond = _nucleus(row, weights, columns, stride, share * whole, least, best, BLOCK)

    smallest = tl.load(min_p + index)
    total = tl.zeros([], tl.float64)
    for first in range(0, columns, BLOCK):
        total += tl.sum(_kept(row, weights, first + lane, columns, stride, least, beyond, smallest), axis=0)
    below = (total.to(tl.int64, bitcast=True) - 1).to(tl.float64, bitcast=True)  # the next smaller float
    goal = tl.minimum(tl.load(number + index) * total, below)
    passed = tl.zeros([], tl.float64)
    token = tl.full([], -1, tl.int32)
    for first in range(0, columns, BLOCK):
        kept = _kept(row, weights, first + lane, columns, stride, least, beyond, smallest)
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
