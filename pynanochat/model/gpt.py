"""The GPT: token embedding, blocks of attention and MLP, head. It only ever calls the ops of the seam.

B rows, T positions, C width, H query heads, G key/value heads, D head dim, V vocabulary.

Parameters are fp32 master weights; activations and products are in `compute_dtype`. Parameter names are the family's.
With a cache, ids are (N, 1): tokens of many sequences one after the other, each a row of its own. A cache (a Pass of
engine/paged_cache.py) is anything with
    positions  (N,) int64, of each token in its sequence
    previous   (N,) int64, the id of the token before each, for smear; -1 where there is none
    update(layer, k, v)  puts k and v (N, G, D) in their places; the arguments of ops.attention_paged behind q
"""

import torch
from torch import nn

from pynanochat import ops
from pynanochat.errors import UsageError
from pynanochat.model.config import GPTConfig


class Weight(nn.Module):
    """A bare matrix with the name `weight`, as nn.Linear and nn.Embedding have it."""

    def __init__(self, rows, columns):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, columns))


class Attention(nn.Module):
    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.config, self.layer, self.window = config, layer, config.window(layer)
        heads, groups = config.n_head * config.head_dim, config.n_kv_head * config.head_dim
        self.c_q = Weight(heads, config.n_embd)
        self.c_k = Weight(groups, config.n_embd)
        self.c_v = Weight(groups, config.n_embd)
        self.c_proj = Weight(config.n_embd, heads)
        self.ve_gate = (
            Weight(config.n_kv_head, config.value_gate_channels) if config.has_value_embedding(layer) else None
        )

    def forward(self, x, ids, value_table, rotation, cache, fp8=None):
        c = self.config
        rows, positions = x.shape[:2]
        weights = self.c_q.weight, self.c_k.weight, self.c_v.weight
        q, k, v = (ops.linear(x, weight) for weight in weights) if fp8 is None else fp8.qkv(x, *weights)
        q = q.view(rows, positions, c.n_head, c.head_dim)
        k = k.view(rows, positions, c.n_kv_head, c.head_dim)
        v = v.view(rows, positions, c.n_kv_head, c.head_dim)
        if value_table is not None:
            v = ops.value_gate(v, x, ids, value_table, self.ve_gate.weight)
        q, k = ops.rotary_qk_norm(q, k, *rotation, scale=c.qk_scale, eps=c.norm_eps)
        if cache is None:
            y = ops.attention(q, k, v, self.window)
        else:
            y = ops.attention_paged(q[:, 0], *cache.update(self.layer, k[:, 0], v[:, 0]), self.window)
        y = y.reshape(rows, positions, -1)
        return ops.linear(y, self.c_proj.weight) if fp8 is None else fp8.proj(y, self.c_proj.weight)[0]


class MLP(nn.Module):
    def __init__(self, config: GPTConfig):
        super().__init__()
        self.c_fc = Weight(4 * config.n_embd, config.n_embd)
        self.c_proj = Weight(config.n_embd, 4 * config.n_embd)

    def forward(self, x, fp8=None):
        return (ops.relu2_mlp if fp8 is None else fp8.mlp)(x, self.c_fc.weight, self.c_proj.weight)


class Block(nn.Module):
    def __init__(self, config: GPTConfig, layer: int):
        super().__init__()
        self.eps = config.norm_eps
        self.attn = Attention(config, layer)
        self.mlp = MLP(config)

    def forward(self, x, ids, value_table, rotation, cache, fp8=None):
        attended = self.attn(ops.rms_norm(x, self.eps), ids, value_table, rotation, cache, fp8)
        x, normed = ops.rms_norm_residual(x, attended, self.eps)
        return x + self.mlp(normed, fp8)


