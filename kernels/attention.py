"""Triton twin of attention: causal softmax attention with a window and grouped queries, forward and backward.

    forward(q, k, v, window) -> out (B, T, H, D), lse (B, H, T) fp32
    backward(dout, q, k, v, out, lse, window) -> dq, dk, dv

q (B, T, H, D), k and v (B, T, G, D), any strides; H a multiple of G; D from 1 to 256, padded in registers to HEAD, the
next power of two from 16 up. Query i sees keys j with i - window <= j <= i; window < 0 means all of the past.

A program of the forward and of dq holds a tile of QUERIES rows of one head and walks the tiles of KEYS rows that its
rows see; a program of dk and dv holds a tile of keys and walks the queries that see it, of all heads of its group, so
no sum needs atomics and every run gives the same bits. Tiles that are seen whole take no mask. Exponentials are of
base 2: scores are scaled by log2(e)/sqrt(D).

Bound: the product rate. Forward 4 D operations for each visible pair and query head, backward 14 D, of which 4 D are
scores and dP computed a second time, for dq: the price of a deterministic dq.

Ladder: tiles skipped by window and causality; masks on the tiles at an edge only; programs with most tiles first,
within groups of heads whose keys and values stay in L2 together; tiles by dtype, head and architecture.
Compiled for sm_90 (wgmma) with head 128 in bf16: 230 registers forward, 242 dk and dv, 168 dq; no tile that
comes first in the tables below spills on sm_80 or sm_90. Tested in the interpreter; it has not run on a GPU yet.
"""

import math

import torch
import triton
import triton.language as tl

from pynanochat import kernels
from pynanochat.kernels import stored_dtype
from pynanochat.kernels.tiles import choose, short

L2_SHARE = 16 * 2**20  # bytes of keys and values (or queries and their gradients) that programs of one time share
SIZES = ("all_heads", "all_groups", "heads", "groups", "positions", "window", "heads_at_once")  # one program for all
LOG2_E = tl.constexpr(math.log2(math.e))
UNSEEN = tl.constexpr(-1e30)  # the maximum of no score: finite, so that nothing subtracts infinities


@triton.jit
def _turn(tiles, heads, heads_at_once):
    """Which tile (in order of work, most first) and which of all batches' heads is this program's."""
    program = tl.program_id(0)
    section = program // (tiles * heads_at_once)
    first = section * heads_at_once
    width = tl.minimum(heads_at_once, heads - first)
    rest = program - first * tiles
    return rest // width, first + rest % width


@triton.jit
def _load(at, first, row_stride, channel_stride, rows, ROWS: tl.constexpr, D: tl.constexpr, HEAD: tl.constexpr):
    """Rows first to first + ROWS of one head, (ROWS, HEAD); the last one again and again beyond it, zeros beyond D."""
    row = tl.minimum(first + tl.arange(0, ROWS), rows - 1)[:, None].to(tl.int64)
    channel = tl.arange(0, HEAD)[None, :].to(tl.int64)
    places = at + row * row_stride + channel * channel_stride
    return tl.load(places, channel < D, other=0.0) if D < HEAD else tl.load(places)


@triton.jit
def _store(x, at, first, row_stride, rows, ROWS: tl.constexpr, D: tl.constexpr, HEAD: tl.constexpr):
    """_load's opposite; channels lie side by side."""
    row = first + tl.arange(0, ROWS)[:, None]
    channel = tl.arange(0, HEAD)[None, :]
    tl.store(at + row.to(tl.int64) * row_stride + channel, x.to(at.dtype.element_ty), (row < rows) & (channel < D))


