"""The GPU backend of muon_step's matrix iteration: csrc/cuda/muon_step.cu, in bf16."""

import torch

from pynanochat import _C
from pynanochat.ops.gpu import cuda_stream

WHOLE = 8  # rows and columns of the kernels' matrices are multiples of it
LARGEST = 65536  # of either


def fits(x) -> bool:
    return x.dtype == torch.bfloat16 and max(x.shape[1:]) <= LARGEST


def iterate(x, coefficients):
    """x ← a·x + (b·xxᵀ + c·(xxᵀ)²)·x for each (a, b, c), on the small side. x (n, R, C) -> same; may overwrite x."""
    count, rows, columns = x.shape
    whole = [-(-size // WHOLE) * WHOLE for size in (rows, columns)]
    if whole != [rows, columns]:  # zeros stay zeros
        padded = x.new_zeros(count, *whole)
        padded[:, :rows, :columns] = x
    else:
        padded = x.contiguous()
    following = torch.empty_like(padded)
    gram, polynomial = padded.new_empty(2, count, min(whole), min(whole))
    with cuda_stream("muon_step", x) as stream:
        _C.cuda_muon_iterate(padded, following, gram, polynomial, list(coefficients), stream)
    result = following if len(coefficients) % 2 else padded
    return result[:, :rows, :columns]
