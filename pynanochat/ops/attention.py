"""Causal softmax attention with an optional window, for training and over a KV cache.

B batch, T positions, H query heads, G key/value heads (H a multiple of G), D head dim, S cache slots.
A query at position i sees keys j with i - window <= j <= i; window < 0 means all of the past.
"""

import torch
import torch.nn.functional as F

from pynanochat.ops.backends import implement, pick


def attention_reference(q, k, v, window):
    positions = q.size(1)
    q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # (B, H, T, D)
    grouped = q.size(1) != k.size(1)
    if window < 0 or window >= positions - 1:
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
    else:
        i = torch.arange(positions, device=q.device)
        visible = (i[:, None] >= i) & (i[:, None] - i <= window)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=visible, enable_gqa=grouped)
    return out.transpose(1, 2)


def attention_with_cache_reference(q, k_cache, v_cache, lengths, window):
    slots = k_cache.size(1)
    query = lengths[:, None] - q.size(1) + torch.arange(q.size(1), device=q.device)  # (B, T)
    key = torch.arange(slots, device=q.device)
    visible = key <= query[..., None]  # (B, T, S)
    if window >= 0:
        visible &= key >= query[..., None] - window
    out = F.scaled_dot_product_attention(
        q.transpose(1, 2),
        k_cache.transpose(1, 2),
        v_cache.transpose(1, 2),
        attn_mask=visible[:, None],
        enable_gqa=q.size(2) != k_cache.size(2),
    )
    return out.transpose(1, 2)


implement("attention", "reference", attention_reference)
implement("attention_with_cache", "reference", attention_with_cache_reference)


def attention(q, k, v, window: int = -1):
    """q (B, T, H, D), k and v (B, T, G, D) -> (B, T, H, D); scores are scaled by 1/sqrt(D)."""
    return pick("attention", q)(q, k, v, window)


def attention_with_cache(q, k_cache, v_cache, lengths, window: int = -1):
    """q (B, T, H, D) over k_cache and v_cache (B, S, G, D) -> (B, T, H, D).

    `lengths` (B,) int64 counts the filled slots of each row, the T new positions included: row b's queries are the
    positions lengths[b] - T ... lengths[b] - 1. Slots past the length are never read into a result.
    """
    return pick("attention_with_cache", q)(q, k_cache, v_cache, lengths, window)
