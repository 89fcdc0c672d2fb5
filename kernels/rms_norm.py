"""Triton twin of rms_norm, and the two kernels that rms_norm_residual shares with it.

    forward(x, eps) -> y
    backward(dy, x, eps) -> dx

x, dy (..., C), any strides -> contiguous, in x's dtype. Sums in fp32. R rows are all but the last dimension. Bound by
memory: forward reads x and writes y, backward reads dy and x and writes dx; nothing is kept from forward to backward,
as 1/rms is made again from the x that backward reads anyway. A program holds a tile of whole rows in registers; rows
wider than a tile are read twice. Interpreted and compiled so far; it has not run on a GPU yet.
"""

import torch
import triton
import triton.language as tl

from pynanochat.kernels import stored_dtype

TILE = 4096  # elements that a program holds: 32 a thread


@triton.jit
def _load(x, row, column, inside, stride0, stride1):
    return tl.load(x + row * stride0 + column * stride1, inside, other=0.0).to(tl.float32)


@triton.jit
def _over_root(squares, columns, eps):
    mean = tl.sum(squares, axis=1) / columns
    return tl.div_rn(1.0, tl.sqrt_rn(mean + eps))[:, None]  # a whole row is multiplied by it: not the fast ones


@triton.jit
def _load_sum(
    x, residual, total, row, column, inside, x0, x1, r0, r1, columns, RESIDUAL: tl.constexpr, STORE: tl.constexpr
):
    value = _load(x, row, column, inside, x0, x1)
    if RESIDUAL:
        rounded = (value + _load(residual, row, column, inside, r0, r1)).to(total.dtype.element_ty)
        if STORE:
            tl.store(total + row * columns + column, rounded, inside)
        value = rounded.to(tl.float32)
    return value


@triton.jit
def forward_kernel(
    x, residual, total, out, rows, columns, eps, x0, x1, r0, r1,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, WHOLE: tl.constexpr, RESIDUAL: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    lane = tl.arange(0, COLUMNS)[None, :].to(tl.int64)
    if WHOLE:
        inside = (row < rows) & (lane < columns)
        value = _load_sum(x, residual, total, row, lane, inside, x0, x1, r0, r1, columns, RESIDUAL, True)
        rstd = _over_root(value * value, columns, eps)
        tl.store(out + row * columns + lane, (value * rstd).to(out.dtype.element_ty), inside)
    else:
        squares = tl.zeros([ROWS, COLUMNS], tl.float32)
        for first in range(0, columns, COLUMNS):
            column = first + lane
            inside = (row < rows) & (column < columns)
            value = _load_sum(x, residual, total, row, column, inside, x0, x1, r0, r1, columns, RESIDUAL, True)
            squares += value * value
        rstd = _over_root(squares, columns, eps)
        for first in range(0, columns, COLUMNS):
            column = first + lane
            inside = (row < rows) & (column < columns)
            value = _load_sum(x, residual, total, row, column, inside, x0, x1, r0, r1, columns, RESIDUAL, False)
            tl.store(out + row * columns + column, (value * rstd).to(out.dtype.element_ty), inside)


@triton.jit
def _store_gradient(g, value, rstd, mean, grad_total, dx, row, column, inside, t0, t1, columns, ADD: tl.constexpr):
    gradient = rstd * (g - value * mean)
    if ADD:
        gradient += _load(grad_total, row, column, inside, t0, t1)
    tl.store(dx + row * columns + column, gradient.to(dx.dtype.element_ty), inside)


@triton.jit
def backward_kernel(
    grad, x, grad_total, dx, rows, columns, eps, g0, g1, x0, x1, t0, t1,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, WHOLE: tl.constexpr, ADD: tl.constexpr,
):  # fmt: skip
    row = (tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS))[:, None]
    lane = tl.arange(0, COLUMNS)[None, :].to(tl.int64)
    if WHOLE:
        inside = (row < rows) & (lane < columns)
        value = _load(x, row, lane, inside, x0, x1)
        g = _load(grad, row, lane, inside, g0, g1)
        rstd = _over_root(value * value, columns, eps)
        mean = tl.sum(g * value, axis=1)[:, None] / columns * rstd * rstd
        _store_gradient(g, value, rstd, mean, grad_total, dx, row, lane, inside, t0, t1, columns, ADD)
    else:
        squares = tl.zeros([ROWS, COLUMNS], tl.float32)
        products = tl.zeros([ROWS, COLUMNS], tl.float32)
        for first in range(0, columns, COLUMNS):
            column = first + lane
            inside = (row < rows) & (column < columns)
            value = _load(x, row, column, inside, x0, x1)
            squares += value * value
            products += value * _load(grad, row, column, inside, g0, g1)
        rstd = _over_root(squares, columns, eps)
        mean = tl.sum(products, axis=1)[:, None] / columns * rstd * rstd
        for first in range(0, columns, COLUMNS):
            column = first + lane
            inside = (row < rows) & (column < columns)
            value = _load(x, row, column, inside, x0, x1)
            g = _load(grad, row, column, inside, g0, g1)
            _store_gradient(g, value, rstd, mean, grad_total, dx, row, column, inside, t0, t1, columns, ADD)


def tile(columns: int) -> dict:
    """The constants of both kernels for rows of `columns`: as many whole rows as fit, or part of one."""
    wide = triton.next_power_of_2(columns)
    width = min(wide, TILE)
    return {"ROWS": TILE // width, "COLUMNS": width, "WHOLE": wide <= TILE}


def as_rows(x):
    """x (..., C) as (R, C): a view wherever the strides allow."""
    return x.reshape(-1, x.size(-1))


def launch_forward(x, residual, eps):
    """The sum x + residual and its norm; without a residual (None) x itself and its norm."""
    out = torch.empty(x.shape, dtype=stored_dtype(x.dtype), device=x.device)
    given, x = x, as_rows(x)
    other = x if residual is None else as_rows(residual)
    total = x if residual is None else torch.empty_like(out)
    if out.numel():
        constants = tile(x.size(1))
        forward_kernel[(triton.cdiv(x.size(0), constants["ROWS"]),)](
            x, other, total, out, *x.shape, eps, *x.stride(), *other.stride(),
            **constants, RESIDUAL=residual is not None, num_warps=4,
        )  # fmt: skip
    return given if residual is None else total.to(x.dtype), out.to(x.dtype)


def launch_backward(grad, x, grad_total, eps):
    """The gradient of x by its norm's, plus `grad_total` unless that is None."""
    dx = torch.empty(x.shape, dtype=stored_dtype(x.dtype), device=x.device)
    grad, x = as_rows(grad), as_rows(x)
    other = grad if grad_total is None else as_rows(grad_total)
    if dx.numel():
        constants = tile(x.size(1))
        backward_kernel[(triton.cdiv(x.size(0), constants["ROWS"]),)](
            grad, x, other, dx, *x.shape, eps, *grad.stride(), *x.stride(), *other.stride(),
            **constants, ADD=grad_total is not None, num_warps=4,
        )  # fmt: skip
    return dx.to(x.dtype)


def forward(x, eps):
    """x (..., C) over its root mean square along C; contiguous, in x's dtype."""
    return launch_forward(x, None, eps)[1]


def backward(dy, x, eps):
    """The gradient of x from that of forward's result."""
    return launch_backward(dy, x, None, eps)
