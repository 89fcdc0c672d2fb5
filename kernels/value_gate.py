"""Triton twin of value_gate: out = v + gate · table[ids], gate = 3·σ(W x[:K]) for each key/value head.

    forward(v, x, ids, table, gate_weight) -> out
    backward(dout, x, ids, table, gate_weight, wants_table) -> dx, dtable or None, dgate_weight; v's gradient is dout

N tokens (B·T), G heads of D channels, E = G·D, C channels of x, K of them in the gate, V rows of the table. v, dout
(B, T, G, D), x (B, T, C), ids (B, T), table (V, E), gate_weight (G, K); results contiguous, gates and sums in fp32. An
id outside the table gives NaN and no gradient: a GPU cannot raise in time.

Forward and the first backward kernel do one token a program and are bound by memory: v and a row of the table in, out
out; dout and a row of the table in, dx and the G gates out.

The table's gradient adds gate·dout over the tokens of each id. Atomic adds would give other bits each time and queue up
at frequent ids, so the tokens are sorted by id (stable) and added in that order, always the same: a program walks CHUNK
sorted tokens and writes the sum of each id that ends there. A sum that goes on in the next chunk is left as that
chunk's `tail`, what came from the chunks before as its `head`, and a second kernel adds heads and tails in order.
Interpreted and compiled so far; it has not run on a GPU yet.
"""

import torch
import triton
import triton.language as tl

from pynanochat.kernels import stored_dtype

TILE = 2048  # elements of v that a program holds at once
CHUNK = 32  # sorted tokens that a program adds up
COLUMNS = 512  # of the table that it does so for
ZEROS = 1024  # channels of dx behind the gate's, set at once


@triton.jit
def _gates(x_row, gate_weight, head, heads, channels, x1, w0, w1, CHANNELS: tl.constexpr):
    """σ(W x[:K]) of some heads, a column; their weights and the channels of x, rows of a tile."""
    channel = tl.arange(0, CHANNELS)[None, :].to(tl.int64)
    read = tl.load(x_row + channel * x1, channel < channels, other=0.0).to(tl.float32)
    inside = (head < heads) & (channel < channels)
    w = tl.load(gate_weight + head * w0 + channel * w1, inside, other=0.0).to(tl.float32)
    return 1.0 / (1.0 + tl.exp(-tl.sum(w * read, axis=1)[:, None])), w


@triton.jit
def _embedding(
    table, word, words, head, lane, inside, t0, t1, D: tl.constexpr, LANES: tl.constexpr, HEADS: tl.constexpr
):
    value = tl.full([HEADS, LANES], float("nan"), tl.float32)
    if (word >= 0) & (word < words):
        value = tl.load(table + word * t0 + (head * D + lane) * t1, inside, other=0.0).to(tl.float32)
    return value


@triton.jit
def forward_kernel(
    v, x, ids, table, gate_weight, out, words, heads, channels, v0, v1, v2, x0, x1, id0, t0, t1, w0, w1,
    D: tl.constexpr, LANES: tl.constexpr, HEADS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, LANES)[None, :].to(tl.int64)
    word = tl.load(ids + token * id0)
    for first in range(0, heads, HEADS):
        head = (first + tl.arange(0, HEADS)[:, None]).to(tl.int64)
        inside = (head < heads) & (lane < D)
        s, _ = _gates(x + token * x0, gate_weight, head, heads, channels, x1, w0, w1, CHANNELS)
        value = tl.load(v + token * v0 + head * v1 + lane * v2, inside, other=0.0).to(tl.float32)
        value += 3.0 * s * _embedding(table, word, words, head, lane, inside, t0, t1, D, LANES, HEADS)
        tl.store(out + (token * heads + head) * D + lane, value.to(out.dtype.element_ty), inside)


