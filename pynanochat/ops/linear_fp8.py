"""y = x Wᵀ multiplied in 8-bit floats: x and W in e4m3, the gradient of y in e5m2, each with a delayed scale.

Shapes: x (..., C), weight (K, C) -> (..., K) in x's dtype; N rows of x, filled up with zeros to a multiple of 16. C and
K must be multiples of 16. The gradient of an fp32 weight is fp32. The products are torch's (`torch._scaled_mm`,
cuBLASLt on GPUs from sm_89 on), which takes factors that are dense along the inner dimension: so x, W and the gradient
are each cast once, into both layouts, and what is kept for the backward are 8-bit copies, half the memory of bf16.
Several weights may share x, and its cast; the cast of a weight can be made beforehand, once for many micro-batches.

A backend is the cast alone:
    cast(x, scale) -> (R, C) and (C, R), both dense, of x (R, C); raises scale.amax to the largest finite magnitude
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from pynanochat.errors import UsageError
from pynanochat.ops.backends import implement, pick
from pynanochat.ops.fp8 import Scale
from pynanochat.ops.gpu import triton_twin
from pynanochat.ops.register import define

WHOLE = 16  # what the sizes of a product must be multiples of


class Cast(NamedTuple):
    """A matrix in 8 bits, by rows (R, C) and by columns (C, R), and the inverse of the scale that it is times."""

    rows: torch.Tensor
    columns: torch.Tensor
    inverse: torch.Tensor


def cast_reference(x, scale):
    limit = torch.finfo(scale.dtype).max
    wide = x.float()
    size = wide.abs()
    if x.numel():
        scale.amax.copy_(torch.maximum(scale.amax, torch.where(size.isfinite(), size, 0).amax()))
    wide = wide.masked_fill(size.isinf(), float("nan"))  # not the largest number: the step has to be seen to be bad
    small = (wide * scale.scale).clamp(-limit, limit).to(scale.dtype)
    return small.contiguous(), small.T.contiguous()


implement("linear_fp8", "reference", cast_reference)
implement("linear_fp8", "triton", triton_twin("linear_fp8", "cast").cast)


def _run(x, scale, inverse, amax, dtype):
    return pick("linear_fp8", x)(x, Scale(dtype, scale, inverse, amax))


_op = define(
    "linear_fp8_cast(Tensor x, Tensor scale, Tensor inverse, Tensor(a!) amax, ScalarType dtype) -> (Tensor, Tensor)",
    _run,
    lambda x, scale, inverse, amax, dtype: (
        x.new_empty(x.shape, dtype=dtype),
        x.new_empty(x.shape[::-1], dtype=dtype),
    ),
)


def cast(x, scale: Scale) -> Cast:
    """x (R, C) in scale.dtype, times the scale."""
    scale.measure(x)
    run = _op if torch.compiler.is_compiling() else _run
    inverse = scale.inverse.clone()  # the scale may move on before the cast is used
    return Cast(*run(x, scale.scale, scale.inverse, scale.amax, scale.dtype), inverse)


def product(a, b, a_inverse, b_inverse, dtype, fast=False):
    """a (m, k) times b (n, k) transposed, both by rows, in `dtype`, over their scales.

    `fast` sums in fewer bits, which is good enough for activations.
    """
    return torch._scaled_mm(a, b.T, scale_a=a_inverse, scale_b=b_inverse, out_dtype=dtype, use_fast_accum=fast)


class _LinearsFp8(torch.autograd.Function):
    """x (N, C), its scale, the weights' casts, the gradients' scales, and the weights, which only get gradients."""

    @staticmethod
    def forward(ctx, x, of_x, casts, of_dys, *weights):
        x8 = cast(x, of_x)
        ctx.of_dys, ctx.dtypes = of_dys, [x.dtype, *(weight.dtype for weight in weights)]
        ctx.save_for_backward(*x8[1:], *(tensor for each in casts for tensor in each[1:]))
        return tuple(product(x8.rows, w8.rows, x8.inverse, w8.inverse, x.dtype, fast=True) for w8 in casts)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, *dys):
        x8_columns, of_x, *casts = ctx.saved_tensors
        dx, dweights = None, []
        for i, (dy, of_dy) in enumerate(zip(dys, ctx.of_dys, strict=True)):
            dy8 = cast(dy, of_dy)
            if ctx.needs_input_grad[0]:
                part = product(dy8.rows, casts[2 * i], dy8.inverse, casts[2 * i + 1], ctx.dtypes[0])
                dx = part if dx is None else dx.add_(part)
            wanted = ctx.needs_input_grad[4 + i]
            dtype = ctx.dtypes[1 + i]
            dweights.append(product(dy8.columns, x8_columns, dy8.inverse, of_x, dtype) if wanted else None)
        return dx, None, None, None, *dweights


def check_widths(op: str, instead: str, *weights) -> None:
    """Raise UsageError for a weight of which a side is no multiple of 16."""
    for weight in weights:
        if any(size % WHOLE for size in weight.shape):
            raise UsageError(
                f"{op}: a weight of {tuple(weight.shape)}: sides must be multiples of {WHOLE}; use {instead}"
            )


def filled(x):
    """x (..., C) as (N, C), with rows of zeros below up to a multiple of 16: they change no product and no scale."""
    x = x.flatten(0, -2)
    missing = -x.size(0) % WHOLE
    return F.pad(x, (0, 0, 0, missing)) if missing else x


def unfilled(y, like):
    """y (N, K), without the rows that `filled` added to `like` (..., C), as (..., K)."""
    rows = like.numel() // max(1, like.size(-1))
    return (y if y.size(0) == rows else y[:rows]).view(*like.shape[:-1], y.size(1))


def linears_fp8(x, weights, scales, casts=None):
    """x (..., C) times each of `weights` (K, C) transposed, in 8-bit floats, x cast once.

    scales: of x, of each weight, of the gradient of each result. casts: of the weights, where they are made already.
    Raises UsageError where a side of a weight is no multiple of 16.
    """
    check_widths("linear_fp8", "linear", *weights)
    count = len(weights)
    casts = casts or [cast(weight.detach(), scale) for weight, scale in zip(weights, scales[1:], strict=False)]
    results = _LinearsFp8.apply(filled(x), scales[0], casts, scales[1 + count :], *weights)
    return tuple(unfilled(y, x) for y in results)


def linear_fp8(x, weight, scales, casts=None):
    """x (..., C) times weight (K, C) transposed; as linears_fp8, of one weight."""
    return linears_fp8(x, (weight,), scales, casts)[0]
