"""Triton twin of linear_softcap_cross_entropy.

    losses(x, weight, targets, softcap, ignore_index) -> losses (N,) fp32: logits stay in registers, tile by tile
    rows(products, targets, token_scale, losses, softcap, ignore_index): in place over a chunk's products x Wᵀ

N tokens, C channels, V rows of the head (weight without padding rows). `losses` runs the vocabulary in tiles with an
online softmax and splits it over programs where tokens are few. `rows` is softcap, softmax, cross-entropy and
gradient in two passes over a chunk of products that torch's matrix product made; the gradient's are torch's again
(pynanochat/ops/linear_softcap_cross_entropy_gpu.py runs the chunks). A target outside the vocabulary gives NaN.
"""

import torch
import triton
import triton.language as tl

from pynanochat.kernels import stored_dtype
from pynanochat.kernels.tiles import choose, short

ROW_BLOCK = 2048  # columns of a row at once
PROGRAMS = 264  # wanted at least: two for every multiprocessor of an H100


@triton.jit
def _tanh(x):
    """tanh to 2e-7 relative: through exp, and below 0.63, where that cancels, by a polynomial (Chebyshev fit)."""
    z = x * x
    r = -0.33333328612 + z * (0.13332732850 + z * (-0.05384499430 + z * (0.02096820472 + z * -0.00605371711)))
    return tl.where(z < 0.4, x + x * z * r, 1 - 2 / (1 + tl.exp(2 * x)))


@triton.jit
def _tanh_slope(x):
    """1 - tanh², which would cancel where tanh is near 1."""
    e = tl.exp(-2 * tl.abs(x))
    return 4 * e / ((1 + e) * (1 + e))


