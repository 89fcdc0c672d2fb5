"""The MLP of a block: relu(x W_fcᵀ)² W_projᵀ.

Shapes: x (..., C), w_fc (M, C), w_proj (C, M) -> (..., C) in x's dtype.
"""

import torch.nn.functional as F

from pynanochat.ops.backends import implement, pick
from pynanochat.ops.linear import linear_reference


def relu2_mlp_reference(x, w_fc, w_proj):
    return linear_reference(F.relu(linear_reference(x, w_fc)).square(), w_proj)


implement("relu2_mlp", "reference", relu2_mlp_reference)


def relu2_mlp(x, w_fc, w_proj):
    """relu(x W_fcᵀ)² W_projᵀ for x (..., C), w_fc (M, C), w_proj (C, M)."""
    return pick("relu2_mlp", x)(x, w_fc, w_proj)
