"""y = x Wᵀ where the weight may be an fp32 master copy of what x's dtype computes in.

Shapes: x (..., C), weight (K, C) -> (..., K) in x's dtype. The gradient of an fp32 weight is fp32.

The reference is one function of (x, weight), differentiable by itself. Any other backend is a namespace of two:
    forward(x, weight) -> y, both of two dimensions
    backward(dy, x, weight, wants_dx, wants_dweight) -> (dx, dweight), None for one not wanted
"""

import types

import torch
import torch.nn.functional as F

from pynanochat import _C
from pynanochat.ops.backends import choose, implement, pick
from pynanochat.ops.casts import cast
from pynanochat.ops.register import define, differentiate

FEW_ROWS = 16  # of x: below, packing the weight costs more than the product gains


def linear_reference(x, weight):
    return F.linear(x, cast(weight, x.dtype))


implement("linear", "reference", linear_reference)


# --- cpu ---


def dense(x):
    """`x` (m, n), copied only where neither dimension has stride 1."""
    return x if 1 in x.stride() else x.contiguous()


def product_cpu(a, b, dtype, after="", h=None):
    """a (m, k) b (k, n) in `dtype`; multiplied in bf16 where a is bf16."""
    c = torch.empty(a.size(0), b.size(1), dtype=dtype)
    _C.product(dense(a), dense(b), c, a.dtype == torch.bfloat16, after, h)
    return c


def forward_cpu(x, weight):
    return product_cpu(x, weight.T, x.dtype)


def backward_cpu(dy, x, weight, wants_dx, wants_dweight):
    dx = product_cpu(dy, weight, x.dtype) if wants_dx else None
    return dx, product_cpu(dy.T, x, weight.dtype) if wants_dweight else None


implement("linear", "cpu", types.SimpleNamespace(forward=forward_cpu, backward=backward_cpu))


# --- registration ---


def _run(x, weight):
    return pick("linear", x).forward(x, weight)


def _run_backward(dy, x, weight):
    return pick("linear", x).backward(dy, x, weight, True, True)


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


_op = define(
    "linear(Tensor x, Tensor weight) -> Tensor",
    _run,
    lambda x, weight: x.new_empty(x.size(0), weight.size(0)),
)
_backward_op = define(
    "linear_backward(Tensor dy, Tensor x, Tensor weight) -> (Tensor, Tensor)",
    _run_backward,
    lambda dy, x, weight: (x.new_empty(x.shape), weight.new_empty(weight.shape)),
)
differentiate("linear", _setup_context, lambda ctx, dy: _backward_op(dy, *ctx.saved_tensors))


class _Eager(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        _setup_context(ctx, (x, weight), None)
        return _run(x, weight)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy):
        x, weight = ctx.saved_tensors
        return pick("linear", x).backward(dy, x, weight, *ctx.needs_input_grad)


def linear(x, weight):
    """x (..., C) times weight (K, C) transposed, without bias; ValueError for a dtype the backend does not take."""
    if choose("linear", x) == "reference" or x.numel() < FEW_ROWS * x.size(-1):
        return linear_reference(x, weight)
    y = (_op if torch.compiler.is_compiling() else _Eager.apply)(x.flatten(0, -2), weight)
    return y.view(*x.shape[:-1], weight.size(0))
