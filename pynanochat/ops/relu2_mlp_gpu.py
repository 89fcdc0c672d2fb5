"""The GPU backend of relu2_mlp: two products with an epilogue (kernels/relu2_mlp.py), the other four torch's.

Weights that are fp32 masters are cast once (ops/casts.py); their gradients are summed and written in fp32.
"""

import types

import torch

from pynanochat.ops.casts import cast
from pynanochat.ops.gpu import triton_twin

_triton = triton_twin("relu2_mlp", "relu2", "slope")


def product_into(a, b, dtype):
    """a·b in `dtype`: of half-precision factors in fp32 without a rounding between, where torch can (on GPUs)."""
    if a.is_cuda and dtype == torch.float32 != a.dtype:
        return torch.mm(a, b, out_dtype=dtype)
    return torch.mm(a, b).to(dtype)


def forward_triton(x, w_fc, w_proj):
    h = _triton.relu2(x, cast(w_fc, x.dtype))
    return torch.mm(h, cast(w_proj, x.dtype).T), h


def backward_triton(dy, x, h, w_fc, w_proj):
    dz = _triton.slope(dy, cast(w_proj, x.dtype), h)
    dw_proj = product_into(dy.T, h, w_proj.dtype)
    return torch.mm(dz, cast(w_fc, x.dtype)), product_into(dz.T, x, w_fc.dtype), dw_proj


triton = types.SimpleNamespace(forward=forward_triton, backward=backward_triton)
