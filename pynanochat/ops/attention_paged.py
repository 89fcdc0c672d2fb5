"""Causal softmax attention of many sequences at once over keys and values that lie in pages; without a gradient.

N queries, R rows (sequences), H query heads, G key/value heads (H a multiple of G), D head dim, P pages of `page`
tokens, M entries of a table. Row r's queries are q[starts[r] : starts[r + 1]], the last ones of its lengths[r] tokens.
Its token i lies in page tables[r, i // page] at place i % page. A query at position i sees the tokens j with
i - window <= j <= i; window < 0 means all of the past. Pages that no query of the row sees are never read: their
entries may hold anything.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F

from pynanochat import _C
from pynanochat.ops import attention_paged_gpu
from pynanochat.ops.backends import implement, pick
from pynanochat.ops.register import define

FEW_QUERIES = 24  # of a row: with more, gathering its keys costs less than what the products gain

# --- reference ---


def attention_paged_reference(q, k_pages, v_pages, tables, starts, lengths, longest, window):
    if longest == 1 and q.size(0) == tables.size(0):
        return _one_query_each(q, k_pages, v_pages, tables, lengths, window)
    out = torch.empty_like(q)
    for row, (first, end) in enumerate(pairwise(starts.tolist())):
        if first < end:
            length = int(lengths[row])
            k, v = visible(k_pages, v_pages, tables[row], length, end - first, window)
            out[first:end] = _last_queries(q[first:end], k, v, window)
    return out


def visible(k_pages, v_pages, table, length: int, queries: int, window: int):
    """The keys and values (S, G, D) of a row up to its end, from the first page on that its last `queries` see."""
    page = k_pages.size(1)
    first = 0 if window < 0 else max(0, length - queries - window) // page
    table = table[first : -(-length // page)]
    return (pages[table].flatten(0, 1)[: length - first * page] for pages in (k_pages, v_pages))


def _last_queries(q, k, v, window):
    """q (T, H, D) as the last positions of k and v (S, G, D)."""
    key = torch.arange(k.size(0), device=q.device)
    query = key[k.size(0) - q.size(0) :, None]
    seen = key <= query
    if window >= 0:
        seen &= key >= query - window
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=q.size(1) != k.size(1))[0].transpose(0, 1)


def _one_query_each(q, k_pages, v_pages, tables, lengths, window):
    page, columns, last = k_pages.size(1), tables.size(1), (lengths - 1)[:, None]
    first = torch.zeros_like(last)
    if window >= 0:
        columns = min(columns, window // page + 2)
        first = (last - window).clamp(min=0) // page
    column = first + torch.arange(columns, device=q.device)  # (R, columns) of the tables
    pages = tables.gather(1, torch.minimum(column, last // page))  # past the end the last page again: it is finite
    position = (column[..., None] * page + torch.arange(page, device=q.device)).flatten(1)  # (R, S)
    seen = position <= last
    if window >= 0:
        seen &= position >= last - window
    k, v = (x[pages].flatten(1, 2).transpose(1, 2) for x in (k_pages, v_pages))  # (R, G, S, D)
    out = F.scaled_dot_product_attention(
        q[:, :, None], k, v, attn_mask=seen[:, None, None], enable_gqa=q.size(1) != k.size(1)
    )
    return out[:, :, 0]


implement("attention_paged", "reference", attention_paged_reference)


# --- cpu ---


def attention_paged_cpu(q, k_pages, v_pages, tables, starts, lengths, longest, window):
    out = torch.empty(q.shape, dtype=q.dtype)
    _C.attention_paged(q, k_pages, v_pages, tables, starts, lengths, window, FEW_QUERIES, out)
    if longest > FEW_QUERIES:
        for row, (first, end) in enumerate(pairwise(starts.tolist())):
            if end - first > FEW_QUERIES:
                k, v = visible(k_pages, v_pages, tables[row], int(lengths[row]), end - first, window)
                lse = torch.empty(1, q.size(1), end - first)
                _C.attention_forward(q[None, first:end], k[None], v[None], window, out[None, first:end], lse)
    return out


implement("attention_paged", "cpu", attention_paged_cpu)
implement("attention_paged", "triton", attention_paged_gpu.triton)
implement("attention_paged", "cuda", attention_paged_gpu.cuda, takes=attention_paged_gpu.takes_cuda)


# --- registration ---


def _run(q, k_pages, v_pages, tables, starts, lengths, longest, window):
    call = (q, k_pages, v_pages, tables, starts, lengths, longest, window)
    return pick("attention_paged", q, call)(*call)


_op = define(
    "attention_paged(Tensor q, Tensor k_pages, Tensor v_pages, Tensor tables, Tensor starts, Tensor lengths, "
    "int longest, int window) -> Tensor",
    _run,
    lambda q, k_pages, v_pages, tables, starts, lengths, longest, window: q.new_empty(q.shape),
)


def attention_paged(q, k_pages, v_pages, tables, starts, lengths, longest: int, window: int = -1):
    """q (N, H, D) over k_pages and v_pages (P, page, G, D) -> (N, H, D); scores are scaled by 1/sqrt(D).

    tables (R, M), starts (R + 1,) and lengths (R,) are dense int64; `longest` is the most queries of a row, known
    without asking a GPU. Raises ValueError where the backend in use does not take the dtypes or shapes, or a table
    names no page; a kernel on a GPU cannot raise for the latter and gives NaN.
    """
    return (_op if torch.compiler.is_compiling() else _run)(
        q, k_pages, v_pages, tables, starts, lengths, longest, window
    )
