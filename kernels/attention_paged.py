"""Triton twin of attention_paged: attention over keys and values that lie in pages, decoding and prefill in one launch.

    forward(q, k_pages, v_pages, tables, starts, lengths, longest, window) -> out

N queries, R rows, H query heads, G key/value heads, D head dim, M entries of a row's table. A program does one tile of
a row's (query, head of the group) pairs, so that a group's keys are read once for all of its heads, and one split of
the tokens that the tile sees; a second kernel puts the splits together. There is one split where tiles alone fill the
card. Rows with fewer tiles than the longest leave at once. Tokens find their page one by one, so any page size does.

Decoding is bound by memory: 2·tokens·G·D elements, once. Prefill is bound by products: 4·H·D FLOPs a pair of query and
token seen. Nothing here asks the GPU for a value: the grid follows from shapes, `longest` and `window`, so a CUDA graph
may hold it. Another grid splits a row at other places, so its last bits depend on the rows beside it.

Versions: (1) one masked walk over the tokens; (2) this one, where large tiles mask only the blocks at both ends. ptxas:
decoding with head dim 128 takes 148 registers of 4 warps on sm_90, prefill 224 of 8 warps (254 where it is split). It
has not run on a GPU yet; it is interpreted and compiled in tests/kernels.
"""

import torch
import triton
import triton.language as tl

from pynanochat import kernels
from pynanochat.kernels import stored_dtype
from pynanochat.kernels.tiles import choose, short

PROGRAMS = 264  # wanted at least: two for every multiprocessor of an H100
MOST_SPLITS = 64
UNSEEN = -1e38  # below every score; finite, so that a tile that has seen nothing yet has no inf - inf
EVERYTHING = 2**30  # the window that no sequence fills