@triton.jit
def rows_kernel(
    products, targets, token_scale, losses, columns, softcap, ignore_index, row_stride, target_stride, scale_stride,
    BLOCK: tl.constexpr, GRADIENT: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    z = products + row * row_stride
    target = tl.load(targets + row * target_stride)
    kept = target != ignore_index
    lane = tl.arange(0, BLOCK)
    if kept:
        valid = (target >= 0) & (target < columns)
        picked = softcap * _tanh(tl.load(z + target, valid, other=0.0).to(tl.float32) / softcap)
        picked = tl.where(valid, picked, float("nan"))
        top = tl.full([BLOCK], -softcap, tl.float32)  # no logit is below
        total = tl.zeros([BLOCK], tl.float32)
        for first in range(0, columns, BLOCK):
            inside = first + lane < columns
            logit = softcap * _tanh(tl.load(z + first + lane, inside, other=0.0).to(tl.float32) / softcap)
            higher = tl.where(inside, tl.maximum(top, logit), top)
            total = total * tl.exp(top - higher) + tl.where(inside, tl.exp(logit - higher), 0.0)
            top = higher
        highest = tl.max(top, axis=0)
        lse = highest + tl.log(tl.sum(total * tl.exp(top - highest), axis=0))
        tl.store(losses + row, lse - picked)
        if GRADIENT:
            scale = tl.where(valid, tl.load(token_scale + row * scale_stride), float("nan"))
            tl.debug_barrier()  # `picked` is read by every thread before any thread overwrites it
            for first in range(0, columns, BLOCK):
                inside = first + lane < columns
                bent = tl.load(z + first + lane, inside, other=0.0).to(tl.float32) / softcap
                p = tl.exp(softcap * _tanh(bent) - lse) - tl.where(first + lane == target, 1.0, 0.0)
                dz = scale * p * _tanh_slope(bent)
                tl.store(z + first + lane, dz.to(products.dtype.element_ty), inside)
    else:
        tl.store(losses + row, 0.0)
        if GRADIENT:
            for first in range(0, columns, BLOCK):
                zeros = tl.zeros([BLOCK], tl.float32).to(products.dtype.element_ty)
                tl.store(z + first + lane, zeros, first + lane < columns)


def rows(products, targets, token_scale, losses, softcap, ignore_index):
    """Fill losses (n,) from products (n, V); with token_scale (n,) turn products into their gradient."""
    count, columns = products.shape
    if count == 0:
        return
    given, products = products, products.to(stored_dtype(products.dtype))
    gradient = token_scale is not None
    scale = token_scale if gradient else losses
    rows_kernel[(count,)](
        products, targets, scale, losses, columns, softcap, ignore_index,
        products.stride(0), targets.stride(0), scale.stride(0),
        BLOCK=min(ROW_BLOCK, triton.next_power_of_2(columns)), GRADIENT=gradient, num_warps=8,
    )  # fmt: skip
    if gradient and given is not products:
        given.copy_(products)


@triton.jit
def losses_kernel(
    x, weight, targets, partial, picked, tokens, channels, columns, columns_each, softcap,
    x0, x1, w0, w1, target_stride,
    TOKENS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    part = tl.program_id(1)
    present = token < tokens
    target = tl.load(targets + token.to(tl.int64) * target_stride, present, other=-1)
    x_row = x + token.to(tl.int64)[:, None] * x0
    top = tl.full([TOKENS], -softcap, tl.float32)
    total = tl.zeros([TOKENS], tl.float32)
    hit = tl.zeros([TOKENS], tl.float32)
    begin = part * columns_each
    end = tl.minimum(begin + columns_each, columns)
    for first in range(begin, end, COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        inside = column < end
        w_row = weight + column.to(tl.int64)[:, None] * w0
        product = tl.zeros([TOKENS, COLUMNS], tl.float32)
        for c in range(0, channels, CHANNELS):
            channel = c + tl.arange(0, CHANNELS)[None, :]
            xs = tl.load(x_row + channel * x1, present[:, None] & (channel < channels), other=0.0)
            ws = tl.load(w_row + channel * w1, inside[:, None] & (channel < channels), other=0.0)
            product = tl.dot(xs, tl.trans(ws), product, input_precision=PRECISION)
        logit = softcap * _tanh(product / softcap)
        hit += tl.sum(tl.where((column[None, :] == target[:, None]) & inside[None, :], logit, 0.0), axis=1)
        higher = tl.maximum(top, tl.max(tl.where(inside[None, :], logit, -softcap), axis=1))
        grown = tl.sum(tl.where(inside[None, :], tl.exp(logit - higher[:, None]), 0.0), axis=1)
        total = total * tl.exp(top - higher) + grown
        top = higher
    tl.store(partial + part.to(tl.int64) * tokens + token, top + tl.log(total), present)
    mine = present & (target >= begin) & (target < end)
    tl.store(picked + token, hit, mine)


# TOKENS, COLUMNS, CHANNELS, warps, stages; the first, which spills no register, is run where none was measured
TILES = ((128, 64, 64, 8, 3), (128, 128, 64, 8, 3), (64, 128, 64, 4, 3), (128, 64, 64, 4, 4))


def tiles(dtype, device) -> dict:
    """The constants of losses_kernel for x of `dtype`."""
    if dtype == torch.float32:
        return {"TOKENS": 64, "COLUMNS": 64, "CHANNELS": 16, "PRECISION": "ieee", "num_warps": 8, "num_stages": 3}
    names = ("TOKENS", "COLUMNS", "CHANNELS", "num_warps", "num_stages")
    candidates = [dict(zip(names, c, strict=True)) for c in TILES]
    return {**choose(f"losses {short(dtype)}", candidates, device), "PRECISION": "tf32"}


def losses(x, weight, targets, softcap, ignore_index):
    """losses (N,) fp32 of x (N, C) and weight (V, C), both of one dtype; 0 where a target is ignore_index."""
    tokens, channels = x.shape
    columns = weight.size(0)
    x, weight = x.to(stored_dtype(x.dtype)), weight.to(stored_dtype(x.dtype))  # the interpreter multiplies no bf16
    if tokens == 0:
        return torch.empty(0, dtype=torch.float32, device=x.device)
    tile = tiles(x.dtype, x.device)
    token_blocks = triton.cdiv(tokens, tile["TOKENS"])
    column_blocks = triton.cdiv(columns, tile["COLUMNS"])
    each = triton.cdiv(column_blocks, min(column_blocks, triton.cdiv(PROGRAMS, token_blocks))) * tile["COLUMNS"]
    parts = triton.cdiv(columns, each)
    partial = torch.empty(parts, tokens, dtype=torch.float32, device=x.device)
    picked = torch.full((tokens,), float("nan"), device=x.device)
    losses_kernel[(token_blocks, parts)](
        x, weight, targets, partial, picked, tokens, channels, columns, each, softcap,
        *x.stride(), *weight.stride(), targets.stride(0),
        **tile,
    )  # fmt: skip
    return torch.where(targets == ignore_index, 0.0, partial.logsumexp(dim=0) - picked)
