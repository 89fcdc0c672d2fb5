"""Value embeddings: v += gate · table[ids], with gate = 3·sigmoid(W x[:channels]) for each key/value head.

Shapes: v (B, T, G, D), x (B, T, C), ids (B, T) int64, table (V, G·D), gate_weight (G, channels) -> (B, T, G, D).
"""

import torch
import torch.nn.functional as F

from pynanochat.ops.backends import implement, pick
from pynanochat.ops.linear import linear_reference


def value_gate_reference(v, x, ids, table, gate_weight):
    gate = 3 * torch.sigmoid(linear_reference(x[..., : gate_weight.size(1)], gate_weight))  # (B, T, G)
    return v + gate[..., None] * F.embedding(ids, table).to(v.dtype).view(v.shape)


implement("value_gate", "reference", value_gate_reference)


def value_gate(v, x, ids, table, gate_weight):
    """v (B, T, G, D) plus its gated value embedding; the gate reads the first gate_weight.size(1) channels of x."""
    return pick("value_gate", v)(v, x, ids, table, gate_weight)
