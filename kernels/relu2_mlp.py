"""Triton twin of the fused products of relu2_mlp. N tokens, C channels, M units.

    relu2(x, w_fc) -> h (N, M) = relu(x w_fcᵀ)²         the activation in the product's epilogue
    slope(dy, w_proj, h) -> dz (N, M) = (dy w_proj)·2√h  its slope likewise

x and dy (N, C) in the dtype of w_fc (M, C) and w_proj (C, M), any strides; sums in fp32. The other four products of
the op have nothing to fuse and are torch's (pynanochat/ops/relu2_mlp_gpu.py). Bound by products: 2·N·C·M FLOPs each;
the epilogue saves reading and writing (N, M) twice in either pass.

With SCALED and EIGHT the same kernel takes and writes 8-bit floats: kernels/relu2_mlp_fp8.py.

Interpreted and compiled; it has not run on a GPU yet.
"""

import torch
import triton
import triton.language as tl

from pynanochat.kernels import stored_dtype
from pynanochat.kernels.fp8 import store_both
from pynanochat.kernels.product import GROUP, grouped, multiply, tiles


@triton.jit
def relu2_kernel(
    a, b, h, out, rows, columns, inner, a1, a2, b1, b2, h1, h2, o1, o2,
    a_inverse, b_inverse, eight, eight_columns, eight_scale, eight_amax, limit,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr, PRECISION: tl.constexpr,
    SLOPE: tl.constexpr, SCALED: tl.constexpr, KEEP: tl.constexpr, EIGHT: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    i, j = grouped(tl.program_id(0), tl.cdiv(rows, ROWS), tl.cdiv(columns, COLUMNS), GROUP)
    row, column = i * ROWS + tl.arange(0, ROWS), j * COLUMNS + tl.arange(0, COLUMNS)
    total = multiply(a, b, row, column, rows, columns, inner, a1, a2, b1, b2, ROWS, COLUMNS, INNER, PRECISION)
    if SCALED:
        total *= tl.load(a_inverse) * tl.load(b_inverse)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    far_row, far_column = row.to(tl.int64), column.to(tl.int64)
    if SLOPE:
        root = tl.sqrt(tl.load(h + far_row[:, None] * h1 + far_column[None, :] * h2, inside, other=0.0).to(tl.float32))
        total = 2.0 * root * total
    else:
        total = tl.where(total < 0.0, 0.0, total * total)  # tl.maximum would turn NaN into 0
    if KEEP:
        tl.store(out + far_row[:, None] * o1 + far_column[None, :] * o2, total.to(out.dtype.element_ty), inside)
    if EIGHT:
        store_both(total, eight, eight_columns, eight_scale, eight_amax, limit, row, column, rows, columns)


def launch(a, b, h, dtype, inverses=None, scale=None, keep=True):
    """The kernel on a (rows, inner) and b (inner, columns), the slope's with h: the result in `dtype` if `keep`, and
    with a scale (pynanochat/ops/fp8.py) the result in its 8-bit dtype by rows and by columns."""
    (rows, inner), columns, slope = a.shape, b.size(1), h is not None
    a, b, h = (t.to(stored_dtype(t.dtype)) for t in (a, b, h if slope else a))  # the interpreter multiplies no bf16
    out = torch.empty((rows, columns) if keep else (0, 0), dtype=stored_dtype(dtype), device=a.device)
    by_rows, by_columns, eight = out, out, (out, out, 0.0)
    if scale is not None:
        by_rows = torch.empty(rows, columns, dtype=stored_dtype(scale.dtype), device=a.device)
        by_columns = by_rows.new_empty(columns, rows)
        eight = (scale.scale, scale.amax, torch.finfo(scale.dtype).max)
    if rows * columns:
        tile = tiles("slope" if slope else "relu2", a.dtype, a.device, rows, columns)
        relu2_kernel[(triton.cdiv(rows, tile["ROWS"]) * triton.cdiv(columns, tile["COLUMNS"]),)](
            a, b, h, out, rows, columns, inner, *a.stride(), *b.stride(), *h.stride(), *out.stride(),
            *(inverses or (out, out)), by_rows, by_columns, *eight,
            **tile, SLOPE=slope, SCALED=inverses is not None, KEEP=keep, EIGHT=scale is not None, GROUP=GROUP,
        )  # fmt: skip
    out = out.to(dtype)
    return out if scale is None else (out, by_rows.to(scale.dtype), by_columns.to(scale.dtype))


def relu2(x, w_fc):
    """relu(x w_fcᵀ)², in x's dtype."""
    return launch(x, w_fc.T, None, x.dtype)


def slope(dy, w_proj, h):
    """The gradient before relu²: dy w_proj times 2√h, in dy's dtype."""
    return launch(dy, w_proj, h, dy.dtype)
