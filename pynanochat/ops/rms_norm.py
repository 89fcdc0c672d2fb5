"""RMS norm without a weight: y = x / sqrt(mean(x²) + eps) over the last dimension.

Shapes: x (..., C) -> (..., C) in x's dtype; the mean is taken in fp32.
"""

import torch.nn.functional as F

from pynanochat.ops.backends import implement, pick


def rms_norm_reference(x, eps):
    return F.rms_norm(x, (x.size(-1),), eps=eps)


implement("rms_norm", "reference", rms_norm_reference)


def rms_norm(x, eps: float = 1e-6):
    """x (..., C) normalised to unit root mean square over C, in x's dtype."""
    return pick("rms_norm", x)(x, eps)