@triton.jit
def gate_backward_kernel(
    grad, x, ids, table, gate_weight, dx, gates, slopes, words, heads, columns, channels,
    g0, g1, g2, x0, x1, id0, t0, t1, w0, w1,
    D: tl.constexpr, LANES: tl.constexpr, HEADS: tl.constexpr, CHANNELS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, LANES)[None, :].to(tl.int64)
    word = tl.load(ids + token * id0)
    channel = tl.arange(0, CHANNELS).to(tl.int64)
    read_back = tl.zeros([CHANNELS], tl.float32)
    for first in range(0, heads, HEADS):
        head = (first + tl.arange(0, HEADS)[:, None]).to(tl.int64)
        inside = (head < heads) & (lane < D)
        s, w = _gates(x + token * x0, gate_weight, head, heads, channels, x1, w0, w1, CHANNELS)
        g = tl.load(grad + token * g0 + head * g1 + lane * g2, inside, other=0.0).to(tl.float32)
        dot = tl.sum(g * _embedding(table, word, words, head, lane, inside, t0, t1, D, LANES, HEADS), axis=1)[:, None]
        slope = 3.0 * s * (1.0 - s) * dot
        tl.store(gates + token * heads + head, 3.0 * s, head < heads)
        tl.store(slopes + token * heads + head, slope, head < heads)
        read_back += tl.sum(tl.where(head < heads, slope * w, 0.0), axis=0)
    tl.store(dx + token * columns + channel, read_back.to(dx.dtype.element_ty), channel < channels)
    for first in range(0, columns, WIDTH):
        column = first + tl.arange(0, WIDTH)
        zero = tl.zeros([WIDTH], tl.float32).to(dx.dtype.element_ty)
        tl.store(dx + token * columns + column, zero, (column >= channels) & (column < columns))


@triton.jit
def _word_at(words_sorted, at, tokens):
    """The id at a sorted place; -2 before the first and -1 behind the last, which are no rows of the table."""
    word = tl.full([], -1, tl.int64)
    if at < 0:
        word = tl.full([], -2, tl.int64)
    elif at < tokens:
        word = tl.load(words_sorted + at)
    return word


@triton.jit
def table_chunk_kernel(
    grad, gates, words_sorted, order, dtable, heads_of, tails_of, tokens, words, heads, width, g0, g1, g2,
    D: tl.constexpr, CHUNK: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    chunk = tl.program_id(0).to(tl.int64)
    column = (tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)).to(tl.int64)
    inside = column < width
    begin = chunk * CHUNK
    end = tl.minimum(begin + CHUNK, tokens)
    head = column // D
    at_column = head * g1 + (column % D) * g2
    before = _word_at(words_sorted, begin - 1, tokens)
    total = tl.zeros([COLUMNS], tl.float32)
    for place in range(begin, end):
        token = tl.load(order + place)
        gate = tl.load(gates + token * heads + head, inside, other=0.0)
        total += gate * tl.load(grad + token * g0 + at_column, inside, other=0.0).to(tl.float32)
        word = tl.load(words_sorted + place)
        if word != _word_at(words_sorted, place + 1, tokens):
            if word == before:
                tl.store(heads_of + chunk * width + column, total, inside)
            elif (word >= 0) & (word < words):
                tl.store(dtable + word * width + column, total, inside)
            total = tl.zeros([COLUMNS], tl.float32)
        elif place == end - 1:
            tl.store(tails_of + chunk * width + column, total, inside)


@triton.jit
def table_end_kernel(
    words_sorted, dtable, heads_of, tails_of, tokens, words, width, CHUNK: tl.constexpr, COLUMNS: tl.constexpr
):
    chunk = tl.program_id(0).to(tl.int64)
    end = (chunk + 1) * CHUNK
    word = _word_at(words_sorted, end - 1, tokens)
    begins_here = _word_at(words_sorted, chunk * CHUNK - 1, tokens) != word
    goes_on = (_word_at(words_sorted, end, tokens) == word) & (word >= 0) & (word < words)
    if begins_here & goes_on:
        column = (tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)).to(tl.int64)
        inside = column < width
        total = tl.zeros([COLUMNS], tl.float32)
        while _word_at(words_sorted, (chunk + 1) * CHUNK, tokens) == word:
            total += tl.load(tails_of + chunk * width + column, inside, other=0.0)
            chunk += 1
        total += tl.load(heads_of + chunk * width + column, inside, other=0.0)
        tl.store(dtable + word * width + column, total, inside)


