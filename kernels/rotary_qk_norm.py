"""Triton twin of rotary_qk_norm: rotary embedding of queries and keys, their RMS norm over the head, a scale.

    forward(q, k, cos, sin, scale, eps) -> q, k
    backward(grad_q, grad_k, q, k, cos, sin, scale, eps) -> gradients of q and k

q (B, T, H, D), k (B, T, G, D), any strides; cos and sin (T, D/2) or (B, T, D/2). One program does one token: all query
heads, then all key heads, so that cos and sin are read once. Sums in fp32. Memory-bound: csrc/cuda/rotary_qk_norm.cu.
"""

import torch
import triton
import triton.language as tl

from pynanochat.kernels import stored_dtype

HEADS_AT_ONCE = 16


@triton.jit
def _norm_heads(
    x, grad, out, x_head, x_channel, grad_head, grad_channel, out_head, out_channel, c, s, heads, scale, eps,
    D: tl.constexpr, PAIRS: tl.constexpr, HEADS: tl.constexpr, BACKWARD: tl.constexpr,
):  # fmt: skip
    pair = tl.arange(0, PAIRS)[None, :].to(tl.int64)  # a transposed x may have strides that 32 bits cannot multiply
    for first in range(0, heads, HEADS):
        head = (first + tl.arange(0, HEADS)[:, None]).to(tl.int64)
        inside = (head < heads) & (pair < D // 2)
        at = x + head * x_head + pair * x_channel
        x1 = tl.load(at, inside, other=0.0).to(tl.float32)
        x2 = tl.load(at + (D // 2) * x_channel, inside, other=0.0).to(tl.float32)
        y1 = x1 * c + x2 * s
        y2 = x2 * c - x1 * s
        rstd = 1.0 / tl.sqrt(tl.sum(y1 * y1 + y2 * y2, axis=1) / D + eps)[:, None]
        if BACKWARD:
            grad_at = grad + head * grad_head + pair * grad_channel
            g1 = tl.load(grad_at, inside, other=0.0).to(tl.float32)
            g2 = tl.load(grad_at + (D // 2) * grad_channel, inside, other=0.0).to(tl.float32)
            mean = (tl.sum(g1 * y1 + g2 * y2, axis=1) / D)[:, None] * rstd * rstd
            r1 = g1 - y1 * mean
            r2 = g2 - y2 * mean
            y1 = r1 * c - r2 * s
            y2 = r1 * s + r2 * c
        out_at = out + head * out_head + pair * out_channel
        tl.store(out_at, (y1 * (rstd * scale)).to(out.dtype.element_ty), inside)
        tl.store(out_at + (D // 2) * out_channel, (y2 * (rstd * scale)).to(out.dtype.element_ty), inside)


@triton.jit
def rotate_norm_kernel(
    q, grad_q, out_q, k, grad_k, out_k, cos, sin, positions, q_heads, k_heads, scale, eps,
    q0, q1, q2, q3, gq0, gq1, gq2, gq3, oq0, oq1, oq2, oq3,
    k0, k1, k2, k3, gk0, gk1, gk2, gk3, ok0, ok1, ok2, ok3,
    cos0, cos1, cos2, sin0, sin1, sin2,
    D: tl.constexpr, PAIRS: tl.constexpr, HEADS: tl.constexpr, BACKWARD: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    b = token // positions
    t = token % positions
    pair = tl.arange(0, PAIRS)[None, :]
    inside = pair < D // 2
    c = tl.load(cos + b * cos0 + t * cos1 + pair * cos2, inside, other=0.0).to(tl.float32)
    s = tl.load(sin + b * sin0 + t * sin1 + pair * sin2, inside, other=0.0).to(tl.float32)
    _norm_heads(
        q + b * q0 + t * q1, grad_q + b * gq0 + t * gq1, out_q + b * oq0 + t * oq1,
        q2, q3, gq2, gq3, oq2, oq3, c, s, q_heads, scale, eps, D, PAIRS, HEADS, BACKWARD,
    )  # fmt: skip
    _norm_heads(
        k + b * k0 + t * k1, grad_k + b * gk0 + t * gk1, out_k + b * ok0 + t * ok1,
        k2, k3, gk2, gk3, ok2, ok3, c, s, k_heads, scale, eps, D, PAIRS, HEADS, BACKWARD,
    )  # fmt: skip


def _launch(q, k, grad_q, grad_k, cos, sin, scale, eps, backward):
    out_q, out_k = (torch.empty_like(x, dtype=stored_dtype(x.dtype)) for x in (q, k))
    batch, positions, q_heads, head_dim = q.shape
    if batch * positions == 0:
        return torch.empty_like(q), torch.empty_like(k)
    pairs = triton.next_power_of_2(head_dim // 2)
    heads = min(HEADS_AT_ONCE, triton.next_power_of_2(max(q_heads, k.size(2))))
    table = [(0, *x.stride()) if x.dim() == 2 else x.stride() for x in (cos, sin)]
    rotate_norm_kernel[(batch * positions,)](
        q, grad_q, out_q, k, grad_k, out_k, cos, sin, positions, q_heads, k.size(2), scale, eps,
        *q.stride(), *grad_q.stride(), *out_q.stride(), *k.stride(), *grad_k.stride(), *out_k.stride(),
        *table[0], *table[1],
        D=head_dim, PAIRS=pairs, HEADS=heads, BACKWARD=backward, num_warps=4,
    )  # fmt: skip
    return out_q.to(q.dtype), out_k.to(k.dtype)


def forward(q, k, cos, sin, scale, eps):
    """q and k, rotated, normalised over D and multiplied by `scale`; in their dtypes, laid out as they are."""
    return _launch(q, k, q, k, cos, sin, scale, eps, False)


def backward(grad_q, grad_k, q, k, cos, sin, scale, eps):
    """The gradients of q and k from those of forward's results."""
    return _launch(q, k, grad_q, grad_k, cos, sin, scale, eps, True)
