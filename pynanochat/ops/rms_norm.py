"""RMS norm without a weight: y = x / sqrt(mean(x²) + eps) over the last dimension.

Shapes: x (..., C) -> (..., C) in x's dtype; the mean is taken in fp32.

A backend is a namespace of two functions:
    forward(x, eps) -> y
    backward(dy, x, eps) -> dx
"""

import types

import torch
import torch.nn.functional as F

from pynanochat.ops.backends import choose, implement, pick
from pynanochat.ops.gpu import triton_twin
from pynanochat.ops.register import define, differentiate

# --- reference: plain torch, differentiable by itself ---


def rms_norm_reference(x, eps):
    return F.rms_norm(x, (x.size(-1),), eps=eps)


def backward_reference(dy, x, eps):
    wide = torch.promote_types(x.dtype, torch.float32)
    x_wide, g = x.to(wide), dy.to(wide)
    r = (x_wide.square().mean(-1, keepdim=True) + eps).rsqrt()
    return (r * (g - x_wide * ((x_wide * g).mean(-1, keepdim=True) * r * r))).to(x.dtype)


implement("rms_norm", "reference", types.SimpleNamespace(forward=rms_norm_reference, backward=backward_reference))
implement("rms_norm", "triton", triton_twin("rms_norm", "forward", "backward"))


# --- registration ---


def _run(x, eps):
    return pick("rms_norm", x).forward(x, eps).contiguous()


def _run_backward(dy, x, eps):
    return pick("rms_norm", x).backward(dy, x, eps).contiguous()


def _setup_context(ctx, inputs, output):
    x, ctx.eps = inputs
    ctx.save_for_backward(x)


_op = define("rms_norm(Tensor x, float eps) -> Tensor", _run, lambda x, eps: x.new_empty(x.shape))
_backward_op = define(
    "rms_norm_backward(Tensor dy, Tensor x, float eps) -> Tensor",
    _run_backward,
    lambda dy, x, eps: x.new_empty(x.shape),
)
differentiate("rms_norm", _setup_context, lambda ctx, dy: (_backward_op(dy, *ctx.saved_tensors, ctx.eps), None))


class _Eager(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, eps):
        _setup_context(ctx, (x, eps), None)
        return _run(x, eps)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy):
        return _run_backward(dy, *ctx.saved_tensors, ctx.eps), None


def rms_norm(x, eps: float = 1e-6):
    """x (..., C) normalised to unit root mean square over C, in x's dtype."""
    if choose("rms_norm", x) == "reference":
        return rms_norm_reference(x, eps)
    return _op(x, eps) if torch.compiler.is_compiling() else _Eager.apply(x, eps)
