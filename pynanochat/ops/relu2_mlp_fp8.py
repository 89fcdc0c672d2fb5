"""The MLP of a block, relu(x W_fcᵀ)² W_projᵀ, multiplied in 8-bit floats with delayed scales.

Shapes: x (..., C), w_fc (M, C), w_proj (C, M) -> (..., C) in x's dtype; N rows of x, filled up with zeros to a multiple
of 16. C and M must be multiples of 16. Gradients of fp32 weights are fp32. Six scales: of x, w_fc, w_proj and
h = relu(x W_fcᵀ)² in e4m3, of the gradients of the result and before relu² in e5m2. Only x, the result's gradient and
the weights, which may be cast beforehand, are cast in passes of their own; what is between is written in 8 bits by the
product that made it. h is also kept in x's dtype: its root is the slope.

A backend is a namespace of two, on 8-bit factors and the inverses of their scales (and linear_fp8's cast):
    relu2(x, w_fc, inverses, scale, dtype) -> h (N, M) in `dtype`, h in 8 bits (N, M) and (M, N)
    slope(dy, w_proj_columns, h, inverses, scale) -> dz = (dy w_proj)·2√h in 8 bits (N, M) and (M, N)
"""

import types

import torch

from pynanochat.ops.backends import implement, pick
from pynanochat.ops.fp8 import Scale
from pynanochat.ops.gpu import triton_twin
from pynanochat.ops.linear_fp8 import cast, cast_reference, check_widths, filled, product, unfilled
from pynanochat.ops.register import define


def plain_relu2(x, w_fc, inverses, dtype=torch.float32):
    return product(x, w_fc, *inverses, dtype).relu_().square_()


def plain_slope(dy, w_proj_columns, h, inverses, dtype=torch.float32):
    return product(dy, w_proj_columns, *inverses, dtype).mul_(2 * h.to(dtype).sqrt())


def relu2_reference(x, w_fc, inverses, scale, dtype):
    h = plain_relu2(x, w_fc, inverses)
    return h.to(dtype), *cast_reference(h, scale)


def slope_reference(dy, w_proj_columns, h, inverses, scale):
    return cast_reference(plain_slope(dy, w_proj_columns, h, inverses), scale)


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
    if scale.measuring:  # the result's size is not known before it is there
        scale.measure(plain_relu2(x, w_fc, inverses, dtype))
    run = _relu2_op if torch.compiler.is_compiling() else _relu2
    return run(x, w_fc, *inverses, scale.scale, scale.inverse, scale.amax, scale.dtype, dtype)


def slope(dy, w_proj_columns, h, inverses, scale):
    """The gradient before relu² in 8 bits, by rows and by columns."""
    if scale.measuring:
        scale.measure(plain_slope(dy, w_proj_columns, h, inverses, h.dtype))
    run = _slope_op if torch.compiler.is_compiling() else _slope
    return run(dy, w_proj_columns, h, *inverses, scale.scale, scale.inverse, scale.amax, scale.dtype)


class _Relu2MlpFp8(torch.autograd.Function):
    """x (N, C), the weights' casts, the other scales, and the weights, which only get gradients."""

    @staticmethod
    def forward(ctx, x, casts, scales, w_fc, w_proj):
        of_x, of_h, *ctx.of_grads = scales
        fc8, proj8 = casts
        x8 = cast(x, of_x)
        h, h8, h8_columns = relu2(x8.rows, fc8.rows, (x8.inverse, fc8.inverse), of_h, x.dtype)
        h_inverse = of_h.inverse.clone()  # the scale may move on before the backward
        ctx.save_for_backward(h, h8_columns, h_inverse, *x8[1:], *fc8[1:], *proj8[1:])
        ctx.dtypes = w_fc.dtype, w_proj.dtype
        return product(h8, proj8.rows, h_inverse, proj8.inverse, x.dtype, fast=True)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy):
        h, h8_columns, of_h, x8_columns, of_x, fc8_columns, of_fc, proj8_columns, of_proj = ctx.saved_tensors
        wants_dx, _, _, wants_dfc, wants_dproj = ctx.needs_input_grad
        of_dy, of_dz = ctx.of_grads
        dx = dw_fc = dw_proj = None
        dy8 = cast(dy, of_dy)
        if wants_dproj:
            dw_proj = product(dy8.columns, h8_columns, dy8.inverse, of_h, ctx.dtypes[1])
        dz8, dz8_columns = slope(dy8.rows, proj8_columns, h, (dy8.inverse, of_proj), of_dz)
        if wants_dx:
            dx = product(dz8, fc8_columns, of_dz.inverse, of_fc, h.dtype)
        if wants_dfc:
            dw_fc = product(dz8_columns, x8_columns, of_dz.inverse, of_x, ctx.dtypes[0])
        return dx, None, None, dw_fc, dw_proj


def relu2_mlp_fp8(x, w_fc, w_proj, scales, casts=None):
    """relu(x W_fcᵀ)² W_projᵀ; `scales` are those of x, w_fc, w_proj, h in e4m3 and of dy, dz in e5m2.

    casts: of the weights, where they are made already. Raises UsageError where a side of a weight is no multiple of 16.
    """
    check_widths("relu2_mlp_fp8", "relu2_mlp", w_fc)
    of_x, of_fc, of_proj, *others = scales
    casts = casts or (cast(w_fc.detach(), of_fc), cast(w_proj.detach(), of_proj))
    return unfilled(_Relu2MlpFp8.apply(filled(x), casts, (of_x, *others), w_fc, w_proj), x)
