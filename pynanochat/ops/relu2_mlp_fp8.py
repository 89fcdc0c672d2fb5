"""The MLP of a block, relu(x W_fcᵀ)² W_projᵀ, multiplied in 8-bit floats with delayed scales.

Shapes: x (..., C), w_fc (M, C), w_proj (C, M) -> (..., C) in x's dtype; N rows of x. N, C and M must be multiples of
16. Gradients of fp32 weights are fp32. Six scales: of x, w_fc, w_proj and h = relu(x W_fcᵀ)² in e4m3, of the gradients
of the result and before relu² in e5m2. Only x, the weights and the result's gradient are cast in passes of their own;
what is between is written in 8 bits by the product that made it. h is also kept in x's dtype: its root is the slope.

A backend is a namespace of two, on 8-bit factors and the inverses of their scales (and linear_fp8's cast):
    relu2(x, w_fc, inverses, scale, dtype) -> h (N, M) in `dtype`, h in 8 bits (N, M) and (M, N)
    slope(dy, w_proj_columns, h, inverses, scale) -> dz = (dy w_proj)·2√h in 8 bits (N, M) and (M, N)
"""

import types

import torch

from pynanochat.errors import UsageError
from pynanochat.ops.backends import implement, pick
from pynanochat.ops.fp8 import Scale
from pynanochat.ops.gpu import triton_twin
from pynanochat.ops.linear_fp8 import WHOLE, cast, cast_reference, product
from pynanochat.ops.register import define


def exact_relu2(x, w_fc, inverses):
    return product(x, w_fc, *inverses, torch.float32).relu().square()


def exact_slope(dy, w_proj_columns, h, inverses):
    return product(dy, w_proj_columns, *inverses, torch.float32) * 2 * h.float().sqrt()


def relu2_reference(x, w_fc, inverses, scale, dtype):
    h = exact_relu2(x, w_fc, inverses)
    return h.to(dtype), *cast_reference(h, scale)


def slope_reference(dy, w_proj_columns, h, inverses, scale):
    return cast_reference(exact_slope(dy, w_proj_columns, h, inverses), scale)


implement("relu2_mlp_fp8", "reference", types.SimpleNamespace(relu2=relu2_reference, slope=slope_reference))
implement("relu2_mlp_fp8", "triton", triton_twin("relu2_mlp_fp8", "relu2", "slope"))


# --- registration ---


def _relu2(x, w_fc, x_inverse, w_inverse, scale, inverse, amax, eight, dtype):
    of_h = Scale(eight, scale, inverse, amax)
    return pick("relu2_mlp_fp8", x).relu2(x, w_fc, (x_inverse, w_inverse), of_h, dtype)


def _slope(dy, w_proj_columns, h, dy_inverse, w_inverse, scale, inverse, amax, eight):
    of_dz = Scale(eight, scale, inverse, amax)
    return pick("relu2_mlp_fp8", dy).slope(dy, w_proj_columns, h, (dy_inverse, w_inverse), of_dz)


def _empty_both(x, units, dtype):
    return x.new_empty(x.size(0), units, dtype=dtype), x.new_empty(units, x.size(0), dtype=dtype)


_relu2_op = define(
    "relu2_mlp_fp8_relu2(Tensor x, Tensor w_fc, Tensor x_inverse, Tensor w_inverse, Tensor scale, Tensor inverse, "
    "Tensor(a!) amax, ScalarType eight, ScalarType dtype) -> (Tensor, Tensor, Tensor)",
    _relu2,
    lambda x, w_fc, x_inverse, w_inverse, scale, inverse, amax, eight, dtype: (
        x.new_empty(x.size(0), w_fc.size(0), dtype=dtype),
        *_empty_both(x, w_fc.size(0), eight),
    ),
)
_slope_op = define(
    "relu2_mlp_fp8_slope(Tensor dy, Tensor w_proj_columns, Tensor h, Tensor dy_inverse, Tensor w_inverse, "
    "Tensor scale, Tensor inverse, Tensor(a!) amax, ScalarType eight) -> (Tensor, Tensor)",
    _slope,
    lambda dy, w_proj_columns, h, dy_inverse, w_inverse, scale, inverse, amax, eight: _empty_both(dy, h.size(1), eight),
)


def relu2(x, w_fc, inverses, scale, dtype):
    """The first product and relu², in `dtype` and in 8 bits by rows and by columns."""
    if not scale.seeded:  # the first time the result's size is not known before it is there
        scale.seed(exact_relu2(x, w_fc, inverses))
    run = _relu2_op if torch.compiler.is_compiling() else _relu2
    return run(x, w_fc, *inverses, scale.scale, scale.inverse, scale.amax, scale.dtype, dtype)


def slope(dy, w_proj_columns, h, inverses, scale):
    """The gradient before relu² in 8 bits, by rows and by columns."""
    if not scale.seeded:
        scale.seed(exact_slope(dy, w_proj_columns, h, inverses))
    run = _slope_op if torch.compiler.is_compiling() else _slope
    return run(dy, w_proj_columns, h, *inverses, scale.scale, scale.inverse, scale.amax, scale.dtype)


class _Relu2MlpFp8(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w_fc, w_proj, scales):
        of_x, of_fc, of_proj, of_h, *ctx.of_grads = scales
        x8, x8_columns = cast(x, of_x)
        fc8, fc8_columns = cast(w_fc, of_fc)
        proj8, proj8_columns = cast(w_proj, of_proj)
        before = [scale.inverse.clone() for scale in (of_x, of_fc, of_proj)]  # the scales may move on
        h, h8, h8_columns = relu2(x8, fc8, before[:2], of_h, x.dtype)
        of_h = of_h.inverse.clone()
        ctx.save_for_backward(x8_columns, fc8_columns, proj8_columns, h, h8_columns, *before, of_h)
        ctx.dtypes = w_fc.dtype, w_proj.dtype
        return product(h8, proj8, of_h, before[2], x.dtype, fast=True)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy):
        x8_columns, fc8_columns, proj8_columns, h, h8_columns, of_x, of_fc, of_proj, of_h = ctx.saved_tensors
        of_dy, of_dz = ctx.of_grads
        dy8, dy8_columns = cast(dy, of_dy)
        dw_proj = product(dy8_columns, h8_columns, of_dy.inverse, of_h, ctx.dtypes[1])
        inverses = (of_dy.inverse, of_proj)
        dz8, dz8_columns = slope(dy8, proj8_columns, h, inverses, of_dz)
        dx = product(dz8, fc8_columns, of_dz.inverse, of_fc, h.dtype) if ctx.needs_input_grad[0] else None
        return dx, product(dz8_columns, x8_columns, of_dz.inverse, of_x, ctx.dtypes[0]), dw_proj, None


def relu2_mlp_fp8(x, w_fc, w_proj, scales):
    """relu(x W_fcᵀ)² W_projᵀ; `scales` are those of x, w_fc, w_proj, h in e4m3 and of dy, dz in e5m2.

    Raises UsageError where a size is no multiple of 16.
    """
    rows = x.numel() // max(1, x.size(-1))
    if any(size % WHOLE for size in (rows, *w_fc.shape)):
        raise UsageError(
            f"relu2_mlp_fp8: {rows} rows, weights {tuple(w_fc.shape)}: every size must be a multiple of {WHOLE}; "
            "use relu2_mlp"
        )
    return _Relu2MlpFp8.apply(x.flatten(0, -2), w_fc, w_proj, scales).view(x.shape)
