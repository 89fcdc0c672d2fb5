"""The GPU backends of attention_paged: `triton` (kernels/attention_paged.py), and `cuda` (csrc/cuda/attention_paged.cu)
for rows of one query each. Neither asks the GPU for a value.

What only the values can tell (a table that names no page, lengths that its pages do not hold) is therefore not checked,
as it is on the CPU. A query of a row of length 0 gets zeros, so that rows may be there only to fill a CUDA graph.
"""

import functools

import torch

from pynanochat import _C
from pynanochat.ops.gpu import cuda_stream, triton_twin

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LARGEST_HEAD = 256

_kernel = triton_twin("attention_paged", "forward")


def triton(q, k_pages, v_pages, tables, starts, lengths, longest, window):
    _check(q, k_pages, v_pages, tables, starts, lengths)
    return _kernel.forward(q, k_pages, v_pages, tables, starts, lengths, longest, window)


def _check(q, k_pages, v_pages, tables, starts, lengths):
    """Raises ValueError for dtypes and shapes that the kernels do not take."""
    _require(q.dtype in DTYPES, f"q has dtype {q.dtype}; expected one of {', '.join(map(str, DTYPES))}")
    _require(q.dim() == 3, f"q has shape {tuple(q.shape)}; expected 3 dimensions")
    heads, size = q.shape[1:]
    _require(1 <= size <= LARGEST_HEAD, f"head dim {size}; expected 1 to {LARGEST_HEAD}")
    for name, pages in (("k_pages", k_pages), ("v_pages", v_pages)):
        _require(pages.dtype == q.dtype, f"{name} must have the dtype of q")
        _require(
            pages.dim() == 4 and pages.size(3) == size and pages.shape == k_pages.shape,
            f"{name} has shape {tuple(pages.shape)}; expected (pages, page, groups, {size}), alike for both",
        )
    groups = k_pages.size(2)
    _require(groups >= 1 and heads % groups == 0, f"{heads} query heads are no multiple of {groups} key/value heads")
    _require(tables.dim() == 2, f"tables has shape {tuple(tables.shape)}; expected 2 dimensions")
    rows = tables.size(0)
    for name, x, shape in (
        ("tables", tables, tables.shape),
        ("starts", starts, (rows + 1,)),
        ("lengths", lengths, (rows,)),
    ):
        _require(x.dtype == torch.int64 and x.is_contiguous(), f"{name} must be dense int64")
        _require(x.shape == torch.Size(shape), f"{name} has shape {tuple(x.shape)}; expected {tuple(shape)}")
        _require(x.device == q.device, f"{name} is on {x.device}, q on {q.device}")


def _require(condition, message):
    if not condition:
        raise ValueError(message)


def takes_cuda(q, k_pages, v_pages, tables, starts, lengths, longest, window) -> bool:
    """One query a row at most, heads dense and of at most 256 channels; a prompt goes to another backend."""
    dense = k_pages.stride(-1) == v_pages.stride(-1) == 1
    return longest == 1 and dense and q.size(-1) <= LARGEST_HEAD and q.dtype in DTYPES


@functools.cache
def multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def cuda(q, k_pages, v_pages, tables, starts, lengths, longest, window):
    """What `takes_cuda`. Never waits for the GPU: the splits follow from the table's size, not from the lengths."""
    _require(longest == 1, f"a row has {longest} queries; the cuda backend takes rows of one")
    rows, heads, size = tables.size(0), q.size(1), q.size(2)
    tokens = tables.size(1) * k_pages.size(1)
    if window >= 0:
        tokens = min(tokens, window + 1)
    shape = (rows, heads, k_pages.size(2), size, tokens, q.element_size(), True)
    splits = _C.launch_attention_paged(*shape, multiprocessors(q.device))["splits"]
    q = q if q.stride(-1) == 1 else q.contiguous()
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    count = rows * heads * splits * (size + 2) if splits > 1 else 0
    partials = torch.empty(count, dtype=torch.float32, device=q.device)
    with cuda_stream("attention_paged", q) as stream:
        _C.cuda_attention_paged(q, k_pages, v_pages, tables, starts, lengths, partials, out, splits, window, stream)
    return out
