"""y = x Wᵀ multiplied in 8-bit floats: x and W in e4m3, the gradient of y in e5m2, each with a delayed scale.

Shapes: x (..., C), weight (K, C) -> (..., K) in x's dtype; N rows of x. N, C and K must be multiples of 16. The
gradient of an fp32 weight is fp32. The products are torch's (`torch._scaled_mm`, cuBLASLt on GPUs from sm_89 on), which
takes factors that are dense along the inner dimension: so x, W and the gradient are each cast once, into both layouts,
and what is kept for the backward are 8-bit copies, half the memory of bf16.

A backend is the cast alone:
    cast(x, scale) -> (R, C) and (C, R), both dense, of x (R, C); raises scale.amax to the largest finite magnitude
"""

import torch

from pynanochat.errors import UsageError
from pynanochat.ops.backends import implement, pick
from pynanochat.ops.fp8 import Scale
from pynanochat.ops.gpu import triton_twin
from pynanochat.ops.register import define

WHOLE = 16  # what the sizes of a product must be multiples of


def cast_reference(x, scale):
    limit = torch.finfo(scale.dtype).max
    wide = x.float()
    size = wide.abs()
    if x.numel():
        scale.amax.copy_(torch.maximum(scale.amax, torch.where(size.isfinite(), size, 0).amax()))
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


def cast(x, scale: Scale):
    """x (R, C) in scale.dtype, times the scale: dense (R, C) and dense (C, R)."""
    scale.seed(x)
    run = _op if torch.compiler.is_compiling() else _run
    return run(x, scale.scale, scale.inverse, scale.amax, scale.dtype)


def product(a, b, a_inverse, b_inverse, dtype, fast=False):
    """a (m, k) times b (n, k) transposed, both by rows, in `dtype`, over their scales.

    `fast` sums in fewer bits, which is good enough for activations.
    """
    return torch._scaled_mm(a, b.T, scale_a=a_inverse, scale_b=b_inverse, out_dtype=dtype, use_fast_accum=fast)


class _LinearFp8(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, scales):
        x8, x8_columns = cast(x, scales[0])
        weight8, weight8_columns = cast(weight, scales[1])
        inverses = [scale.inverse.clone() for scale in scales[:2]]  # the scales may move on before the backward
        ctx.save_for_backward(x8_columns, weight8_columns, *inverses)
        ctx.of_dy, ctx.dtypes = scales[2], (x.dtype, weight.dtype)
        return product(x8, weight8, *inverses, x.dtype, fast=True)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy):
        x8_columns, weight8_columns, of_x, of_weight = ctx.saved_tensors
        dy8, dy8_columns = cast(dy, ctx.of_dy)
        of_dy = ctx.of_dy.inverse
        dx = product(dy8, weight8_columns, of_dy, of_weight, ctx.dtypes[0]) if ctx.needs_input_grad[0] else None
        return dx, product(dy8_columns, x8_columns, of_dy, of_x, ctx.dtypes[1]), None


def linear_fp8(x, weight, scales):
    """x (..., C) times weight (K, C) transposed, in 8-bit floats; `scales` are those of x, weight and gradient.

    Raises UsageError where a size is no multiple of 16.
    """
    rows = x.numel() // max(1, x.size(-1))
    if any(size % WHOLE for size in (rows, *weight.shape)):
        raise UsageError(
            f"linear_fp8: {rows} rows times {tuple(weight.shape)}: every size must be a multiple of {WHOLE}; use linear"
        )
    return _LinearFp8.apply(x.flatten(0, -2), weight, scales).view(*x.shape[:-1], weight.size(0))
