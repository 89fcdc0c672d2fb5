"""What muon_step does around its matrix iteration, in four passes. Stacks of n matrices (R, C).

    momentum(buffer, grads, mu) -> norms (n, R, 1)      buffer ← mu·buffer + (1-mu)·grad; of the rows of g
    nesterov(buffer, grads, mu, scale, dtype) -> x       g = (1-mu)·grad + mu·buffer, its rows times scale (n, R, 1)
    squares(x) -> (n, R, 1) where R >= C, else (n, 1, C) the sums of squares of rows or columns
    update(x, params, scale, lr, decay, cautious)        params ← params - decay·params - lr·scale·x

grads and params are lists of matrices where they lie in memory: a kernel reads their addresses from a table, so that
nothing is stacked and copied back. What is between the passes is n·(R + C) numbers and plain torch's. Sums in fp32, in
a fixed order. Bound by memory: 12 + 10 + 2 + 10 bytes an element of fp32 parameters, against 100 and more of plain
torch. Interpreted and compiled; it has not run on a GPU yet.
"""

import functools

import torch
import triton
import triton.language as tl

ROWS, COLUMNS = 4, 512  # of a tile that is dense along rows
LINES, ALONG = 64, 32  # of one that sums along columns


@functools.lru_cache(maxsize=256)
def _table(addresses, device, stream):
    return torch.tensor(addresses, dtype=torch.int64).to(device, non_blocking=True)  # waits for nothing on the GPU


def _addresses(matrices):
    """The table of the matrices' addresses, and whether all are multiples of 16 bytes."""
    addresses = tuple(m.data_ptr() for m in matrices)
    device = matrices[0].device
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
    return _table(addresses, device, stream), all(a % 16 == 0 for a in addresses)


@triton.jit
def _matrix(table, matrix, like, ALIGNED: tl.constexpr):
    """The address of the list's matrix, whose elements are those of `like`."""
    address = tl.load(table + matrix).to(like.dtype)
    return tl.multiple_of(address, 16) if ALIGNED else address


