"""Triton twin of the matrix iteration of muon_step: x ← (a·I + b·G + c·G²)·x with G = x·xᵀ, for each (a, b, c).

    iterate(x, coefficients) -> x (n, R, C), in fp32 or fp16, batched over the stack, on the small side of the matrix

m the small side, M the large one. G and every polynomial in it are symmetric, so a program computes a tile on or above
the diagonal and also writes its mirror image: half the work, and results that are symmetric to the last bit. The
polynomial is one launch, its sum in the epilogue. Tall matrices are wide ones with other strides.

Two forms, chosen by shape; FLOPs of five steps, and of n×4n, where plain products take 90n³:
    dense   G = x·xᵀ, P = a·I + b·G + c·G², x ← P·x in each step                         5m³ + 15m²M    65n³
    gram    G ← P·G·P instead of x·xᵀ and Q ← P·Q instead of P·x; x ← Q·x at the end     14m³ + 6m²M    38n³
The Gram matrix loses its small eigenvalues to rounding, and what falls below zero grows from step to step: after
RESTART steps Q is applied and G formed anew. Half precision is fp16 here: no entry passes 40, and its three more
bits bring the result five to eight times closer to the exact one than bf16 at the same rate; in bf16 the Gram form
would be up to twice as far from it as plain products are.

Bound by products. Version ladder: plain products with torch; symmetric ones in one kernel; the Gram form.
Interpreted and compiled (fp16, tiles of 128: 103 to 206 registers and 96 KiB of shared memory on sm_90, 174 to 217 on
sm_80, nothing spilled); it has not run on a GPU yet.
"""

import torch
import triton
import triton.language as tl

from pynanochat.kernels.product import GROUP, grouped, multiply, on_or_above_diagonal, tiles

GRAM_RATIO = 2  # of M to m, from which the Gram form is the cheaper by a quarter or more
RESTART = 2  # steps


@triton.jit
def product_kernel(
    a, b, out, rows, columns, inner, shift, linear, square, a0, a1, a2, b0, b1, b2, o0, o1, o2,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr, PRECISION: tl.constexpr,
    SYMMETRIC: tl.constexpr, POLYNOMIAL: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    matrix = tl.program_id(1).to(tl.int64)
    a, b, out = a + matrix * a0, b + matrix * b0, out + matrix * o0
    if SYMMETRIC:
        i, j = on_or_above_diagonal(tl.program_id(0))
    else:
        i, j = grouped(tl.program_id(0), tl.cdiv(rows, ROWS), tl.cdiv(columns, COLUMNS), GROUP)
    row, column = i * ROWS + tl.arange(0, ROWS), j * COLUMNS + tl.arange(0, COLUMNS)
    total = multiply(
        a, b, row, column, rows, columns, inner, a1, a2, b1, b2, ROWS, COLUMNS, INNER, PRECISION
    )  # fmt: skip
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    far_row, far_column = row.to(tl.int64), column.to(tl.int64)
    if POLYNOMIAL:
        gram = tl.load(a + far_row[:, None] * a1 + far_column[None, :] * a2, inside, other=0.0).to(tl.float32)
        total = square * total + linear * gram + tl.where(row[:, None] == column[None, :], shift, 0.0)
    if SYMMETRIC:
        mirrored = tl.trans(total)
        total = tl.where(row[:, None] <= column[None, :], total, mirrored)  # differs on the diagonal's tiles only
        if i != j:
            at = out + far_column[:, None] * o1 + far_row[None, :] * o2
            tl.store(at, mirrored.to(out.dtype.element_ty), (column < columns)[:, None] & (row < rows)[None, :])
    tl.store(out + far_row[:, None] * o1 + far_column[None, :] * o2, total.to(out.dtype.element_ty), inside)


def _launch(a, b, out, polynomial, symmetric):
    batch, rows, columns = out.shape
    tile = tiles("muon_step", out.dtype, out.device, rows, columns, batch, square=symmetric)
    down, across = triton.cdiv(rows, tile["ROWS"]), triton.cdiv(columns, tile["COLUMNS"])
    count = down * (down + 1) // 2 if symmetric else down * across
    product_kernel[(count, batch)](
        a, b, out, rows, columns, a.size(-1), *(polynomial or (0.0, 0.0, 0.0)),
        *a.stride(), *b.stride(), *out.stride(),
        **tile, SYMMETRIC=symmetric, POLYNOMIAL=polynomial is not None, GROUP=GROUP,
    )  # fmt: skip
    return out


def product(a, b):
    """a·b of each matrix of two stacks, laid out like b."""
    out = torch.empty_like(b) if a.size(1) == b.size(1) else b.new_empty(len(a), a.size(1), b.size(2))
    return _launch(a, b, out, None, False)


def symmetric_product(a, b):
    """a·b of each matrix, where that is symmetric: x and xᵀ, or two polynomials in one symmetric matrix."""
    return _launch(a, b, b.new_empty(len(a), a.size(1), a.size(1)), None, True)


def polynomial(gram, coefficients):
    """a·I + b·G + c·G² of each symmetric matrix G, for coefficients (a, b, c)."""
    return _launch(gram, gram, torch.empty_like(gram), tuple(map(float, coefficients)), True)


def iterate_dense(x, coefficients):
    """The iteration of wide x (n, m, M), step by step on x itself."""
    for abc in coefficients:
        x = product(polynomial(symmetric_product(x, x.mT), abc), x)
    return x


def iterate_gram(x, coefficients):
    """The iteration of wide x (n, m, M) on its Gram matrix, RESTART steps and then the others."""
    for part in (coefficients[:RESTART], coefficients[RESTART:]):
        if part:
            x = product(accumulate(symmetric_product(x, x.mT), part), x)
    return x


def accumulate(gram, coefficients):
    """The product of the iteration's polynomials, for x with the Gram matrix `gram`."""
    whole = None
    for step, abc in enumerate(coefficients, start=1):
        p = polynomial(gram, abc)
        whole = p if whole is None else symmetric_product(p, whole)
        if step < len(coefficients):
            gram = symmetric_product(p, symmetric_product(gram, p))
    return whole


def iterate(x, coefficients):
    """x (n, R, C) in fp32 or fp16, its singular values at most 1, after the steps of `coefficients`."""
    if x.numel() == 0:
        return x
    wide = x if x.size(1) <= x.size(2) else x.mT
    gram_is_cheaper = wide.size(2) >= GRAM_RATIO * wide.size(1)
    wide = (iterate_gram if gram_is_cheaper else iterate_dense)(wide, list(coefficients))
    return wide if x.size(1) <= x.size(2) else wide.mT
