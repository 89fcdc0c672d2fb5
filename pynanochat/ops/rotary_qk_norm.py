"""Rotary embedding of queries and keys, then their RMS norm, then a scale.

B batch, T positions, H query heads, G key heads, D head dim. The rotation is by -θ in the half-split layout:
with x = (x1, x2) along D, y1 = x1·cos + x2·sin and y2 = x2·cos - x1·sin. The norm is over D, in fp32.
cos and sin are (T, D/2), or (B, T, D/2) where rows stand at different positions; they get no gradient.

A backend is a namespace of two functions:
    forward(q, k, cos, sin, scale, eps) -> (q', k')
    backward(dq', dk', q, k, cos, sin, scale, eps) -> (dq, dk)
"""

import types

import torch
import torch.nn.functional as F

from pynanochat import _C
from pynanochat.ops import rotary_qk_norm_gpu
from pynanochat.ops.backends import choose, implement, pick
from pynanochat.ops.register import define, differentiate

# --- reference: plain torch, differentiable by itself ---


def rotary_qk_norm_reference(q, k, cos, sin, scale, eps):
    return _rotate_norm(q, cos, sin, scale, eps), _rotate_norm(k, cos, sin, scale, eps)


def _rotate_norm(x, cos, sin, scale, eps):
    wide = torch.promote_types(x.dtype, torch.float32)
    x1, x2 = x.to(wide).chunk(2, dim=-1)
    cos, sin = cos[..., None, :], sin[..., None, :]  # a head axis
    rotated = torch.cat([x1 * cos + x2 * sin, x2 * cos - x1 * sin], dim=-1)
    return (F.rms_norm(rotated, (x.size(-1),), eps=eps) * scale).to(x.dtype)


def backward_reference(dq_out, dk_out, q, k, cos, sin, scale, eps):
    return tuple(_rotate_norm_backward(g, x, cos, sin, scale, eps) for g, x in ((dq_out, q), (dk_out, k)))


def _rotate_norm_backward(grad, x, cos, sin, scale, eps):
    wide = torch.promote_types(x.dtype, torch.float32)
    x1, x2 = x.to(wide).chunk(2, dim=-1)
    cos, sin = cos[..., None, :], sin[..., None, :]
    y = torch.cat([x1 * cos + x2 * sin, x2 * cos - x1 * sin], dim=-1)
    r = (y.square().mean(-1, keepdim=True) + eps).rsqrt()
    g = grad.to(wide)
    d1, d2 = (scale * r * (g - y * ((y * g).mean(-1, keepdim=True) * r * r))).chunk(2, dim=-1)
    return torch.cat([d1 * cos - d2 * sin, d1 * sin + d2 * cos], dim=-1).to(x.dtype)


# --- cpu ---


def forward_cpu(q, k, cos, sin, scale, eps):
    q_out, k_out = torch.empty_like(q), torch.empty_like(k)
    _C.rotary_qk_norm_forward(q, k, cos, sin, scale, eps, q_out, k_out)
    return q_out, k_out


def backward_cpu(dq_out, dk_out, q, k, cos, sin, scale, eps):
    dq, dk = torch.empty_like(q), torch.empty_like(k)
    dq_out, dk_out = (g if g.stride(-1) == 1 else g.contiguous() for g in (dq_out, dk_out))
    _C.rotary_qk_norm_backward(dq_out, dk_out, q, k, cos, sin, scale, eps, dq, dk)
    return dq, dk


implement(
    "rotary_qk_norm",
    "reference",
    types.SimpleNamespace(forward=rotary_qk_norm_reference, backward=backward_reference),
)
implement("rotary_qk_norm", "cpu", types.SimpleNamespace(forward=forward_cpu, backward=backward_cpu))
implement("rotary_qk_norm", "triton", rotary_qk_norm_gpu.triton)
implement("rotary_qk_norm", "cuda", rotary_qk_norm_gpu.cuda)


# --- registration ---


def _run(q, k, cos, sin, scale, eps):
    return pick("rotary_qk_norm", q).forward(q, k, cos, sin, scale, eps)


def _run_backward(dq_out, dk_out, q, k, cos, sin, scale, eps):
    return pick("rotary_qk_norm", q).backward(dq_out, dk_out, q, k, cos, sin, scale, eps)


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:4])
    ctx.settings = inputs[4:]


_op = define(
    "rotary_qk_norm(Tensor q, Tensor k, Tensor cos, Tensor sin, float scale, float eps) -> (Tensor, Tensor)",
    _run,
    lambda q, k, cos, sin, scale, eps: (torch.empty_like(q), torch.empty_like(k)),
)
_backward_op = define(
    "rotary_qk_norm_backward(Tensor dq_out, Tensor dk_out, Tensor q, Tensor k, Tensor cos, Tensor sin, float scale, "
    "float eps) -> (Tensor, Tensor)",
    _run_backward,
    lambda dq_out, dk_out, q, k, cos, sin, scale, eps: (torch.empty_like(q), torch.empty_like(k)),
)
differentiate(
    "rotary_qk_norm",
    _setup_context,
    lambda ctx, dq_out, dk_out: (*_backward_op(dq_out, dk_out, *ctx.saved_tensors, *ctx.settings), *[None] * 4),
)


class _Eager(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *inputs):
        _setup_context(ctx, inputs, None)
        return _run(*inputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dq_out, dk_out):
        return *_run_backward(dq_out, dk_out, *ctx.saved_tensors, *ctx.settings), *[None] * 4


def rotary_qk_norm(q, k, cos, sin, scale: float = 1.0, eps: float = 1e-6):
    """q (B, T, H, D) and k (B, T, G, D), rotated, normalised over D and multiplied by `scale`; in their dtypes.

    Raises ValueError where the backend in use does not take the dtypes, shapes or strides (the reference takes all).
    """
    inputs = (q, k, cos, sin, scale, eps)
    if choose("rotary_qk_norm", q) == "reference":
        return rotary_qk_norm_reference(*inputs)
    return _op(*inputs) if torch.compiler.is_compiling() else _Eager.apply(*inputs)


def rotary_table(positions: int, head_dim: int, base: float, device=None):
    """cos and sin (positions, head_dim/2) fp32 of θ = position · base^(-2i/head_dim)."""
    frequency = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float64, device=device) / head_dim)
    theta = torch.arange(positions, dtype=torch.float64, device=device)[:, None] * frequency
    return theta.cos().float(), theta.sin().float()