@triton.jit
def momentum_kernel(
    buffer, grads, grad_like, scale_by, norms, x, rows, columns, mu, m0, m1, m2, g1, g2,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, FIRST: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    matrix = tl.program_id(1).to(tl.int64)
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    grad = _matrix(grads, matrix, grad_like, ALIGNED) + row * g1
    buffer += matrix * m0 + row * m1
    line = matrix * rows + row
    factor = 1.0 if FIRST else tl.load(scale_by + line, row < rows, other=0.0)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in range(0, columns, COLUMNS):
        column = (first + tl.arange(0, COLUMNS)).to(tl.int64)[None, :]
        inside = (row < rows) & (column < columns)
        g = tl.load(grad + column * g2, inside, other=0.0).to(tl.float32)
        m = tl.load(buffer + column * m2, inside, other=0.0).to(tl.float32)
        if FIRST:
            m += (1.0 - mu) * (g - m)
            tl.store(buffer + column * m2, m.to(buffer.dtype.element_ty), inside)
        g = m - (m - g) * (1.0 - mu)
        if FIRST:
            total += g * g
        else:
            tl.store(x + line * columns + column, (g * factor).to(x.dtype.element_ty), inside)
    if FIRST:
        tl.store(norms + line, tl.sqrt(tl.sum(total, axis=1))[:, None], row < rows)


def _launch_momentum(buffer, grads, mu, scale, norms, x):
    n, rows, columns = buffer.shape
    table, aligned = _addresses(grads)
    momentum_kernel[(triton.cdiv(rows, ROWS), n)](
        buffer, table, grads[0], scale, norms, x, rows, columns, mu, *buffer.stride(), *grads[0].stride(),
        ROWS=ROWS, COLUMNS=COLUMNS, FIRST=x is norms, ALIGNED=aligned, num_warps=4,
    )  # fmt: skip


def momentum(buffer, grads, mu):
    """Moves the buffer on; the norms (n, R, 1) fp32 of the rows of the Nesterov momentum g."""
    norms = torch.empty(*buffer.shape[:2], 1, dtype=torch.float32, device=buffer.device)
    _launch_momentum(buffer, grads, mu, norms, norms, norms)
    return norms


def nesterov(buffer, grads, mu, scale, dtype):
    """g times `scale` (n, R, 1), in `dtype`, from the buffer that `momentum` has moved on."""
    x = torch.empty(buffer.shape, dtype=dtype, device=buffer.device)
    scale = scale.expand(*buffer.shape[:2], 1).contiguous()
    _launch_momentum(buffer, grads, mu, scale, scale, x)
    return x


@triton.jit
def squares_kernel(x, sums, lines, length, x0, x_line, x_along, LINES: tl.constexpr, ALONG: tl.constexpr):
    matrix = tl.program_id(1).to(tl.int64)
    line = (tl.program_id(0) * LINES + tl.arange(0, LINES)).to(tl.int64)
    at = x + matrix * x0 + line[:, None] * x_line
    total = tl.zeros([LINES, ALONG], tl.float32)
    for first in range(0, length, ALONG):
        along = (first + tl.arange(0, ALONG)).to(tl.int64)[None, :]
        v = tl.load(at + along * x_along, (line < lines)[:, None] & (along < length), other=0.0).to(tl.float32)
        total += v * v
    tl.store(sums + matrix * lines + line, tl.sum(total, axis=1), line < lines)


def squares(x):
    """The sums of squares of the rows of x (n, R, C) where R >= C, else of its columns; fp32."""
    n, rows, columns = x.shape
    by_rows = rows >= columns
    sums = torch.empty((n, rows, 1) if by_rows else (n, 1, columns), dtype=torch.float32, device=x.device)
    lines, length = (rows, columns) if by_rows else (columns, rows)
    strides = (x.stride(1), x.stride(2)) if by_rows else (x.stride(2), x.stride(1))
    tile = (ROWS, COLUMNS) if strides[1] == 1 else (LINES, ALONG)
    squares_kernel[(triton.cdiv(lines, tile[0]), n)](
        x, sums, lines, length, x.stride(0), *strides, LINES=tile[0], ALONG=tile[1], num_warps=4
    )
    return sums


@triton.jit
def update_kernel(
    x, params, param_like, scale_by, rows, columns, lr, decay, x0, x1, x2, p1, p2, s0, s1, s2,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, CAUTIOUS: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    matrix = tl.program_id(1).to(tl.int64)
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    param = _matrix(params, matrix, param_like, ALIGNED) + row * p1
    x += matrix * x0 + row * x1
    scale_by += matrix * s0 + row * s1
    for first in range(0, columns, COLUMNS):
        column = (first + tl.arange(0, COLUMNS)).to(tl.int64)[None, :]
        inside = (row < rows) & (column < columns)
        u = tl.load(x + column * x2, inside, other=0.0).to(tl.float32)
        u *= tl.load(scale_by + column * s2, inside, other=0.0)
        p = tl.load(param + column * p2, inside, other=0.0).to(tl.float32)
        shrink = tl.where(u * p >= 0.0, decay, 0.0) if CAUTIOUS else decay
        p = p - shrink * p - lr * u
        tl.store(param + column * p2, p.to(param_like.dtype.element_ty), inside)


def update(x, params, scale, lr, decay, cautious):
    """Takes lr·scale·x (n, R, C) and decay·params from params; if cautious the latter only where both signs agree."""
    n, rows, columns = x.shape
    table, aligned = _addresses(params)
    update_kernel[(triton.cdiv(rows, ROWS), n)](
        x, table, params[0], scale, rows, columns, lr, decay,
        *x.stride(), *params[0].stride(), *scale.expand(x.shape).stride(),
        ROWS=ROWS, COLUMNS=COLUMNS, CAUTIOUS=cautious, ALIGNED=aligned, num_warps=8,  # with 4 sm_80 spills
    )  # fmt: skip
