"""Causal softmax attention with an optional window, for training; over a cache see attention_paged.

B batch, T positions, H query heads, G key/value heads (H a multiple of G), D head dim.
A query at position i sees keys j with i - window <= j <= i; window < 0 means all of the past.

A backend is a namespace of two functions:
    forward(q, k, v, window) -> out (B, T, H, D), lse (B, H, T) fp32: log of each row's sum of exp(scaled scores)
    backward(dout, q, k, v, out, lse, window) -> (dq, dk, dv)
The reference is one function of (q, k, v, window), differentiable by itself.

The same inputs give the same bits, with one exception: on Hopper the backward of `cuda` adds dq up in whatever order
its blocks come, so that a run repeated or resumed there differs in the last bits. Under
torch.use_deterministic_algorithms(True) it takes a slower form that does not. The choice is made when the operator
runs, outside of what torch.compile traces.
"""

import types

import torch
import torch.nn.functional as F

from pynanochat import _C
from pynanochat.ops import attention_gpu
from pynanochat.ops.backends import choose, implement, pick
from pynanochat.ops.register import define, differentiate

# --- reference ---


def attention_reference(q, k, v, window):
    positions = q.size(1)
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H, T, D)
    grouped = q.size(1) != k.size(1)
    if window < 0 or window >= positions - 1:
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
    else:
        i = torch.arange(positions, device=q.device)
        visible = (i[:, None] >= i) & (i[:, None] - i <= window)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, enable_gqa=grouped)
    return out.transpose(1, 2)


implement("attention", "reference", attention_reference)


# --- cpu ---


def _dense(x):
    return x if x.stride(-1) == 1 else x.contiguous()


def forward_cpu(q, k, v, window):
    out = torch.empty(q.shape, dtype=q.dtype)
    lse = torch.empty(q.size(0), q.size(2), q.size(1), dtype=torch.float32)
    _C.attention_forward(_dense(q), _dense(k), _dense(v), window, out, lse)
    return out, lse


def backward_cpu(dout, q, k, v, out, lse, window):
    q, k, v, dout = _dense(q), _dense(k), _dense(v), _dense(dout)
    dq, dk, dv = (torch.empty(x.shape, dtype=x.dtype) for x in (q, k, v))
    _C.attention_backward(dout, q, k, v, out, lse, window, dq, dk, dv)
    return dq, dk, dv


implement("attention", "cpu", types.SimpleNamespace(forward=forward_cpu, backward=backward_cpu))
implement("attention", "triton", attention_gpu.triton)
implement("attention", "cuda", attention_gpu.cuda, takes=attention_gpu.takes_cuda)


# --- registration ---


def _run(q, k, v, window):
    return pick("attention", q, (q, k, v, window)).forward(q, k, v, window)


def _run_backward(dout, q, k, v, out, lse, window):
    return pick("attention", q, (q, k, v, window)).backward(dout, q, k, v, out, lse, window)


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:3], *output)
    ctx.window = inputs[3]
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


_op = define(
    "attention(Tensor q, Tensor k, Tensor v, int window) -> (Tensor, Tensor)",
    _run,
    lambda q, k, v, window: (
        q.new_empty(q.shape),
        q.new_empty((q.size(0), q.size(2), q.size(1)), dtype=torch.float32),
    ),
)
_backward_op = define(
    "attention_backward(Tensor dout, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, int window) -> "
    "(Tensor, Tensor, Tensor)",
    _run_backward,
    lambda dout, q, k, v, out, lse, window: tuple(x.new_empty(x.shape) for x in (q, k, v)),
)
differentiate(
    "attention",
    _setup_context,
    lambda ctx, dout, _: (*_backward_op(dout, *ctx.saved_tensors, ctx.window), None),
)


class _Eager(torch.autograd.Function):
    @staticmethod
    def forward(ctx, *inputs):
        output = _run(*inputs)
        _setup_context(ctx, inputs, output)
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dout, _):
        return *_run_backward(dout, *ctx.saved_tensors, ctx.window), None


def attention(q, k, v, window: int = -1):
    """q (B, T, H, D), k and v (B, T, G, D) -> (B, T, H, D); scores are scaled by 1/sqrt(D).

    Raises ValueError where the backend in use does not take the dtypes or shapes.
    """
    if choose("attention", q, (q, k, v, window)) == "reference":
        return attention_reference(q, k, v, window)
    return (_op if torch.compiler.is_compiling() else _Eager.apply)(q, k, v, window)[0]
