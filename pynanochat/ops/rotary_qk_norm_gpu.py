"""The GPU backends of rotary_qk_norm: `triton` (kernels/rotary_qk_norm.py) and `cuda` (csrc/cuda/rotary_qk_norm.cu)."""

import types

import torch

from pynanochat import _C
from pynanochat.ops.gpu import cuda_stream, triton_twin

triton = triton_twin("rotary_qk_norm", "forward", "backward")


def forward_cuda(q, k, cos, sin, scale, eps):
    q_out, k_out = torch.empty_like(q), torch.empty_like(k)
    with cuda_stream("rotary_qk_norm", q) as stream:
        _C.cuda_rotary_qk_norm(q, k, cos, sin, q_out, k_out, scale, eps, stream)
    return q_out, k_out


def backward_cuda(dq_out, dk_out, q, k, cos, sin, scale, eps):
    dq, dk = torch.empty_like(q), torch.empty_like(k)
    with cuda_stream("rotary_qk_norm", q) as stream:
        _C.cuda_rotary_qk_norm_backward(dq_out, dk_out, q, k, cos, sin, dq, dk, scale, eps, stream)
    return dq, dk


cuda = types.SimpleNamespace(forward=forward_cuda, backward=backward_cuda)
