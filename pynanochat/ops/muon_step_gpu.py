"""The GPU backend of muon_step: the products of kernels/muon_step.py, the passes of kernels/muon_step_around.py."""

import types

import torch

from pynanochat.ops.gpu import triton_twin

triton = types.SimpleNamespace(
    **vars(triton_twin("muon_step", "iterate")),
    **vars(triton_twin("muon_step_around", "momentum", "nesterov", "squares", "update")),
)


def iteration_dtype(asked: torch.dtype) -> torch.dtype:
    """fp32, or fp16 where half precision is asked for, which kernels/muon_step.py explains."""
    return torch.float16 if asked in (torch.float16, torch.bfloat16) else torch.float32


def iterate_triton(x, coefficients, dtype):
    """As `iterate` of the op file."""
    return triton.iterate(x.to(iteration_dtype(dtype)), coefficients)


def alike(matrices):
    """The list itself if its matrices are laid out alike, as the kernels need them, else contiguous copies."""
    return matrices if len({m.stride() for m in matrices}) == 1 else [m.contiguous() for m in matrices]
