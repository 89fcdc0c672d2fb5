"""The GPU backend of muon_step: the symmetric matrix products of kernels/muon_step.py."""

import torch

from pynanochat.ops.gpu import triton_twin

_triton = triton_twin("muon_step", "iterate")


def iterate_triton(x, coefficients, dtype):
    """As `iterate` of the op file; fp16 where half precision is asked for, which kernels/muon_step.py explains."""
    return _triton.iterate(x.to(torch.float16 if dtype == torch.bfloat16 else dtype), coefficients)
