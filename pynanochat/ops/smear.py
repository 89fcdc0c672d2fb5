"""Smear: each position takes a gated share of the one before it, x[t] += λ·sigmoid(w·x[t, :channels])·x[t-1].

Shapes: x (B, T, C), weight (1, channels), scale (1,), previous (B, C) or None -> (B, T, C). `previous` is the
(unsmeared) position before the first one, for decoding; without it the first position is left as it is.

A backend is a namespace of two functions:
    forward(x, weight, scale, previous) -> y
    backward(dy, x, weight, scale, previous) -> (dx, dweight, dscale, dprevious), the last empty without previous
"""

import types

import torch
import torch.nn.functional as F

from pynanochat.ops.backends import choose, implement, pick
from pynanochat.ops.gpu import triton_twin
from pynanochat.ops.linear import linear_reference
from pynanochat.ops.register import define, differentiate

# --- reference: plain torch, differentiable by itself ---


def smear_reference(x, weight, scale, previous):
    gate = scale.to(x.dtype) * torch.sigmoid(linear_reference(x[..., : weight.size(1)], weight))  # (B, T, 1)
    return x + gate * _before(x, previous)


def _before(x, previous):
    return F.pad(x[:, :-1], (0, 0, 1, 0)) if previous is None else torch.cat([previous[:, None], x[:, :-1]], dim=1)


def backward_reference(dy, x, weight, scale, previous):
    wide = torch.promote_types(x.dtype, torch.float32)
    channels = weight.size(1)
    x_wide, dy, w, factor = (t.to(wide) for t in (x, dy, weight, scale))
    s = torch.sigmoid(F.linear(x_wide[..., :channels], w))
    gate = factor * s
    dot = (dy * _before(x_wide, None if previous is None else previous.to(wide))).sum(-1, keepdim=True)
    slope = gate * (1 - s) * dot
    dx = dy + F.pad(gate[:, 1:] * dy[:, 1:], (0, 0, 0, 1))
    dx[..., :channels] += slope * w
    dweight = slope.flatten()[None] @ x_wide[..., :channels].flatten(0, 1)
    dprevious = x.new_empty(0) if previous is None else (gate[:, 0] * dy[:, 0]).to(x.dtype)
    return dx.to(x.dtype), dweight.to(weight.dtype), (s * dot).sum().view(1).to(scale.dtype), dprevious


implement("smear", "reference", types.SimpleNamespace(forward=smear_reference, backward=backward_reference))
implement("smear", "triton", triton_twin("smear", "forward", "backward"))


# --- registration ---


def _run(x, weight, scale, previous):
    return pick("smear", x).forward(x, weight, scale, previous).contiguous()


def _run_backward(dy, x, weight, scale, previous):
    gradients = pick("smear", x).backward(dy, x, weight, scale, previous)
    return tuple(gradient.contiguous() for gradient in gradients)


def _fake_backward(dy, x, weight, scale, previous):
    shapes = (
        (x, x.shape),
        (weight, weight.shape),
        (scale, scale.shape),
        (x, (0,) if previous is None else previous.shape),
    )
    return tuple(like.new_empty(shape) for like, shape in shapes)


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


_op = define(
    "smear(Tensor x, Tensor weight, Tensor scale, Tensor? previous) -> Tensor",
    _run,
    lambda x, weight, scale, previous: x.new_empty(x.shape),
)
_backward_op = define(
    "smear_backward(Tensor dy, Tensor x, Tensor weight, Tensor scale, Tensor? previous) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    _run_backward,
    _fake_backward,
)


def _gradients(backward, ctx, dy):
    """What autograd takes: None for a previous that was not there."""
    *three, dprevious = backward(dy, *ctx.saved_tensors)
    return *three, None if ctx.saved_tensors[3] is None else dprevious


differentiate("smear", _setup_context, lambda ctx, dy: _gradients(_backward_op, ctx, dy))


class _Eager(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, scale, previous):
        _setup_context(ctx, (x, weight, scale, previous), None)
        return _run(x, weight, scale, previous)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy):
        return _gradients(_run_backward, ctx, dy)


def smear(x, weight, scale, previous=None):
    """x (B, T, C) with a gated share of the position before added to each."""
    if choose("smear", x) == "reference":
        return smear_reference(x, weight, scale, previous)
    return (_op if torch.compiler.is_compiling() else _Eager.apply)(x, weight, scale, previous)