def tile(heads: int, head_dim: int, channels: int) -> dict:
    """The constants of forward_kernel, and most of gate_backward_kernel's."""
    lanes = triton.next_power_of_2(head_dim)
    most = min(triton.next_power_of_2(heads), max(1, TILE // lanes))
    return {"D": head_dim, "LANES": lanes, "HEADS": most, "CHANNELS": triton.next_power_of_2(channels)}


def forward(v, x, ids, table, gate_weight):
    """v (B, T, G, D) plus the gated rows of the table that ids name."""
    out = torch.empty(v.shape, dtype=stored_dtype(v.dtype), device=v.device)
    heads, head_dim = v.shape[2:]
    channels = gate_weight.size(1)
    if out.numel():
        rows, x, ids = v.flatten(0, 1), x.flatten(0, 1), ids.flatten().long()
        forward_kernel[(ids.numel(),)](
            rows, x, ids, table, gate_weight, out, table.size(0), heads, channels,
            *rows.stride(), *x.stride(), *ids.stride(), *table.stride(), *gate_weight.stride(),
            **tile(heads, head_dim, channels), num_warps=4,
        )  # fmt: skip
    return out.to(v.dtype)


def table_gradient(grad, gates, ids, table):
    """The sums of gate·grad (N, G, D) over the tokens of each id, in the dtype and shape of the table."""
    dtable = torch.zeros(table.shape, dtype=torch.float32, device=table.device)
    tokens, heads, head_dim = grad.shape
    words_sorted, order = torch.sort(ids, stable=True)
    grid = (triton.cdiv(tokens, CHUNK), triton.cdiv(dtable.size(1), COLUMNS))
    heads_of, tails_of = torch.empty(2, grid[0], dtable.size(1), dtype=torch.float32, device=table.device)
    table_chunk_kernel[grid](
        grad, gates, words_sorted, order, dtable, heads_of, tails_of, tokens, table.size(0), heads,
        table.size(1), *grad.stride(), D=head_dim, CHUNK=CHUNK, COLUMNS=COLUMNS, num_warps=4,
    )  # fmt: skip
    table_end_kernel[grid](
        words_sorted, dtable, heads_of, tails_of, tokens, *dtable.shape, CHUNK=CHUNK, COLUMNS=COLUMNS, num_warps=4
    )
    return dtable.to(table.dtype)


def backward(dout, x, ids, table, gate_weight, wants_table=True):
    """The gradients of x, table (None where it is not wanted) and gate_weight from that of forward's result."""
    dx = torch.empty(x.shape, dtype=stored_dtype(x.dtype), device=x.device)
    heads, head_dim = dout.shape[2:]
    channels = gate_weight.size(1)
    if ids.numel() == 0:
        return dx.to(x.dtype), torch.zeros_like(table), torch.zeros_like(gate_weight)
    grad, rows, ids = dout.flatten(0, 1), x.flatten(0, 1), ids.flatten().long()
    gates, slopes = torch.empty(2, ids.numel(), heads, dtype=torch.float32, device=x.device)
    gate_backward_kernel[(ids.numel(),)](
        grad, rows, ids, table, gate_weight, dx, gates, slopes, table.size(0), heads, x.size(2), channels,
        *grad.stride(), *rows.stride(), *ids.stride(), *table.stride(), *gate_weight.stride(),
        **tile(heads, head_dim, channels), WIDTH=ZEROS, num_warps=4,
    )  # fmt: skip
    dtable = table_gradient(grad, gates, ids, table) if wants_table else None
    dgate_weight = slopes.T @ rows[:, :channels].float()
    return dx.to(x.dtype), dtable, dgate_weight.to(gate_weight.dtype)
