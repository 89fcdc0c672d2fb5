"""Triton twin of smear: y[t] = x[t] + λ·σ(w·x[t, :K])·x[t-1].

    forward(x, weight, scale, previous) -> y
    backward(dy, x, weight, scale, previous) -> dx, dweight, dscale, dprevious (empty where previous is None)

x, dy (B, T, C), weight (1, K), scale (1,), previous (B, C) or None; any strides, results contiguous. A row is
one (b, t) of R = B·T. Sums and gates in fp32. With s = σ(w·x[t, :K]) and the dot d = dy[t]·x[t-1],
    dx[t] = dy[t] + λ·s[t+1]·dy[t+1], and on the first K channels + λ·s·(1 - s)·d·w.
Bound by memory: x is read and y written once; backward reads dy and x, writes dx (a row's neighbour comes from the
cache). The gradients of weight and scale are sums over rows of two numbers a row, which torch does in a fixed order.
Interpreted and compiled so far; it has not run on a GPU yet.
"""

import torch
import triton
import triton.language as tl

from pynanochat.kernels import stored_dtype

TILE = 2048  # elements that a program holds of each array


@triton.jit
def _sigmoid(x, weight, row_at, present, channels, x2, w1, CHANNELS: tl.constexpr):
    channel = tl.arange(0, CHANNELS)[None, :].to(tl.int64)
    inside = present & (channel < channels)
    some = tl.load(x + row_at + channel * x2, inside, other=0.0).to(tl.float32)
    w = tl.load(weight + channel * w1, channel < channels, other=0.0).to(tl.float32)
    return 1.0 / (1.0 + tl.exp(-tl.sum(some * w, axis=1)[:, None]))


@triton.jit
def _before(x, previous, b, t, column, inside, x0, x1, x2, p0, p1, PREVIOUS: tl.constexpr):
    value = tl.load(x + b * x0 + (t - 1) * x1 + column * x2, inside & (t > 0), other=0.0).to(tl.float32)
    if PREVIOUS:
        value += tl.load(previous + b * p0 + column * p1, inside & (t == 0), other=0.0).to(tl.float32)
    return value


@triton.jit
def forward_kernel(
    x, weight, scales, previous, out, rows, positions, columns, channels, x0, x1, x2, w1, p0, p1,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr, PREVIOUS: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    b = row // positions
    t = row % positions
    column = (tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS))[None, :].to(tl.int64)
    inside = (row < rows) & (column < columns)
    gate = tl.load(scales).to(tl.float32) * _sigmoid(x, weight, b * x0 + t * x1, row < rows, channels, x2, w1, CHANNELS)
    value = tl.load(x + b * x0 + t * x1 + column * x2, inside, other=0.0).to(tl.float32)
    value += gate * _before(x, previous, b, t, column, inside, x0, x1, x2, p0, p1, PREVIOUS)
    tl.store(out + row * columns + column, value.to(out.dtype.element_ty), inside)


@triton.jit
def _passed_on(grad, b, t, column, inside, next_gate, positions, g0, g1, g2):
    """dy[t] + gate[t+1]·dy[t+1]"""
    at = grad + b * g0 + t * g1 + column * g2
    after = tl.load(at + g1, inside & (t + 1 < positions), other=0.0).to(tl.float32)
    return tl.load(at, inside, other=0.0).to(tl.float32) + next_gate * after


