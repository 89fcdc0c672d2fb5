"""What the Triton kernels with a matrix product share: a tile of a·b summed in fp32, and the order of tiles.

a (rows, inner) and b (inner, columns) by strides, so that either may be a transposed view. A tile's sum stays in
registers for the epilogue of the kernel that asked for it. On sm_90 the products are wgmma, on sm_80 mma.sync with
cp.async. The tile sizes that come first are the largest that spill no register on both.
"""

import torch
import triton
import triton.language as tl

from pynanochat.kernels.tiles import choose, short

PROGRAMS = 132  # wanted at least: one for every multiprocessor of an H100
GROUP = 8  # rows of tiles whose columns are walked together, so that the tiles of b are read from the L2 cache


@triton.jit
def multiply(
    a, b, row, column, rows, columns, inner, a_row, a_inner, b_inner, b_column,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The fp32 tile of a·b at the indices row (ROWS,) and column (COLUMNS,), zero outside the matrix."""
    a_at = a + row.to(tl.int64)[:, None] * a_row
    b_at = b + column.to(tl.int64)[None, :] * b_column
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in range(0, inner, INNER):
        k = first + tl.arange(0, INNER)
        inside = k < inner
        far = k.to(tl.int64)
        left = tl.load(a_at + far[None, :] * a_inner, (row < rows)[:, None] & inside[None, :], other=0.0)
        right = tl.load(b_at + far[:, None] * b_inner, inside[:, None] & (column < columns)[None, :], other=0.0)
        total = tl.dot(left, right, total, input_precision=PRECISION)
    return total


@triton.jit
def grouped(tile, row_tiles, column_tiles, GROUP: tl.constexpr):
    """Row and column of the tile-th tile, GROUP rows of tiles at a time."""
    group = tile // (GROUP * column_tiles)
    first = group * GROUP
    height = tl.minimum(row_tiles - first, GROUP)
    within = tile - group * GROUP * column_tiles
    return first + within % height, within // height


@triton.jit
def on_or_above_diagonal(tile):
    """Row and column of the tile-th tile with row <= column: column by column, 0; 1, 2; 3, 4, 5; ..."""
    column = ((tl.sqrt(8.0 * tile + 1.0) - 1.0) * 0.5).to(tl.int32)
    column = tl.where(column * (column + 1) // 2 > tile, column - 1, column)  # the root is rounded
    column = tl.where((column + 1) * (column + 2) // 2 <= tile, column + 1, column)
    return tile - column * (column + 1) // 2, column


# ROWS, COLUMNS, warps, stages; the first is run where none was measured
LARGE = ((128, 128, 8, 3), (128, 128, 8, 4), (128, 64, 4, 4), (64, 128, 4, 4), (128, 256, 8, 3))
SMALL = ((64, 64, 4, 3), (64, 64, 4, 5), (128, 64, 4, 4), (64, 32, 4, 4))


def tiles(name: str, dtype, device, rows: int, columns: int, batch: int = 1, square: bool = False) -> dict:
    """Constants, warps and stages of the product `name` of `dtype`: large tiles, small ones where those would leave the
    card idle. `square`: as many rows as columns."""
    inner = 128 // dtype.itemsize  # a line of shared memory
    if dtype == torch.float32:
        return {"ROWS": 64, "COLUMNS": 64, "INNER": inner, "PRECISION": "ieee", "num_warps": 8, "num_stages": 3}
    busy = batch * triton.cdiv(rows, 128) * triton.cdiv(columns, 128) >= PROGRAMS
    candidates = [
        {"ROWS": r, "COLUMNS": c, "num_warps": warps, "num_stages": stages}
        for r, c, warps, stages in (LARGE if busy else SMALL)
        if r == c or not square
    ]
    case = f"{name} {short(dtype)} {'large' if busy else 'small'}{', square' if square else ''}"
    return {**choose(case, candidates, device), "INNER": inner, "PRECISION": "tf32"}
