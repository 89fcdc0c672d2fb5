"""y = x Wᵀ where the weight may be an fp32 master copy of what x's dtype computes in.

Shapes: x (..., C), weight (K, C) -> (..., K) in x's dtype. The gradient of an fp32 weight is fp32.
"""

import torch.nn.functional as F

from pynanochat.ops.backends import implement, pick


def linear_reference(x, weight):
    return F.linear(x, weight.to(x.dtype))


implement("linear", "reference", linear_reference)


def linear(x, weight):
    """x (..., C) times weight (K, C) transposed, without bias."""
    return pick("linear", x)(x, weight)