@triton.jit
def _walk(
    begin, to, end, qs, k, v, table, position, window, scale, k0, k1, k_channel, v0, v1, v_channel,
    top, total, mean,
    D: tl.constexpr, DIM: tl.constexpr, PAGE: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr,
    MASK: tl.constexpr,
):  # fmt: skip
    """The online softmax of a tile over its tokens from `begin` up to `to`. MASK where some are not to be seen."""
    held = tl.arange(0, DIM)[None, :] < D
    for first in range(begin, to, BLOCK):
        token = first + tl.arange(0, BLOCK)
        inside = (token < end) | (not MASK)
        page = tl.load(table + token // PAGE, inside, other=0)
        slot = (token % PAGE).to(tl.int64)
        taken = inside[:, None] & held  # what lies outside may be NaN
        ks = tl.load(k + (page * k0 + slot * k1)[:, None] + k_channel, taken, other=0.0)
        score = tl.dot(qs, tl.trans(ks), input_precision=PRECISION) * scale
        if MASK:
            distance = position[:, None] - token[None, :]
            score = tl.where((distance >= 0) & (distance <= window) & inside[None, :], score, float("-inf"))
        higher = tl.maximum(top, tl.max(score, axis=1))
        p = tl.exp2(score - higher[:, None])
        fade = tl.exp2(top - higher)
        vs = tl.load(v + (page * v0 + slot * v1)[:, None] + v_channel, taken, other=0.0)
        mean = tl.dot(p.to(vs.dtype), vs, mean * fade[:, None], input_precision=PRECISION)
        total = total * fade + tl.sum(p, axis=1)
        top = higher
    return top, total, mean


@triton.jit(do_not_specialize=["columns", "tiles", "window"])  # they change while a sequence grows
def attend_kernel(
    q, k, v, tables, starts, lengths, out, partial, lse, columns, tiles, groups, window, scale,
    q0, q1, q2, k0, k1, k2, k3, v0, v1, v2, v3,
    SHARE: tl.constexpr, D: tl.constexpr, DIM: tl.constexpr, PAGE: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr, SPLIT: tl.constexpr, UNSEEN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    tile = tiles - 1 - program % tiles  # the longest first
    group = program // tiles % groups
    row = program // (tiles * groups)
    start = tl.load(starts + row)
    queries = (tl.load(starts + row + 1) - start).to(tl.int32)
    if tile * ROWS >= queries * SHARE:
        return
    length = tl.load(lengths + row).to(tl.int32)
    pair = tile * ROWS + tl.arange(0, ROWS)  # of a query and a head
    query = pair // SHARE
    present = query < queries
    position = length - queries + query
    begin = tl.maximum(length - queries + tile * ROWS // SHARE - window, 0)
    end = tl.minimum(length - queries + (tile * ROWS + ROWS - 1) // SHARE + 1, length)
    if SPLIT:
        splits = tl.num_programs(1)
        each = tl.cdiv(tl.cdiv(end - begin, BLOCK), splits) * BLOCK
        begin += tl.program_id(1) * each
        end = tl.minimum(end, begin + each)

    channel = tl.arange(0, DIM)
    head = group * SHARE + pair % SHARE
    at = (start + query) * q0 + head.to(tl.int64) * q1
    wanted = present[:, None] & (channel < D)[None, :]
    qs = tl.load(q + at[:, None] + channel[None, :].to(tl.int64) * q2, wanted, other=0.0)
    k_channel = group.to(tl.int64) * k2 + channel[None, :].to(tl.int64) * k3
    v_channel = group.to(tl.int64) * v2 + channel[None, :].to(tl.int64) * v3
    table = tables + row.to(tl.int64) * columns
    top = tl.full([ROWS], UNSEEN, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    mean = tl.zeros([ROWS, DIM], tl.float32)
    if ROWS * BLOCK < 128 * 64:  # waits for memory or has no registers to spare
        top, total, mean = _walk(
            begin, end, end, qs, k, v, table, position, window, scale, k0, k1, k_channel, v0, v1, v_channel,
            top, total, mean, D, DIM, PAGE, BLOCK, PRECISION, True,
        )  # fmt: skip
    else:  # only the blocks at both ends have pairs that do not see each other
        first = length - queries + tile * ROWS // SHARE  # position of the tile's first
        last = first + (ROWS - 1) // SHARE + 1
        whole = tl.minimum(begin + tl.cdiv(tl.maximum(last - window - begin, 0), BLOCK) * BLOCK, end)
        edge = tl.maximum(tl.minimum(begin + tl.maximum(first + 1 - begin, 0) // BLOCK * BLOCK, end), whole)
        top, total, mean = _walk(
            begin, whole, end, qs, k, v, table, position, window, scale, k0, k1, k_channel, v0, v1, v_channel,
            top, total, mean, D, DIM, PAGE, BLOCK, PRECISION, True,
        )  # fmt: skip
        top, total, mean = _walk(
            whole, edge, end, qs, k, v, table, position, window, scale, k0, k1, k_channel, v0, v1, v_channel,
            top, total, mean, D, DIM, PAGE, BLOCK, PRECISION, False,
        )  # fmt: skip
        top, total, mean = _walk(
            edge, end, end, qs, k, v, table, position, window, scale, k0, k1, k_channel, v0, v1, v_channel,
            top, total, mean, D, DIM, PAGE, BLOCK, PRECISION, True,
        )  # fmt: skip

    some = total != 0
    total = tl.where(some, total, 1.0)
    mean = mean / total[:, None]  # a query that sees nothing, as of an empty row, gets zeros
    place = (start + query) * (groups * SHARE) + head
    if SPLIT:
        place = place * splits + tl.program_id(1)
        tl.store(lse + place, tl.where(some, top + tl.log2(total), float("-inf")), present)
        tl.store(partial + place[:, None] * D + channel[None, :], mean, wanted & some[:, None])
    else:
        tl.store(out + place[:, None] * D + channel[None, :], mean.to(out.dtype.element_ty), wanted)


@triton.jit(do_not_specialize=["splits"])
def combine_kernel(
    partial, lse, out, splits, D: tl.constexpr, DIM: tl.constexpr, SPLITS: tl.constexpr, UNSEEN: tl.constexpr
):  # fmt: skip
    place = tl.program_id(0).to(tl.int64)  # a query's head
    split = tl.arange(0, SPLITS)
    channel = tl.arange(0, DIM)
    log_mass = tl.load(lse + place * splits + split, split < splits, other=float("-inf"))
    mass = tl.exp2(log_mass - tl.maximum(tl.max(log_mass, axis=0), UNSEEN))
    at = partial + (place * splits + split)[:, None] * D + channel[None, :]
    part = tl.load(at, (log_mass != float("-inf"))[:, None] & (channel < D)[None, :], other=0.0)
    total = tl.sum(mass, axis=0)
    mean = tl.sum(part * mass[:, None], axis=0) / tl.where(total != 0, total, 1.0)
    tl.store(out + place * D + channel, mean.to(out.dtype.element_ty), channel < D)


def tiles(dtype, dim: int, pairs: int, device) -> dict:
    """The tile, warps and stages for head dim `dim` (a power of two), and at most `pairs` of query and head in a row.

    The first of each is the largest that spills no register. A load through a table takes two stages each time ahead.
    """
    large = kernels.architecture(device) in kernels.LARGE_SHARED
    if dtype == torch.float32:
        return _tile(16, 32 if dim <= 128 else 16, 8, 3 if dim <= 128 else 2)
    if pairs <= 16:
        size, first = 16, (64 if dim <= 128 else 32, 4, 5)
        others = ((32, 4, 5), (128, 4, 3), (64, 8, 4)) if dim <= 128 else ((32, 8, 5),)
    elif dim > 128:
        size, first, others = 64, (32, 8, 3), ((32, 4, 3),)
    elif pairs <= 64 or (dim > 64 and not large):
        size, first, others = 64, (64 if dim <= 64 else 32, 4, 3), ((64, 8, 3), (32, 4, 5))
    else:
        size, first, others = 128, (64, 8, 3), ((32, 8, 3), (64, 4, 3), (128, 8, 3))
    candidates = [_tile(size, *tile) for tile in (first, *others)]
    return choose(f"attention_paged {short(dtype)} {dim}, {size} rows", candidates, device)


def _tile(rows, block, warps, stages):
    return {"ROWS": rows, "BLOCK": block, "num_warps": warps, "num_stages": stages}


def splits(programs: int, seen: int, tile: dict) -> int:
    """In how many parts each of `programs` tiles splits the tokens it sees, at most `seen`.

    With fewer than `least` tokens a part, writing the parts and putting them together costs more than it gains.
    """
    least = max(2 * tile["BLOCK"], 4 * tile["ROWS"])
    return max(1, min(PROGRAMS // programs, seen // least, MOST_SPLITS))


def forward(q, k_pages, v_pages, tables, starts, lengths, longest, window):
    """q (N, H, D) over k_pages and v_pages (P, page, G, D) -> (N, H, D) dense. Reads no tensor's values."""
    count, heads, size = q.shape
    page, groups = k_pages.shape[1:3]
    rows, columns = tables.shape
    given = q.dtype
    out = torch.empty(q.shape, dtype=stored_dtype(given), device=q.device)
    if out.numel() == 0 or longest == 0:
        return out.to(given)
    q, k, v = (x.to(out.dtype) for x in (q, k_pages, v_pages))  # the interpreter multiplies no bf16
    share, dim = heads // groups, max(16, triton.next_power_of_2(size))
    window = EVERYTHING if window < 0 else min(window, EVERYTHING)
    tile = tiles(q.dtype, dim, longest * share, q.device)
    in_row = triton.cdiv(longest * share, tile["ROWS"])
    in_all = min(rows * in_row, rows + count * share // tile["ROWS"]) * groups
    parts = splits(in_all, min(columns * page, window + longest), tile)
    partial, lse = out, out
    if parts > 1:
        partial = torch.empty(count, heads, parts, size, dtype=torch.float32, device=q.device)
        lse = torch.empty(count, heads, parts, dtype=torch.float32, device=q.device)
    attend_kernel[(in_row * groups * rows, parts)](
        q, k, v, tables, starts, lengths, out, partial, lse, columns, in_row, groups, window,
        size**-0.5 * 1.4426950408889634,  # scores in powers of two
        *q.stride(), *k.stride(), *v.stride(),
        SHARE=share, D=size, DIM=dim, PAGE=page, SPLIT=parts > 1, UNSEEN=UNSEEN,
        PRECISION="ieee" if q.dtype == torch.float32 else "tf32", **tile,
    )  # fmt: skip
    if parts > 1:
        combine_kernel[(count * heads,)](
            partial, lse, out, parts, D=size, DIM=dim, SPLITS=triton.next_power_of_2(parts), UNSEEN=UNSEEN, num_warps=4
        )
    return out.to(given)
