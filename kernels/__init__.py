"""Triton twins of the ops, one file per op, imported when first used: each imports triton, this file does not.

On CPU tensors they run through Triton's interpreter, where TRITON_INTERPRET=1 was set before triton was imported.
"""

import functools
import os

import torch


def interpreted() -> bool:
    """True where Triton runs its kernels on the CPU, in numpy."""
    return os.environ.get("TRITON_INTERPRET") == "1"


MISROUNDED = (torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)  # by the interpreter, which truncates

LARGE_SHARED = (90, 100, 103)  # architectures where a block has 227 KiB of shared memory; 86, 89 and 120 have 99


@functools.cache
def architecture(device: torch.device) -> int:
    """The compute capability of a GPU as 80 or 90; 80 where interpreted."""
    if device.type != "cuda":
        return 80
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def stored_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that a kernel stores for a result of `dtype`: fp32 where interpreted, for dtypes it rounds wrongly."""
    return torch.float32 if interpreted() and dtype in MISROUNDED else dtype