@triton.jit
def _key_tiles(first, positions, window, QUERIES: tl.constexpr, KEYS: tl.constexpr):
    """The tiles of keys that queries from `first` on see: begin to end; all of them see inner to outer whole."""
    last = first + QUERIES - 1
    begin = tl.maximum(first - window, 0) // KEYS
    end = tl.cdiv(tl.minimum(last + 1, positions), KEYS)
    inner = tl.minimum(tl.cdiv(tl.maximum(last - window, 0), KEYS), end)
    outer = tl.maximum((first + 1) // KEYS, inner)
    return begin, inner, outer, end


@triton.jit
def _query_tiles(first, positions, window, QUERIES: tl.constexpr, KEYS: tl.constexpr):
    """The tiles of queries that see keys from `first` on: begin to end; those from inner to outer see all of them."""
    last = first + KEYS - 1
    begin = first // QUERIES
    end = tl.cdiv(tl.minimum(last + window + 1, positions), QUERIES)
    inner = tl.minimum(tl.cdiv(last, QUERIES), end)
    outer = tl.maximum(tl.minimum(first + window + 1, positions) // QUERIES, inner)
    return begin, inner, outer, end


@triton.jit
def _visible(query, key, window):
    return (query >= key) & (query - key <= window)


@triton.jit
def _scores(queries, keys):
    """(QUERIES, KEYS). In fp32, without tensor cores, the right side takes fewer registers: what stays is put there."""
    if queries.dtype == tl.float32:
        product = tl.trans(tl.dot(keys, tl.trans(queries), input_precision="ieee"))
    else:
        product = tl.dot(queries, tl.trans(keys))
    return product


@triton.jit
def _attend(
    queries, k, v, first_key, query, edge, acc, top, total, positions, window, factor,
    k_row, k_channel, v_row, v_channel,
    KEYS: tl.constexpr, D: tl.constexpr, HEAD: tl.constexpr,
):  # fmt: skip
    """One tile of keys more: acc (QUERIES, HEAD) and total of exp2(score - top), over all keys so far."""
    keys = _load(k, first_key, k_row, k_channel, positions, KEYS, D, HEAD)
    score = _scores(queries, keys)
    if edge:
        key = first_key + tl.arange(0, KEYS)
        score = tl.where(_visible(query[:, None], key[None, :], window), score, float("-inf"))
    higher = tl.maximum(top, tl.max(score, axis=1) * factor)
    p = tl.exp2(score * factor - higher[:, None])
    shrink = tl.exp2(top - higher)
    total = total * shrink + tl.sum(p, axis=1)
    values = _load(v, first_key, v_row, v_channel, positions, KEYS, D, HEAD)
    acc = tl.dot(p.to(values.dtype), values, acc * shrink[:, None], input_precision="ieee")
    return acc, higher, total


@triton.jit(do_not_specialize=SIZES)
def forward_kernel(
    q, k, v, out, lse, all_heads, heads, group, positions, window, factor, heads_at_once,
    q_batch, q_row, q_head, q_channel, k_batch, k_row, k_head, k_channel, v_batch, v_row, v_head, v_channel,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, D: tl.constexpr, HEAD: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(positions, QUERIES)
    turn, which = _turn(tiles, all_heads, heads_at_once)
    first = (tiles - 1 - turn) * QUERIES
    b = (which // heads).to(tl.int64)
    h = which % heads
    g = (h // group).to(tl.int64)
    k += b * k_batch + g * k_head
    v += b * v_batch + g * v_head
    queries = _load(q + b * q_batch + h.to(tl.int64) * q_head, first, q_row, q_channel, positions, QUERIES, D, HEAD)
    query = first + tl.arange(0, QUERIES)
    acc = tl.zeros([QUERIES, HEAD], tl.float32)
    top = tl.full([QUERIES], UNSEEN, tl.float32)
    total = tl.zeros([QUERIES], tl.float32)
    begin, inner, outer, end = _key_tiles(first, positions, window, QUERIES, KEYS)
    for tile in range(begin, end):
        edge = (tile < inner) | (tile >= outer)
        acc, top, total = _attend(
            queries, k, v, tile * KEYS, query, edge, acc, top, total, positions, window, factor,
            k_row, k_channel, v_row, v_channel, KEYS, D, HEAD,
        )  # fmt: skip
    row = heads * D
    _store(acc / total[:, None], out + b * positions * row + h * D, first, row, positions, QUERIES, D, HEAD)
    at = lse + which.to(tl.int64) * positions + query
    tl.store(at, (top + tl.log2(total)) / LOG2_E, query < positions)


@triton.jit(do_not_specialize=SIZES)
def delta_kernel(
    dout, out, delta, heads, positions,
    dout_batch, dout_row, dout_head, dout_channel, out_batch, out_row, out_head, out_channel,
    QUERIES: tl.constexpr, D: tl.constexpr, HEAD: tl.constexpr,
):  # fmt: skip
    """delta (B, H, T): each row's sum of dout * out, which is what the softmax's gradient subtracts."""
    tiles = tl.cdiv(positions, QUERIES)
    first = tl.program_id(0) % tiles * QUERIES
    which = tl.program_id(0) // tiles
    b = (which // heads).to(tl.int64)
    h = (which % heads).to(tl.int64)
    x = _load(dout + b * dout_batch + h * dout_head, first, dout_row, dout_channel, positions, QUERIES, D, HEAD)
    y = _load(out + b * out_batch + h * out_head, first, out_row, out_channel, positions, QUERIES, D, HEAD)
    total = tl.sum(x.to(tl.float32) * y.to(tl.float32), axis=1)
    query = first + tl.arange(0, QUERIES)
    tl.store(delta + which.to(tl.int64) * positions + query, total, query < positions)


@triton.jit
def _dkdv_step(
    keys, values, q, dout, lse, delta, first_query, key, edge, dk, dv, positions, window, factor,
    q_row, q_channel, dout_row, dout_channel,
    QUERIES: tl.constexpr, D: tl.constexpr, HEAD: tl.constexpr,
):  # fmt: skip
    """One tile of queries more, in dk and dv (KEYS, HEAD); scores lie transposed, (KEYS, QUERIES)."""
    query = first_query + tl.arange(0, QUERIES)
    queries = _load(q, first_query, q_row, q_channel, positions, QUERIES, D, HEAD)
    score = tl.dot(keys, tl.trans(queries), input_precision="ieee")
    row_lse = tl.load(lse + query, query < positions, other=float("inf"))
    p = tl.exp2(score * factor - (row_lse * LOG2_E)[None, :])
    if edge:
        p = tl.where(_visible(query[None, :], key[:, None], window), p, 0.0)
    douts = _load(dout, first_query, dout_row, dout_channel, positions, QUERIES, D, HEAD)
    dv = tl.dot(p.to(douts.dtype), douts, dv, input_precision="ieee")
    dp = tl.dot(values, tl.trans(douts), input_precision="ieee")
    row_delta = tl.load(delta + query, query < positions, other=0.0)
    ds = p * (dp - row_delta[None, :])
    dk = tl.dot(ds.to(queries.dtype), queries, dk, input_precision="ieee")
    return dk, dv


@triton.jit(do_not_specialize=SIZES)
def dkdv_kernel(
    dout, q, k, v, lse, delta, dk, dv, all_groups, groups, group, positions, window, factor, heads_at_once, scale,
    dout_batch, dout_row, dout_head, dout_channel, q_batch, q_row, q_head, q_channel,
    k_batch, k_row, k_head, k_channel, v_batch, v_row, v_head, v_channel,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, D: tl.constexpr, HEAD: tl.constexpr,
):  # fmt: skip
    turn, which = _turn(tl.cdiv(positions, KEYS), all_groups, heads_at_once)
    first = turn * KEYS
    b = (which // groups).to(tl.int64)
    g = (which % groups).to(tl.int64)
    keys = _load(k + b * k_batch + g * k_head, first, k_row, k_channel, positions, KEYS, D, HEAD)
    values = _load(v + b * v_batch + g * v_head, first, v_row, v_channel, positions, KEYS, D, HEAD)
    key = first + tl.arange(0, KEYS)
    sum_dk = tl.zeros([KEYS, HEAD], tl.float32)
    sum_dv = tl.zeros([KEYS, HEAD], tl.float32)
    begin, inner, outer, end = _query_tiles(first, positions, window, QUERIES, KEYS)
    count = end - begin
    # heads and tiles in one loop: two would spill, and the inner one's pipeline would empty at every head
    for step in range(0, group * count):
        h = g * group + step // count
        tile = begin + step % count
        edge = (tile < inner) | (tile >= outer)
        row_sums = (b * groups * group + h) * positions
        sum_dk, sum_dv = _dkdv_step(
            keys, values, q + b * q_batch + h * q_head, dout + b * dout_batch + h * dout_head,
            lse + row_sums, delta + row_sums, tile * QUERIES, key, edge, sum_dk, sum_dv, positions, window, factor,
            q_row, q_channel, dout_row, dout_channel, QUERIES, D, HEAD,
        )  # fmt: skip
    row = groups * D
    at = b * positions * row + g * D
    _store(sum_dk * scale, dk + at, first, row, positions, KEYS, D, HEAD)
    _store(sum_dv, dv + at, first, row, positions, KEYS, D, HEAD)


@triton.jit
def _dq_step(
    queries, douts, k, v, row_lse, row_delta, first_key, query, edge, dq, positions, window, factor,
    k_row, k_channel, v_row, v_channel,
    KEYS: tl.constexpr, D: tl.constexpr, HEAD: tl.constexpr,
):  # fmt: skip
    """One tile of keys more, in dq (QUERIES, HEAD)."""
    keys = _load(k, first_key, k_row, k_channel, positions, KEYS, D, HEAD)
    score = _scores(queries, keys)
    p = tl.exp2(score * factor - row_lse[:, None])
    if edge:
        key = first_key + tl.arange(0, KEYS)
        p = tl.where(_visible(query[:, None], key[None, :], window), p, 0.0)
    values = _load(v, first_key, v_row, v_channel, positions, KEYS, D, HEAD)
    dp = _scores(douts, values)
    ds = p * (dp - row_delta[:, None])
    return tl.dot(ds.to(keys.dtype), keys, dq, input_precision="ieee")


@triton.jit(do_not_specialize=SIZES)
def dq_kernel(
    dout, q, k, v, lse, delta, dq, all_heads, heads, group, positions, window, factor, heads_at_once, scale,
    dout_batch, dout_row, dout_head, dout_channel, q_batch, q_row, q_head, q_channel,
    k_batch, k_row, k_head, k_channel, v_batch, v_row, v_head, v_channel,
    QUERIES: tl.constexpr, KEYS: tl.constexpr, D: tl.constexpr, HEAD: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(positions, QUERIES)
    turn, which = _turn(tiles, all_heads, heads_at_once)
    first = (tiles - 1 - turn) * QUERIES
    b = (which // heads).to(tl.int64)
    h = (which % heads).to(tl.int64)
    g = h // group
    k += b * k_batch + g * k_head
    v += b * v_batch + g * v_head
    queries = _load(q + b * q_batch + h * q_head, first, q_row, q_channel, positions, QUERIES, D, HEAD)
    douts = _load(dout + b * dout_batch + h * dout_head, first, dout_row, dout_channel, positions, QUERIES, D, HEAD)
    query = first + tl.arange(0, QUERIES)
    row_sums = which.to(tl.int64) * positions + query
    row_lse = tl.load(lse + row_sums, query < positions, other=float("inf")) * LOG2_E
    row_delta = tl.load(delta + row_sums, query < positions, other=0.0)
    total = tl.zeros([QUERIES, HEAD], tl.float32)
    begin, inner, outer, end = _key_tiles(first, positions, window, QUERIES, KEYS)
    for tile in range(begin, end):
        edge = (tile < inner) | (tile >= outer)
        total = _dq_step(
            queries, douts, k, v, row_lse, row_delta, tile * KEYS, query, edge, total, positions, window, factor,
            k_row, k_channel, v_row, v_channel, KEYS, D, HEAD,
        )  # fmt: skip
    row = heads * D
    _store(total * scale, dq + b * positions * row + h * D, first, row, positions, QUERIES, D, HEAD)


# kernel -> candidates of QUERIES, KEYS, warps, stages, by HEAD up to 64, 128, 256
WIDE = {  # bf16 and fp16, shared memory of 227 KiB: Hopper and the data centre's Blackwell
    "forward": (
        ((128, 128, 8, 3), (128, 64, 4, 3), (64, 128, 4, 3), (128, 128, 4, 3)),
        ((128, 128, 8, 2), (128, 64, 8, 3), (64, 64, 4, 3), (128, 64, 4, 2)),
        ((128, 64, 8, 2), (64, 64, 4, 2)),
    ),
    "dkdv": (
        ((64, 128, 8, 2), (128, 128, 8, 2), (64, 64, 4, 3), (128, 64, 8, 2)),
        ((64, 128, 8, 2), (32, 128, 8, 2), (64, 64, 8, 2), (64, 128, 8, 3)),
        ((32, 32, 4, 1), (32, 64, 8, 1)),
    ),
    "dq": (
        ((128, 64, 8, 2), (128, 128, 8, 2), (64, 64, 4, 3), (64, 128, 8, 2)),
        ((128, 64, 8, 2), (64, 128, 8, 2), (64, 64, 4, 2), (128, 64, 8, 3)),
        ((64, 32, 8, 1), (32, 32, 4, 1)),
    ),
}
NARROW = {  # bf16 and fp16, 99 KiB: every other card since Ampere
    "forward": (
        ((128, 64, 4, 3), (128, 32, 4, 3), (64, 64, 4, 3)),
        ((128, 64, 8, 2), (128, 32, 4, 3), (64, 64, 4, 2)),
        ((64, 32, 4, 2),),
    ),
    "dkdv": (
        ((32, 64, 4, 2), (64, 64, 4, 2), (32, 128, 8, 2)),
        ((32, 64, 4, 2), (32, 128, 8, 1), (64, 64, 8, 1)),
        ((32, 32, 8, 1),),
    ),
    "dq": (
        ((64, 64, 4, 2), (128, 32, 8, 2), (128, 64, 8, 2)),
        ((64, 64, 4, 2), (64, 32, 4, 2), (128, 32, 8, 2)),
        ((32, 32, 4, 1),),
    ),
}
SINGLE = {  # fp32 on any card
    "forward": (((64, 32, 8, 1),), ((32, 16, 8, 1),), ((32, 32, 8, 1),)),
    "dkdv": (((32, 32, 4, 1),), ((16, 32, 4, 1),), ((16, 16, 8, 1),)),
    "dq": (((32, 32, 4, 1),), ((32, 32, 8, 1),), ((16, 16, 8, 1),)),
}


def tiles(kernel: str, D: int, dtype: torch.dtype, device) -> dict:
    """The constants of a kernel: forward, dkdv or dq."""
    head = max(16, triton.next_power_of_2(D))
    wide = kernels.architecture(device) in kernels.LARGE_SHARED
    table = SINGLE if dtype == torch.float32 else WIDE if wide else NARROW
    candidates = table[kernel][0 if head <= 64 else 1 if head <= 128 else 2]
    names = ("QUERIES", "KEYS", "num_warps", "num_stages")
    tile = choose(
        f"attention.{kernel} {short(dtype)} {head}", [dict(zip(names, c, strict=True)) for c in candidates], device
    )
    return {**tile, "D": D, "HEAD": head}


def _verify(q, k, v):
    batch, positions, heads, D = q.shape
    groups = k.size(2)
    if heads < 1 or groups < 1 or heads % groups:
        raise ValueError(f"attention: {heads} query heads are no multiple of {groups} key/value heads")
    if k.shape != (batch, positions, groups, D) or v.shape != k.shape:
        raise ValueError(f"attention: k {tuple(k.shape)} and v {tuple(v.shape)} do not fit q {tuple(q.shape)}")
    if q.dtype not in (torch.float32, torch.bfloat16, torch.float16) or not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"attention: q, k, v must share float32, bfloat16 or float16: {q.dtype}, {k.dtype}, {v.dtype}")
    if not 1 <= D <= 256:
        raise ValueError(f"attention: the triton backend takes heads of 1 to 256 channels, not {D}")


def _plan(kernel, q, k, window):
    """Grid, scalar arguments and constants of a kernel; the programs of dkdv are by key heads."""
    batch, positions, heads, D = q.shape
    group = heads // k.size(2)
    constants = tiles(kernel, D, q.dtype, q.device)
    share = max(1, L2_SHARE // (2 * positions * D * q.element_size()))  # heads whose keys and values L2 holds
    if kernel == "dkdv":
        here, rows, at_once = heads // group, constants["KEYS"], max(1, share // group)
    else:
        here, rows, at_once = heads, constants["QUERIES"], share * group
    at_once = min(at_once, batch * here)
    window = positions if window < 0 else min(window, positions)
    factor = math.log2(math.e) / math.sqrt(D)
    grid = (batch * here * triton.cdiv(positions, rows),)
    return grid, (batch * here, here, group, positions, window, factor, at_once), constants


def forward(q, k, v, window):
    """out (B, T, H, D) of q's dtype and lse (B, H, T) fp32: the log of each row's sum of exp(scaled scores)."""
    _verify(q, k, v)
    dtype = q.dtype
    q, k, v = (x.to(stored_dtype(dtype)) for x in (q, k, v))  # the interpreter multiplies no bf16
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(q.size(0), q.size(2), q.size(1), dtype=torch.float32, device=q.device)
    if q.numel():
        grid, scalars, constants = _plan("forward", q, k, window)
        forward_kernel[grid](q, k, v, out, lse, *scalars, *q.stride(), *k.stride(), *v.stride(), **constants)
    return out.to(dtype), lse


def backward(dout, q, k, v, out, lse, window):
    """The gradients of q, k and v from that of forward's out; the same bits each time."""
    _verify(q, k, v)
    dtype = q.dtype
    dout, q, k, v, out = (x.to(stored_dtype(dtype)) for x in (dout, q, k, v, out))
    lse = lse.contiguous()
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    if q.numel() == 0:
        return dq.to(dtype), dk.to(dtype), dv.to(dtype)
    delta = torch.empty_like(lse)
    _, positions, heads, D = q.shape
    grid, scalars, constants = _plan("dq", q, k, window)
    delta_kernel[grid](
        dout, out, delta, heads, positions, *dout.stride(), *out.stride(),
        QUERIES=constants["QUERIES"], D=D, HEAD=constants["HEAD"],
    )  # fmt: skip
    scale = 1 / math.sqrt(D)
    strides = (*dout.stride(), *q.stride(), *k.stride(), *v.stride())
    dq_kernel[grid](dout, q, k, v, lse, delta, dq, *scalars, scale, *strides, **constants)
    grid, scalars, constants = _plan("dkdv", q, k, window)
    dkdv_kernel[grid](dout, q, k, v, lse, delta, dk, dv, *scalars, scale, *strides, **constants)
    return dq.to(dtype), dk.to(dtype), dv.to(dtype)