@triton.jit
def backward_kernel(
    grad, x, weight, scales, previous, dx, dprevious, slopes, shares, rows, positions, columns, channels,
    g0, g1, g2, x0, x1, x2, w1, p0, p1,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr, PREVIOUS: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    b = row // positions
    t = row % positions
    present = row < rows
    lane = tl.arange(0, COLUMNS)[None, :].to(tl.int64)
    factor = tl.load(scales).to(tl.float32)
    s = _sigmoid(x, weight, b * x0 + t * x1, present, channels, x2, w1, CHANNELS)
    follows = present & (t + 1 < positions)
    next_gate = factor * _sigmoid(x, weight, b * x0 + (t + 1) * x1, follows, channels, x2, w1, CHANNELS)
    dots = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in range(0, columns, COLUMNS):
        column = first + lane
        inside = present & (column < columns)
        g = tl.load(grad + b * g0 + t * g1 + column * g2, inside, other=0.0).to(tl.float32)
        dots += g * _before(x, previous, b, t, column, inside, x0, x1, x2, p0, p1, PREVIOUS)
        passed = _passed_on(grad, b, t, column, inside, next_gate, positions, g0, g1, g2)
        tl.store(dx + row * columns + column, passed.to(dx.dtype.element_ty), inside & (column >= channels))
        if PREVIOUS:
            tl.store(dprevious + b * columns + column, (factor * s * g).to(dx.dtype.element_ty), inside & (t == 0))
    dot = tl.sum(dots, axis=1)[:, None]
    slope = factor * s * (1.0 - s) * dot
    tl.store(slopes + row, slope, present)
    tl.store(shares + row, s * dot, present)
    channel = tl.arange(0, CHANNELS)[None, :].to(tl.int64)  # the gate's channels, which had to wait for the dot
    inside = present & (channel < channels)
    passed = _passed_on(grad, b, t, channel, inside, next_gate, positions, g0, g1, g2)
    passed += slope * tl.load(weight + channel * w1, channel < channels, other=0.0).to(tl.float32)
    tl.store(dx + row * columns + channel, passed.to(dx.dtype.element_ty), inside)


def tile(columns: int, channels: int) -> dict:
    """The constants of both kernels for rows of `columns` whose gate reads `channels`."""
    width = min(triton.next_power_of_2(columns), TILE)
    return {"ROWS": TILE // width, "COLUMNS": width, "CHANNELS": triton.next_power_of_2(channels)}


def forward(x, weight, scale, previous):
    """x (B, T, C) with a gated share of the position before added to each."""
    out = torch.empty(x.shape, dtype=stored_dtype(x.dtype), device=x.device)
    batch, positions, columns = x.shape
    before = x[:, 0] if previous is None and positions else previous
    if out.numel():
        constants = tile(columns, weight.size(1))
        rows = batch * positions
        forward_kernel[(triton.cdiv(rows, constants["ROWS"]), triton.cdiv(columns, constants["COLUMNS"]))](
            x, weight, scale, before, out, rows, positions, columns, weight.size(1),
            *x.stride(), weight.stride(1), *before.stride(),
            **constants, PREVIOUS=previous is not None, num_warps=4,
        )  # fmt: skip
    return out.to(x.dtype)


def backward(dy, x, weight, scale, previous):
    """The gradients of x, weight, scale and previous from that of forward's result."""
    batch, positions, columns = x.shape
    stored = {"dtype": stored_dtype(x.dtype), "device": x.device}
    dx = torch.empty(x.shape, **stored)
    dprevious = torch.empty((0,) if previous is None else previous.shape, **stored)
    slopes, shares = torch.empty(2, batch * positions, dtype=torch.float32, device=x.device)
    if dx.numel():
        constants = tile(columns, weight.size(1))
        before = x[:, 0] if previous is None else previous
        backward_kernel[(triton.cdiv(batch * positions, constants["ROWS"]),)](
            dy, x, weight, scale, before, dx, dprevious, slopes, shares,
            batch * positions, positions, columns, weight.size(1),
            *dy.stride(), *x.stride(), weight.stride(1), *before.stride(),
            **constants, PREVIOUS=previous is not None, num_warps=4,
        )  # fmt: skip
    dweight = slopes[None] @ x[..., : weight.size(1)].reshape(-1, weight.size(1)).float()
    dscale = shares.sum().view(1)
    return dx.to(x.dtype), dweight.to(weight.dtype), dscale.to(scale.dtype), dprevious.to(x.dtype)
