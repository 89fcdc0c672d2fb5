"""One decoding step of one row: from a token's id to the logits of the next, its keys and values put into their pages.

C width, H query heads, G key/value heads, D head dim, V vocabulary, L layers, P pages of `page` tokens, M entries of a
table. What stands still between steps (weights, cache, sizes) is a Plan, made once; a step is its integers, int64:

    numbers (4 + groups · (1 + M),)    id, the id before it (-1: none), position, length = position + 1;
                                       for each group of layers with one window the slot of the new token (page · `page`
                                       + place); then for each group its table
    drawn (S,)                         what an id below 0 means: drawn[id], the id that a pass before has drawn

The reference composes the other ops just as model/gpt.py does with a cache. The kernel (csrc/cuda/decode_step.cu) does
the whole step in one launch.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F

from pynanochat.ops import decode_step_gpu
from pynanochat.ops.attention_paged import attention_paged
from pynanochat.ops.backends import implement, pick
from pynanochat.ops.linear import linear
from pynanochat.ops.relu2_mlp import relu2_mlp
from pynanochat.ops.rms_norm import rms_norm
from pynanochat.ops.rms_norm_residual import rms_norm_residual
from pynanochat.ops.rotary_qk_norm import rotary_qk_norm
from pynanochat.ops.smear import smear
from pynanochat.ops.value_gate import value_gate

Tensor = torch.Tensor


class Layer(NamedTuple):
    q: Tensor  # (H·D, C)
    k: Tensor  # (G·D, C)
    v: Tensor  # (G·D, C)
    out: Tensor  # (C, H·D)
    fc: Tensor  # (4·C, C)
    proj: Tensor  # (C, 4·C)
    gate: Tensor | None  # (G, channels), with `values` or not at all
    values: Tensor | None  # (V or more, G·D), the value embedding
    k_pages: Tensor  # (P, page, G, D)
    v_pages: Tensor  # (P, page, G, D)
    group: int  # whose slot and table it uses
    window: int  # below 0: none


class Plan:
    """All but a step's integers. Weights and pages are of one dtype and stay where they are."""

    def __init__(
        self,
        layers: list[Layer],
        *,
        embedding: Tensor,  # (V or more, C)
        head: Tensor,  # (V or more, C)
        cos: Tensor,  # (positions, D/2) fp32
        sin: Tensor,
        smear_gate: Tensor | None = None,  # (1, channels), with smear_scale (1,) or not at all
        smear_scale: Tensor | None = None,
        stream_scales: Tensor | None = None,  # (L,): x = stream_scales[i] · x + first_scales[i] · x0, both or neither
        first_scales: Tensor | None = None,
        backout: Tensor | None = None,  # (1,)
        heads: int,
        vocab: int,
        groups: int,
        columns: int,  # M
        qk_scale: float,
        eps: float,
        softcap: float,
    ):
        self.layers, self.embedding, self.head, self.cos, self.sin = layers, embedding, head, cos, sin
        self.smear_gate, self.smear_scale = smear_gate, smear_scale
        self.stream_scales, self.first_scales, self.backout = stream_scales, first_scales, backout
        self.heads, self.vocab, self.groups, self.columns = heads, vocab, groups, columns
        self.qk_scale, self.eps, self.softcap = qk_scale, eps, softcap
        self.page, self.kv_heads, self.head_dim = layers[0].k_pages.shape[1:]
        self.kernel = None  # what decode_step_gpu makes of it


# --- reference ---


def decode_step_reference(plan: Plan, numbers, drawn=None):
    ids = (numbers[:1] if drawn is None else torch.where(numbers[:1] < 0, drawn[numbers[:1]], numbers[:1]))[None]
    previous, position, length = numbers[1:2], numbers[2:3], numbers[3:4]
    slots = numbers[4 : 4 + plan.groups]
    tables = numbers[4 + plan.groups :].view(plan.groups, 1, plan.columns)
    starts = torch.arange(2, device=numbers.device)
    rotation = plan.cos[position][:, None], plan.sin[position][:, None]
    x = _embedded(plan, ids)
    if plan.smear_gate is not None:
        before = _embedded(plan, previous.clamp(min=0)) * (previous >= 0)[:, None]
        x = smear(x, plan.smear_gate, plan.smear_scale, before)
    first = x
    for i, layer in enumerate(plan.layers):
        if plan.stream_scales is not None:
            x = plan.stream_scales[i] * x + plan.first_scales[i] * first
        normed = rms_norm(x, plan.eps)
        q, k, v = (linear(normed, w).view(1, 1, -1, plan.head_dim) for w in (layer.q, layer.k, layer.v))
        if layer.values is not None:
            v = value_gate(v, normed, ids, layer.values, layer.gate)
        q, k = rotary_qk_norm(q, k, *rotation, scale=plan.qk_scale, eps=plan.eps)
        for pages, new in ((layer.k_pages, k), (layer.v_pages, v)):
            pages.view(-1, *pages.shape[2:]).index_copy_(0, slots[layer.group : layer.group + 1], new[0])
        table = tables[layer.group]
        y = attention_paged(q[0], layer.k_pages, layer.v_pages, table, starts, length, 1, layer.window)
        x, normed = rms_norm_residual(x, linear(y.view(1, 1, -1), layer.out), plan.eps)
        x = x + relu2_mlp(normed, layer.fc, layer.proj)
        if i == len(plan.layers) // 2:
            middle = x
    if plan.backout is not None:
        x = x - plan.backout * middle
    logits = linear(rms_norm(x, plan.eps)[0], plan.head)[:, : plan.vocab].float()
    return plan.softcap * torch.tanh(logits / plan.softcap)


def _embedded(plan, ids):
    return rms_norm(F.embedding(ids, plan.embedding), plan.eps)


implement("decode_step", "reference", decode_step_reference)
implement("decode_step", "cuda", decode_step_gpu.cuda)


def decode_step(plan: Plan, numbers, drawn=None):
    """The logits (1, V) fp32 of the token after the one that `numbers` names; the new keys and values are cached.

    `numbers` is dense and lies where the plan does. Nothing is waited for. The kernel trusts the integers: ids within
    the vocabulary, a position within the rotary table; it overwrites the logits of its last call.
    """
    return pick("decode_step", plan.embedding)(plan, numbers, drawn)
