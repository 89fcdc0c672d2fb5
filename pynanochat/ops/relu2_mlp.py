"""The MLP of a block: relu(x W_fcᵀ)² W_projᵀ.

Shapes: x (..., C), w_fc (M, C), w_proj (C, M) -> (..., C) in x's dtype.

The reference is one function of (x, w_fc, w_proj), differentiable by itself. Any other backend is a namespace of two:
    forward(x, w_fc, w_proj) -> y, h: x and y (N, C), h = relu(x W_fcᵀ)² (N, M) in x's dtype
    backward(dy, x, h, w_fc, w_proj) -> (dx, dw_fc, dw_proj); the slope of relu² is 2√h
"""

import types

import torch
import torch.nn.functional as F

from pynanochat.ops import relu2_mlp_gpu
from pynanochat.ops.backends import choose, implement, pick
from pynanochat.ops.linear import FEW_ROWS, linear_reference, product_cpu
from pynanochat.ops.register import define, differentiate


def relu2_mlp_reference(x, w_fc, w_proj):
    return linear_reference(F.relu(linear_reference(x, w_fc)).square(), w_proj)


implement("relu2_mlp", "reference", relu2_mlp_reference)


# --- cpu ---


def forward_cpu(x, w_fc, w_proj):
    h = product_cpu(x, w_fc.T, x.dtype, "relu2")
    return product_cpu(h, w_proj.T, x.dtype), h


def backward_cpu(dy, x, h, w_fc, w_proj):
    dz = product_cpu(dy, w_proj, x.dtype, "relu2_slope", h)
    dw_proj = product_cpu(dy.T, h, w_proj.dtype)
    return product_cpu(dz, w_fc, x.dtype), product_cpu(dz.T, x, w_fc.dtype), dw_proj


implement("relu2_mlp", "cpu", types.SimpleNamespace(forward=forward_cpu, backward=backward_cpu))
implement("relu2_mlp", "triton", relu2_mlp_gpu.triton)


# --- registration ---


def _run(x, w_fc, w_proj):
    return pick("relu2_mlp", x).forward(x, w_fc, w_proj)


def _run_backward(dy, x, h, w_fc, w_proj):
    return pick("relu2_mlp", x).backward(dy, x, h, w_fc, w_proj)


def _setup_context(ctx, inputs, output):
    x, w_fc, w_proj = inputs
    ctx.save_for_backward(x, output[1], w_fc, w_proj)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # of h's gradient, as large as h


_op = define(
    "relu2_mlp(Tensor x, Tensor w_fc, Tensor w_proj) -> (Tensor, Tensor)",
    _run,
    lambda x, w_fc, w_proj: (x.new_empty(x.shape), x.new_empty(x.size(0), w_fc.size(0))),
)
_backward_op = define(
    "relu2_mlp_backward(Tensor dy, Tensor x, Tensor h, Tensor w_fc, Tensor w_proj) -> (Tensor, Tensor, Tensor)",
    _run_backward,
    lambda dy, x, h, w_fc, w_proj: tuple(t.new_empty(t.shape) for t in (x, w_fc, w_proj)),
)
differentiate("relu2_mlp", _setup_context, lambda ctx, dy, _: _backward_op(dy, *ctx.saved_tensors))


class _Eager(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *inputs):
        output = _run(*inputs)
        _setup_context(ctx, inputs, output)
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy, _):
        return _run_backward(dy, *ctx.saved_tensors)


def relu2_mlp(x, w_fc, w_proj):
    """relu(x W_fcᵀ)² W_projᵀ for x (..., C), w_fc (M, C), w_proj (C, M)."""
    if choose("relu2_mlp", x) == "reference" or x.numel() < FEW_ROWS * x.size(-1):
        return relu2_mlp_reference(x, w_fc, w_proj)
    y, _ = (_op if torch.compiler.is_compiling() else _Eager.apply)(x.flatten(0, -2), w_fc, w_proj)
    return y.view(x.shape)
