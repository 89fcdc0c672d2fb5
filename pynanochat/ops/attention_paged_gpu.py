"""The GPU backend of attention_paged: `triton` (kernels/attention_paged.py). It asks the GPU for no value.

What only the values can tell (a table that names no page, lengths that its pages do not hold) is therefore not checked,
as it is on the CPU. A query of a row of length 0 gets zeros, so that rows may be there only to fill a CUDA graph.
"""

import torch

from pynanochat.ops.gpu import triton_twin

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
