"""Copies of fp32 master weights in the dtype that is computed in, made once while the weights stand still.

    with casts_kept():                                   # between two steps of the optimizer
        for batch in batches:
            loss(model, batch).backward()                # every op that casts a weight takes the copy of the first

A cast reads 4 and writes 2 bytes for each element. A copy holds only for the tensor, its version and its memory that it
was made from; torch's fused AdamW and kernels of ours write weights past that version, which is why the block must end
before the optimizer's step. The gradient goes to the master weight, as that of `Tensor.to` does. On a CPU nothing is
kept unless `everywhere` says so. It has not run on a GPU yet.
"""

import contextlib
from dataclasses import dataclass, field

import torch


@dataclass
class _Kept:
    everywhere: bool
    copies: dict[tuple, tuple] = field(default_factory=dict)
    """(id of the weight, dtype) -> the weight, its version and address, the copy."""


_kept: _Kept | None = None


@contextlib.contextmanager
def casts_kept(everywhere: bool = False):
    """Keep the copies that `cast` makes of parameters; nested uses share one set."""
    global _kept
    outer = _kept
    _kept = outer or _Kept(everywhere)
    try:
        yield
    finally:
        _kept = outer


def cast(weight, dtype):
    """`weight.to(dtype)`, of a parameter once for as long as `casts_kept` and the parameter hold."""
    if weight.dtype == dtype or torch.compiler.is_compiling() or not _may_keep(weight):
        return weight.to(dtype)
    place = (id(weight), dtype)
    state = (weight._version, weight.data_ptr())
    _, known, copy = _kept.copies.get(place, (None, None, None))
    if known != state:
        copy = weight.detach().to(dtype)
        _kept.copies[place] = (weight, state, copy)  # the weight is held, so that its id stays its own
    return _Cast.apply(weight, copy) if weight.requires_grad and torch.is_grad_enabled() else copy


def _may_keep(weight) -> bool:
    if _kept is None or not (weight.is_cuda or _kept.everywhere):
        return False
    return isinstance(weight, torch.nn.Parameter) and not torch.is_inference_mode_enabled()


class _Cast(torch.autograd.Function):
    """The copy, as if it had just been made from the weight."""

    @staticmethod
    def forward(ctx, weight, copy):
        ctx.dtype = weight.dtype
        return copy.view_as(copy)

    @staticmethod
    def backward(ctx, gradient):
        return gradient.to(ctx.dtype), None
