"""A residual sum and its RMS norm: total = x + residual, normed = total / sqrt(mean(total²) + eps) over the last axis.

Shapes: x and residual (..., C) -> two of (..., C) in their dtype; the mean is fp32, of the sum as it is stored.

A backend is a namespace of two functions:
    forward(x, residual, eps) -> (total, normed)
    backward(dtotal, dnormed, total, eps) -> the gradient of x, which is that of residual too
"""

import types

import torch

from pynanochat.ops.backends import choose, implement, pick
from pynanochat.ops.gpu import triton_twin
from pynanochat.ops.register import define, differentiate
from pynanochat.ops.rms_norm import backward_reference as norm_backward_reference
from pynanochat.ops.rms_norm import rms_norm_reference

# --- reference: plain torch, differentiable by itself ---


def rms_norm_residual_reference(x, residual, eps):
    total = x + residual
    return total, rms_norm_reference(total, eps)


def backward_reference(dtotal, dnormed, total, eps):
    return dtotal + norm_backward_reference(dnormed, total, eps)


implement(
    "rms_norm_residual",
    "reference",
    types.SimpleNamespace(forward=rms_norm_residual_reference, backward=backward_reference),
)
implement("rms_norm_residual", "triton", triton_twin("rms_norm_residual", "forward", "backward"))


# --- registration ---


def _run(x, residual, eps):
    return tuple(y.contiguous() for y in pick("rms_norm_residual", x).forward(x, residual, eps))


def _run_backward(dtotal, dnormed, total, eps):
    return pick("rms_norm_residual", total).backward(dtotal, dnormed, total, eps).contiguous()


def _setup_context(ctx, inputs, output):
    ctx.eps = inputs[2]
    ctx.save_for_backward(output[0])


_op = define(
    "rms_norm_residual(Tensor x, Tensor residual, float eps) -> (Tensor, Tensor)",
    _run,
    lambda x, residual, eps: (x.new_empty(x.shape), x.new_empty(x.shape)),
)
_backward_op = define(
    "rms_norm_residual_backward(Tensor dtotal, Tensor dnormed, Tensor total, float eps) -> Tensor",
    _run_backward,
    lambda dtotal, dnormed, total, eps: total.new_empty(total.shape),
)


def _differentiate(ctx, dtotal, dnormed):
    gradient = _backward_op(dtotal, dnormed, *ctx.saved_tensors, ctx.eps)
    return gradient, gradient, None


differentiate("rms_norm_residual", _setup_context, _differentiate)


class _Eager(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, residual, eps):
        results = _run(x, residual, eps)
        _setup_context(ctx, (x, residual, eps), results)
        return results

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dtotal, dnormed):
        gradient = _run_backward(dtotal, dnormed, *ctx.saved_tensors, ctx.eps)
        return gradient, gradient, None


def rms_norm_residual(x, residual, eps: float = 1e-6):
    """x + residual, and that sum normalised to unit root mean square over the last dimension; both (..., C)."""
    alike = x.shape == residual.shape and x.dtype == residual.dtype
    if choose("rms_norm_residual", x) == "reference" or not alike:
        return rms_norm_residual_reference(x, residual, eps)
    return (_op if torch.compiler.is_compiling() else _Eager.apply)(x, residual, eps)