class GPT(nn.Module):
    """`loss = model(ids, targets)`, `logits = model(ids)`; ids and targets (B, T) int64.

    `fp8`, where it is set (model/fp8.py), makes the blocks' products in 8 bits while the model trains.
    """

    def __init__(self, config: GPTConfig, seed: int = 0, compute_dtype=torch.float32):
        super().__init__()
        self.config = config
        self.compute_dtype = compute_dtype
        self.fp8 = None
        layers, rows = config.n_layer, config.padded_vocab_size
        self.transformer = nn.ModuleDict(
            {"wte": Weight(rows, config.n_embd), "h": nn.ModuleList(Block(config, i) for i in range(layers))}
        )
        self.lm_head = Weight(rows, config.n_embd)
        if config.value_embeddings:
            self.value_embeds = nn.ModuleDict(
                {
                    str(i): Weight(rows, config.n_kv_head * config.head_dim)
                    for i in range(layers)
                    if config.has_value_embedding(i)
                }
            )
        if config.residual_scalars:
            self.resid_lambdas = nn.Parameter(torch.empty(layers))
            self.x0_lambdas = nn.Parameter(torch.empty(layers))
        if config.smear:
            self.smear_gate = Weight(1, config.smear_channels)
            self.smear_lambda = nn.Parameter(torch.empty(1))
        if config.backout:
            self.backout_lambda = nn.Parameter(torch.empty(1))
        cos, sin = ops.rotary_table(config.sequence_len, config.head_dim, config.rope_base)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        if not self.lm_head.weight.is_meta:
            self.init_weights(seed)

    @torch.no_grad()
    def init_weights(self, seed: int) -> None:
        """Fresh weights, the same for a seed on every device (drawn on the CPU, in parameter order)."""
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            parameter.copy_(_initial(name, parameter.shape, self.config, generator))

    def forward(self, ids, targets=None, *, cache=None, last: bool = False, at=None, reduction: str = "mean"):
        """Logits (B, T, V) fp32, or with `targets` the loss in nats (ignored where -1); "none" gives (B, T) losses.

        `last` gives the logits of the last position alone, (B, 1, V): a prefill needs no others. `at` (N,) int64 are
        places among the B·T positions, row by row: the head sees these alone: (N, V), or losses of targets (N,).
        """
        x = self._hidden(ids, cache)
        x = x[:, -1:] if last else x if at is None else x.flatten(0, 1)[at]
        c = self.config
        if targets is None:
            logits = ops.linear(x, self.lm_head.weight)[..., : c.vocab_size].float()
            return c.softcap * torch.tanh(logits / c.softcap)
        loss = ops.linear_softcap_cross_entropy(
            x.reshape(-1, x.size(-1)),
            self.lm_head.weight,
            targets.flatten(),
            softcap=c.softcap,
            reduction=reduction,
            vocab_size=c.vocab_size,
        )
        return loss.view(targets.shape) if reduction == "none" else loss

    def _hidden(self, ids, cache):
        """The normed residual stream (B, T, C) that the head reads."""
        c = self.config
        rotation = self._rotation(ids, cache)
        x = self._embedded(ids)
        if c.smear:
            before = None
            if cache is not None:
                before = self._embedded(cache.previous.clamp(min=0)) * (cache.previous >= 0)[:, None]
            x = ops.smear(x, self.smear_gate.weight, self.smear_lambda, before)
        x0 = x
        middle = None
        in_fp8 = self.fp8 is not None and self.training and torch.is_grad_enabled()
        for i, block in enumerate(self.transformer.h):
            if c.residual_scalars:
                x = self.resid_lambdas[i].to(x.dtype) * x + self.x0_lambdas[i].to(x.dtype) * x0
            table = self.value_embeds[str(i)].weight if c.has_value_embedding(i) else None
            x = block(x, ids, table, rotation, cache, self.fp8.blocks[i] if in_fp8 else None)
            if i == c.n_layer // 2:
                middle = x
        if c.backout:
            x = x - self.backout_lambda.to(x.dtype) * middle
        return ops.rms_norm(x, c.norm_eps)

    def _embedded(self, ids):
        x = nn.functional.embedding(ids, self.transformer.wte.weight).to(self.compute_dtype)
        return ops.rms_norm(x, self.config.norm_eps)

    def _rotation(self, ids, cache):
        """cos and sin of this call's positions: (T, D/2), or (N, 1, D/2) with a cache."""
        positions = ids.size(1)
        if cache is None:
            if positions > self.config.sequence_len:
                raise UsageError(f"{positions} tokens in a row: the model's context is {self.config.sequence_len}")
            return self.cos[:positions], self.sin[:positions]
        at = cache.positions[:, None]
        return self.cos[at], self.sin[at]

    def parameter_groups(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        """The parameters by how the optimizer treats them, with their names."""
        groups = {k: [] for k in ("matrix", "embed", "head", "value_embed", "resid_lambda", "x0_lambda")}
        groups["smear_backout"] = []
        for name, parameter in self.named_parameters():
            groups[_group_of(name)].append((name, parameter))
        return groups


def _group_of(name: str) -> str:
    starts = {
        "transformer.h.": "matrix",
        "transformer.wte.": "embed",
        "lm_head.": "head",
        "value_embeds.": "value_embed",
        "resid_lambdas": "resid_lambda",
        "x0_lambdas": "x0_lambda",
        "smear": "smear_backout",
        "backout": "smear_backout",
    }
    return next(group for start, group in starts.items() if name.startswith(start))


def _initial(name, shape, config, generator):
    """The initial value of parameter `name`; see FACTS of the two architectures in config.arch."""
    layers = config.n_layer
    if name in ("smear_lambda", "smear_gate.weight") or name.endswith("c_proj.weight"):
        return torch.zeros(shape)
    if name == "backout_lambda":
        return torch.full(shape, 0.2)
    if name == "resid_lambdas":
        return torch.linspace(1.15, 1.05, layers)
    if name == "x0_lambdas":
        return torch.linspace(0.20, 0.05, layers)
    if name.endswith("ve_gate.weight"):
        return torch.rand(shape, generator=generator) * 0.02
    normal = lambda std: torch.randn(shape, generator=generator) * std  # noqa: E731
    if config.arch == "2025":
        if name == "transformer.wte.weight":
            return normal(1.0)
        if name == "lm_head.weight":
            return torch.zeros(shape)
        rows, columns = shape
        return normal(columns**-0.5 * min(1.0, (rows / columns) ** 0.5))
    if name == "transformer.wte.weight":
        return normal(0.8)
    if name == "lm_head.weight":
        return normal(0.001)
    bound = 3**0.5 * config.n_embd**-0.5  # a uniform distribution of std 1/√width
    if name.endswith("c_fc.weight"):
        bound *= 0.4
    return (torch.rand(shape, generator=generator) * 2 - 1) * bound
