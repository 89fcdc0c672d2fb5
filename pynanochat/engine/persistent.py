"""Whole decoding steps of one row in one launch: ops.decode_step over a model and its cache.

    steps = PersistentSteps(model, cache)
    if steps.takes(layout):
        logits = steps.run(layout)             # (1, V); overwritten by the next run

Like a graph (engine/graphs.py) it reads and writes fixed addresses, so the cache gets all of its pages at once, before
the first step. What differs from step to step is one copy of integers to the GPU; nothing is waited for, and an id that
only the GPU knows yet is looked up there.
"""

import numpy as np
import torch

from pynanochat.engine.flight import sent
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
    """The decoding steps of one row of one model over its cache."""

    def __init__(self, model, cache):
        self.model, self.cache = model, cache
        self.columns = -(-model.config.sequence_len // cache.page)
        self.plan = None

    def takes(self, layout: Layout) -> bool:
        """Whether this pass is one token of one row."""
        return layout.longest == len(layout.lengths) == len(layout.ids) == 1

    def run(self, layout: Layout) -> torch.Tensor:
        """The logits (1, V) of the layout's row."""
        if self.plan is None:
            self.plan = plan_of(self.model, self.cache, self.columns)
        numbers = sent([self.numbers(layout)], self.cache.device)[0]
        return decode_step(self.plan, numbers, self.cache.drawn.table)

    def numbers(self, layout: Layout) -> np.ndarray:
        """The integers of a step, as ops.decode_step takes them."""
        tables = np.zeros((len(layout.tables), self.columns), np.int64)
        for table, given in zip(tables, layout.tables, strict=True):
            table[: given.shape[1]] = given[0]
        row = (layout.ids, layout.previous, layout.positions, layout.lengths, *layout.slots)
        return np.concatenate([*row, tables.ravel()])


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
