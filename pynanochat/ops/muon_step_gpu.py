"""The GPU backends of muon_step: `triton` (the products of kernels/muon_step.py, the passes of muon_step_around.py),
and `cuda`, the matrix iteration of csrc/cuda/muon_step.cu in bf16 or fp16."""

import types

import torch

from pynanochat import _C
from pynanochat.ops.gpu import cuda_stream, triton_twin

WHOLE = 8  # rows and columns of the kernels' matrices are multiples of it
LARGEST = 65536  # of either

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


def takes_cuda(momentum_buffer, ns_dtype) -> bool:
    return ns_dtype in (torch.bfloat16, torch.float16) and max(momentum_buffer.shape[1:]) <= LARGEST


def iterate_cuda(x, coefficients, dtype):
    """As `iterate` of the op file; may overwrite x."""
    count, rows, columns = x.shape
    whole = [-(-size // WHOLE) * WHOLE for size in (rows, columns)]
    if whole != [rows, columns]:  # zeros stay zeros
        padded = x.new_zeros(count, *whole, dtype=dtype)
        padded[:, :rows, :columns] = x
    else:
        padded = x.to(dtype).contiguous()
    following = torch.empty_like(padded)
    gram, polynomial = padded.new_empty(2, count, min(whole), min(whole))
    with cuda_stream("muon_step", x) as stream:
        _C.cuda_muon_iterate(padded, following, gram, polynomial, list(coefficients), stream)
    result = following if len(coefficients) % 2 else padded
    return result[:, :rows, :columns]
