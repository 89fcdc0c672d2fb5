"""Rotary embedding of queries and keys, then their RMS norm, then a scale.

B batch, T positions, H query heads, G key heads, D head dim. The rotation is by -θ in the half-split layout:
with x = (x1, x2) along D, y1 = x1·cos + x2·sin and y2 = x2·cos - x1·sin. The norm is over D, in fp32.
cos and sin are (T, D/2), or (B, T, D/2) where rows stand at different positions.
"""

import torch
import torch.nn.functional as F

from pynanochat.ops.backends import implement, pick


def rotary_qk_norm_reference(q, k, cos, sin, scale, eps):
    return _rotate_norm(q, cos, sin, scale, eps), _rotate_norm(k, cos, sin, scale, eps)


def _rotate_norm(x, cos, sin, scale, eps):
    wide = torch.promote_types(x.dtype, torch.float32)
    x1, x2 = x.to(wide).chunk(2, dim=-1)
    cos, sin = cos[..., None, :], sin[..., None, :]  # a head axis
    rotated = torch.cat([x1 * cos + x2 * sin, x2 * cos - x1 * sin], dim=-1)
    return (F.rms_norm(rotated, (x.size(-1),), eps=eps) * scale).to(x.dtype)


implement("rotary_qk_norm", "reference", rotary_qk_norm_reference)


def rotary_qk_norm(q, k, cos, sin, scale: float = 1.0, eps: float = 1e-6):
    """q (B, T, H, D) and k (B, T, G, D), rotated, normalised over D and multiplied by `scale`; in their dtypes."""
    return pick("rotary_qk_norm", q)(q, k, cos, sin, scale, eps)


def rotary_table(positions: int, head_dim: int, base: float, device=None):
    """cos and sin (positions, head_dim/2) fp32 of θ = position · base^(-2i/head_dim)."""
    frequency = base ** (-torch.arange(0, head_dim, 2, dtype=torch.float64, device=device) / head_dim)
    theta = torch.arange(positions, dtype=torch.float64, device=device)[:, None] * frequency
    return theta.cos().float(), theta.sin().float()
