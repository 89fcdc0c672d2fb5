"""Triton twin of the cast to an 8-bit float before a product: linear_fp8.

    cast(x, scale) -> by rows (R, C), by columns (C, R)

x (R, C) in any float dtype and with any strides, times scale.scale, cut to what scale.dtype holds, rounded once, in
both layouts: a product in fp8 takes factors that are dense along the inner dimension only, and every factor of a layer
is needed along both. The same pass raises scale.amax to the largest magnitude of x (finite ones only, so that one
gradient that is not a number does not spoil the scale; it stays NaN in the result). Bound by memory: R·C elements
read, two bytes written for each, instead of six passes of plain torch.

Interpreted with fp32 stores, since the interpreter rounds 8-bit floats wrongly; as such compiled for sm_90 (8-bit
floats need sm_89). It has not run on a GPU yet.
"""

import torch
import triton
import triton.language as tl

from pynanochat.kernels import stored_dtype
from pynanochat.kernels.fp8 import store_both

SIDE = 64  # of a tile


@triton.jit
def cast_kernel(x, by_rows, by_columns, eight_scale, eight_amax, rows, columns, limit, x0, x1, SIDE: tl.constexpr):
    row, column = tl.program_id(1) * SIDE + tl.arange(0, SIDE), tl.program_id(0) * SIDE + tl.arange(0, SIDE)
    far_row, far_column = row.to(tl.int64), column.to(tl.int64)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    wide = tl.load(x + far_row[:, None] * x0 + far_column[None, :] * x1, inside, other=0.0).to(tl.float32)
    store_both(wide, by_rows, by_columns, eight_scale, eight_amax, limit, row, column, rows, columns)


def cast(x, scale):
    """x (R, C) in scale.dtype, times the scale: dense (R, C) and dense (C, R)."""
    rows, columns = x.shape
    by_rows = torch.empty(rows, columns, dtype=stored_dtype(scale.dtype), device=x.device)
    by_columns = by_rows.new_empty(columns, rows)
    if x.numel():
        grid = (triton.cdiv(columns, SIDE), triton.cdiv(rows, SIDE))
        cast_kernel[grid](
            x, by_rows, by_columns, scale.scale, scale.amax, rows, columns, torch.finfo(scale.dtype).max, *x.stride(),
            SIDE=SIDE, num_warps=4,
        )  # fmt: skip
    return by_rows.to(scale.dtype), by_columns.to(scale.dtype)
