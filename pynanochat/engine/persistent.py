"""Whole decoding steps of one row in one launch: ops.decode_step over a model and its cache.

    steps = PersistentSteps(model, cache)
    if steps.takes(layout):
        logits = steps.run(layout)             # (1, V); overwritten by the next run

Like a graph (engine/graphs.py) it reads and writes fixed addresses, so the cache gets all of its pages at once, before
the first step. What differs from step to step is one copy of integers to the GPU; nothing is waited for.
"""

import numpy as np
import torch

from pynanochat.engine.paged_cache import Layout
from pynanochat.ops import backends
from pynanochat.ops.decode_step import Layer, Plan, decode_step
from pynanochat.ops.decode_step_gpu import fits

NAME = "decode_step"  # among what is verified


def pay_off(model) -> bool:
    """Whether single rows of `model` can be decoded this way and gain by it: on a GPU where `pynanochat bench gpu` has
    seen the kernel to be right, with weights in the dtype that is computed in and sizes that the kernel takes."""
    c, weight = model.config, model.lm_head.weight
    if weight.device.type != "cuda" or weight.dtype != model.compute_dtype or backends.choose(NAME, weight) != "cuda":
        return False
    return fits(weight, c.vocab_size, c.n_head, c.n_kv_head, c.head_dim)


class PersistentSteps:
    """The decoding steps of one row of one model over its cache. `drawn` is what ids below 0 are looked up in."""

    def __init__(self, model, cache, drawn: torch.Tensor | None = None):
        self.model, self.cache, self.drawn = model, cache, drawn
        self.columns = -(-model.config.sequence_len // cache.page)
        groups = len(cache.groups)
        self._host = np.zeros(4 + groups * (1 + self.columns), np.int64)
        self.numbers = torch.zeros(len(self._host), dtype=torch.int64, device=cache.device)
        self.plan = None

    def takes(self, layout: Layout) -> bool:
        """Whether this pass is one token of one row."""
        return layout.longest == len(layout.lengths) == len(layout.ids) == 1

    def run(self, layout: Layout) -> torch.Tensor:
        """The logits (1, V) of the layout's row."""
        if self.plan is None:
            self.plan = plan_of(self.model, self.cache, self.columns)
        groups = len(self.cache.groups)
        host = self._host
        host[:4] = layout.ids[0], layout.previous[0], layout.positions[0], layout.lengths[0]
        host[4 : 4 + groups] = [slots[0] for slots in layout.slots]
        for table, given in zip(host[4 + groups :].reshape(groups, self.columns), layout.tables, strict=True):
            table[: given.shape[1]] = given[0]
        numbers = torch.from_numpy(host)
        if self.cache.device.type == "cuda":
            numbers = numbers.pin_memory()  # fresh: the GPU may not have read those of the step before
        self.numbers.copy_(numbers, non_blocking=True)
        return decode_step(self.plan, self.numbers, self.drawn)


def plan_of(model, cache, columns: int) -> Plan:
    """What ops.decode_step needs of a model and its cache, which from here on keep their addresses."""
    c = model.config
    cache.take_all_room()
    layers = []
    for i, block in enumerate(model.transformer.h):
        attention, mlp, group = block.attn, block.mlp, cache.group_of[i]
        with_values = c.has_value_embedding(i)
        layers.append(
            Layer(
                q=attention.c_q.weight,
                k=attention.c_k.weight,
                v=attention.c_v.weight,
                out=attention.c_proj.weight,
                fc=mlp.c_fc.weight,
                proj=mlp.c_proj.weight,
                gate=attention.ve_gate.weight if with_values else None,
                values=model.value_embeds[str(i)].weight if with_values else None,
                k_pages=cache.groups[group].storage[i][0],
                v_pages=cache.groups[group].storage[i][1],
                group=group,
                window=attention.window,
            )
        )
    return Plan(
        layers,
        embedding=model.transformer.wte.weight,
        head=model.lm_head.weight,
        cos=model.cos,
        sin=model.sin,
        smear_gate=model.smear_gate.weight if c.smear else None,
        smear_scale=model.smear_lambda if c.smear else None,
        stream_scales=model.resid_lambdas if c.residual_scalars else None,
        first_scales=model.x0_lambdas if c.residual_scalars else None,
        backout=model.backout_lambda if c.backout else None,
        heads=c.n_head,
        vocab=c.vocab_size,
        groups=len(cache.groups),
        columns=columns,
        qk_scale=c.qk_scale,
        eps=c.norm_eps,
        softcap=c.softcap,
    )
