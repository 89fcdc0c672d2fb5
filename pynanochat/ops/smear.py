"""Smear: each position takes a gated share of the one before it, x[t] += λ·sigmoid(w·x[t, :channels])·x[t-1].

Shapes: x (B, T, C), weight (1, channels), scale (1,), previous (B, C) or None -> (B, T, C). `previous` is the
(unsmeared) position before the first one, for decoding; without it the first position is left as it is.
"""

import torch
import torch.nn.functional as F

from pynanochat.ops.backends import implement, pick
from pynanochat.ops.linear import linear_reference


def smear_reference(x, weight, scale, previous):
    gate = scale.to(x.dtype) * torch.sigmoid(linear_reference(x[..., : weight.size(1)], weight))  # (B, T, 1)
    before = F.pad(x[:, :-1], (0, 0, 1, 0)) if previous is None else torch.cat([previous[:, None], x[:, :-1]], dim=1)
    return x + gate * before


implement("smear", "reference", smear_reference)


def smear(x, weight, scale, previous=None):
    """x (B, T, C) with a gated share of the position before added to each."""
    return pick("smear", x)(x, weight, scale, previous)
