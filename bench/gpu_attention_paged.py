"""What gpu_ops measures of attention_paged: decoding in GB/s of keys and values, prefill in TFLOP/s.

Peers: `eager`, the reference, which gathers the pages first, and `sdpa`, torch's attention on keys and values that
were gathered beforehand, where all rows are of one shape.
"""

import torch
import torch.nn.functional as F

from pynanochat.bench import bench_attention_paged as paged
from pynanochat.ops.attention_paged import attention_paged_reference, visible

PAGE = 16
CASES = {  # (queries, tokens) of each row; H, G, D, page, window
    "d12 decode, 1 row": ([(1, 2048)], 6, 6, 128, PAGE, -1),
    "d12 decode, 64 rows": ([(1, 1024)] * 64, 6, 6, 128, PAGE, -1),
    "d24 decode, 128 rows, grouped": ([(1, 1024)] * 128, 12, 4, 128, PAGE, -1),
    "d12 decode, 64 rows, window": ([(1, 2048)] * 64, 6, 6, 128, PAGE, 512),
    "d12 prefill": ([(2048, 2048)] * 4, 6, 6, 128, PAGE, -1),
    "d12 mixed": ([(512, 1024), *[(1, 1024)] * 63], 6, 6, 128, PAGE, -1),
}
RIDGE = 200  # FLOPs to a byte read: with more, products are the bound


def flops(case) -> int:
    """Of both products, over the pairs of query and token that see each other."""
    rows, H, _, D, _, window = case
    pairs = 0
    for queries, length in rows:
        pairs += sum(at + 1 if window < 0 else min(at, window) + 1 for at in range(length - queries, length))
    return 4 * pairs * H * D


def work(case, rate) -> tuple[float, str, float]:
    """Work in the unit per second of its bound, that unit, and the bound that was measured."""
    read, products = paged.bytes_read(case, torch.bfloat16), flops(case)
    if products > RIDGE * read:
        return products / 1e12, "tflops", rate["bf16_tflops"]
    return read / 1e9, "gbs", rate["copy_gbs"]


def contest(case, kernels, device) -> dict:
    """name -> a call, of each backend and of the peers."""
    inputs = [x.to(device) if isinstance(x, torch.Tensor) else x for x in paged.make(case, torch.bfloat16)]
    functions = {name: (lambda f=kernel: f(*inputs)) for name, kernel in kernels.items()}
    functions["eager"] = lambda: attention_paged_reference(*inputs)
    if len(set(case[0])) == 1:
        functions["sdpa"] = in_one_piece(case, *inputs)
    return functions


def in_one_piece(case, q, k_pages, v_pages, tables, starts, lengths, longest, window):
    """torch's attention over gathered keys and values, for rows that are alike: one query each, or whole prompts."""
    (queries, length), *_ = case[0]
    assert queries == 1 or (queries == length and window < 0)
    pairs = [visible(k_pages, v_pages, table, length, queries, window) for table in tables]
    seen = length if window < 0 else min(length, window + 1)
    k, v = (torch.stack(x)[:, -seen:].transpose(1, 2).contiguous() for x in zip(*pairs, strict=True))  # (R, G, S, D)
    q = q.unflatten(0, (-1, queries)).transpose(1, 2).contiguous()
    return lambda: F.scaled_dot_product_attention(q, k, v, is_causal=queries > 1, enable_gqa=q.size(1) != k.size(1))
