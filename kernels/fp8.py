"""What the Triton kernels that write 8-bit floats share: a tile in both layouts, scaled, and its largest magnitude."""

import triton
import triton.language as tl


@triton.jit
def store_both(values, by_rows, by_columns, scale, amax, limit, row, column, rows, columns):
    """Store the fp32 tile `values` at the indices row and column of (rows, columns), dense, and of its transpose.

    Times the scale, cut at ±limit, rounded once; infinities and what is not a number become NaN, so that the step is
    seen to be bad. amax is raised to the largest finite magnitude, so that one bad value does not spoil the scale.
    """
    size = tl.abs(values)
    tl.atomic_max(amax, tl.max(tl.max(tl.where(size < float("inf"), size, 0.0), axis=1), axis=0))
    scaled = values * tl.load(scale)
    scaled = tl.where(scaled > limit, limit, tl.where(scaled < -limit, -limit, scaled))
    scaled = tl.where(size == float("inf"), float("nan"), scaled)
    small = scaled.to(by_rows.dtype.element_ty)
    far_row, far_column = row.to(tl.int64), column.to(tl.int64)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    tl.store(by_rows + far_row[:, None] * columns + far_column[None, :], small, inside)
    across = (column < columns)[:, None] & (row < rows)[None, :]
    tl.store(by_columns + far_column[:, None] * rows + far_row[None, :], tl.trans(small), across)
