"""Value embeddings: v += gate · table[ids], with gate = 3·sigmoid(W x[:channels]) for each key/value head.

Shapes: v (B, T, G, D), x (B, T, C), ids (B, T) int64, table (V, G·D), gate_weight (G, channels) -> (B, T, G, D).

A backend is a namespace of two functions, whose results have the same bits at every call:
    forward(v, x, ids, table, gate_weight) -> out
    backward(dout, x, ids, table, gate_weight, wants_table) -> (dx, dtable, dgate_weight); the gradient of v is dout.
        dtable, which costs the most, may be None where it is not wanted
"""

import types

import torch
import torch.nn.functional as F

from pynanochat.ops.backends import choose, implement, pick
from pynanochat.ops.gpu import triton_twin
from pynanochat.ops.linear import linear_reference
from pynanochat.ops.register import define, differentiate

# --- reference: plain torch, differentiable by itself ---


def value_gate_reference(v, x, ids, table, gate_weight):
    gate = 3 * torch.sigmoid(linear_reference(x[..., : gate_weight.size(1)], gate_weight))  # (B, T, G)
    return v + gate[..., None] * F.embedding(ids, table).to(v.dtype).view(v.shape)


def backward_reference(dout, x, ids, table, gate_weight, wants_table=True):
    wide = torch.promote_types(x.dtype, torch.float32)
    channels = gate_weight.size(1)
    read, w, dout = x[..., :channels].to(wide), gate_weight.to(wide), dout.to(wide)
    s = torch.sigmoid(F.linear(read, w))  # (B, T, G)
    dot = (dout * F.embedding(ids, table).to(wide).view(dout.shape)).sum(-1)
    slope = 3 * s * (1 - s) * dot
    dx = F.pad(slope @ w, (0, x.size(-1) - channels)).to(x.dtype)
    dgate_weight = (slope.flatten(0, 1).T @ read.flatten(0, 1)).to(gate_weight.dtype)
    if not wants_table:
        return dx, None, dgate_weight
    rows = (3 * s[..., None] * dout).flatten(2).flatten(0, 1)
    dtable = torch.zeros(table.shape, dtype=wide, device=table.device).index_add_(0, ids.flatten(), rows)
    return dx, dtable.to(table.dtype), dgate_weight


implement("value_gate", "reference", types.SimpleNamespace(forward=value_gate_reference, backward=backward_reference))
implement("value_gate", "triton", triton_twin("value_gate", "forward", "backward"))


# --- registration ---


def _run(v, x, ids, table, gate_weight):
    return pick("value_gate", v).forward(v, x, ids, table, gate_weight).contiguous()


def _run_backward(dout, x, ids, table, gate_weight):
    gradients = pick("value_gate", dout).backward(dout, x, ids, table, gate_weight, True)
    return tuple(gradient.contiguous() for gradient in gradients)


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs[1:])


_op = define(
    "value_gate(Tensor v, Tensor x, Tensor ids, Tensor table, Tensor gate_weight) -> Tensor",
    _run,
    lambda v, x, ids, table, gate_weight: v.new_empty(v.shape),
)
_backward_op = define(
    "value_gate_backward(Tensor dout, Tensor x, Tensor ids, Tensor table, Tensor gate_weight) "
    "-> (Tensor, Tensor, Tensor)",
    _run_backward,
    lambda dout, x, ids, table, gate_weight: tuple(t.new_empty(t.shape) for t in (x, table, gate_weight)),
)


def _differentiate(ctx, dout):
    dx, dtable, dgate_weight = _backward_op(dout, *ctx.saved_tensors)
    return dout, dx, None, dtable, dgate_weight


differentiate("value_gate", _setup_context, _differentiate)


class _Eager(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *inputs):
        _setup_context(ctx, inputs, None)
        return _run(*inputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dout):
        wants_table = ctx.needs_input_grad[3]
        dx, dtable, dgate_weight = pick("value_gate", dout).backward(dout, *ctx.saved_tensors, wants_table)
        return dout, dx, None, dtable, dgate_weight


def value_gate(v, x, ids, table, gate_weight):
    """v (B, T, G, D) plus its gated value embedding; the gate reads the first gate_weight.size(1) channels of x."""
    inputs = (v, x, ids, table, gate_weight)
    if choose("value_gate", v) == "reference":
        return value_gate_reference(*inputs)
    return _op(*inputs) if torch.compiler.is_compiling() else _Eager.apply(*inputs)
