"""The GPU backends of attention: `triton` (kernels/attention.py) and `cuda` (csrc/cuda/attention*.cu)."""

import types

import torch

from pynanochat import _C
from pynanochat.ops.gpu import cuda_stream, triton_twin

triton = triton_twin("attention", "forward", "backward")


def takes_cuda(q, k, v, window):
    """The kernels are made for the tensor cores' dtypes and two head dims; without elements there is nothing to do."""
    return q.numel() == 0 or (q.dtype in (torch.bfloat16, torch.float16) and q.size(-1) in (64, 128))


def _vectors(x):
    """x where each head can be read 16 bytes at a time, else a copy of which that holds. So also where an axis stands
    still (it was expanded), which TMA does not take."""
    step = 16 // x.element_size()
    still = any(stride == 0 and size > 1 for stride, size in zip(x.stride(), x.shape, strict=True))
    whole = x.stride(-1) == 1 and x.data_ptr() % 16 == 0 and all(s % step == 0 for s in x.stride()[:-1])
    return x if whole and not still else x.clone(memory_format=torch.contiguous_format)


def forward_cuda(q, k, v, window):
    if q.numel() == 0:
        return q.new_empty(q.shape), q.new_empty((q.size(0), q.size(2), q.size(1)), dtype=torch.float32)
    q, k, v = _vectors(q), _vectors(k), _vectors(v)
    out = q.new_empty(q.shape)
    lse = q.new_empty((q.size(0), q.size(2), q.size(1)), dtype=torch.float32)
    with cuda_stream("attention", q) as stream:
        _C.cuda_attention_forward(q, k, v, window, out, lse, stream)
    return out, lse


def backward_cuda(dout, q, k, v, out, lse, window, deterministic=None):
    """deterministic: the same bits each time, which on Hopper takes seven products, not five; None: as torch is told.

    The form of five adds dq up in B T H D fp32 numbers of its own, T rounded up to 64.
    """
    if deterministic is None:
        deterministic = torch.are_deterministic_algorithms_enabled()
    if q.numel() == 0:
        return q.new_zeros(q.shape), k.new_zeros(k.shape), v.new_zeros(v.shape)
    dout, q, k, v, out = (_vectors(x) for x in (dout, q, k, v, out))
    dq, dk, dv = (x.new_empty(x.shape) for x in (q, k, v))
    delta = torch.empty_like(lse)
    with cuda_stream("attention", q) as stream:
        room = 0 if deterministic else _C.cuda_attention_dq_sum(q, k)
        dq_sum = torch.empty(room, dtype=torch.float32, device=q.device)
        _C.cuda_attention_backward(dout, q, k, v, out, lse, window, deterministic, delta, dq_sum, dq, dk, dv, stream)
    return dq, dk, dv


cuda = types.SimpleNamespace(forward=forward_cuda, backward=backward_cuda)
