"""The GPU backend of attention_paged: `cuda` (csrc/cuda/attention_paged.cu), for rows of one query each."""

import functools

import torch

from pynanochat import _C
from pynanochat.ops.gpu import cuda_stream

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def fits(q, k_pages, v_pages, longest) -> bool:
    """Whether the kernel takes these: one query a row, heads dense and of at most 256 channels."""
    dense = k_pages.stride(-1) == v_pages.stride(-1) == 1
    return longest == 1 and dense and q.size(-1) <= 256 and q.dtype in DTYPES


@functools.cache
def multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def cuda(q, k_pages, v_pages, tables, starts, lengths, window):
    """What `fits` takes. Never waits for the GPU: the splits follow from the table's size, not from the lengths."""
    rows, heads, size = tables.size(0), q.size(1), q.size(2)
    tokens = tables.size(1) * k_pages.size(1)
    if window >= 0:
        tokens = min(tokens, window + 1)
    shape = (rows, heads, k_pages.size(2), size, tokens, q.element_size(), True)
    splits = _C.launch_attention_paged(*shape, multiprocessors(q.device))["splits"]
    q = q if q.stride(-1) == 1 else q.contiguous()
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    partials = torch.empty(rows * heads * splits * (size + 2) if splits > 1 else 0, device=q.device)
    with cuda_stream("attention_paged", q) as stream:
        _C.cuda_attention_paged(q, k_pages, v_pages, tables, starts, lengths, partials, out, splits, window, stream)
    return out
