"""The products of a GPT's blocks in 8-bit floats, while it trains.

    model.fp8 = Fp8(model)                   # from now on the training forward pass multiplies in 8 bits
    for batches in steps:
        model.fp8.begin()                    # the weights in 8 bits, once for all micro-batches of the step
        for ids, targets in batches:
            model(ids, targets).backward()
        optimizer.step()
        model.fp8.finish()                   # the scales move on; or forget(), where the step was not done

In 8 bits are queries, keys and values, which share one cast of their input, the attention's projection and the MLP.
Embeddings, gates and the head are not; nor is anything while the model is evaluated or decodes (no gradients, or
`model.eval()`). Parameters and what is saved of them stay as they are. The scales are by delay (pynanochat/ops/fp8.py),
after the first MEASURED steps, in which every tensor is measured: matrices that begin as zeros pass on no gradient that
a scale could be taken from, for as many steps as such matrices lie behind one another.
"""

import torch

from pynanochat.errors import UsageError
from pynanochat.ops import linears_fp8, relu2_mlp_fp8
from pynanochat.ops.fp8 import E4M3, E5M2, Scales
from pynanochat.ops.linear_fp8 import WHOLE, cast

MEASURED = 4
CAPABILITY = (8, 9)  # of GPUs that multiply 8-bit floats: Ada, and Hopper from (9, 0) on


def unable(device) -> str:
    """Why `device` cannot train in fp8; "" where it can."""
    if device.type != "cuda":
        return f"{device} is no GPU"
    capability = torch.cuda.get_device_capability(device)
    if capability < CAPABILITY:
        return f"{torch.cuda.get_device_name(device)} has compute capability {capability[0]}.{capability[1]}"
    return "" if torch.version.cuda else "torch was built without CUDA"


def check_sizes(config) -> None:
    """Raise UsageError for a model whose blocks have sides that products in 8 bits do not take."""
    sides = {"width": config.n_embd, "keys and values": config.n_kv_head * config.head_dim}
    sides["queries"] = config.n_head * config.head_dim
    for name, size in sides.items():
        if size % WHOLE:
            raise UsageError(
                f"--fp8: {name} of {size} channels, and products in 8 bits need multiples of {WHOLE}; use another "
                "--depth or --head-dim, or --no-fp8"
            )


class Products:
    """Products that share an input: its scale, those of the weights and all others, and the weights in 8 bits."""

    def __init__(self, scales):
        self.scales, self._casts = scales, None

    def begin(self, *weights) -> None:
        self._casts = [cast(weight.detach(), scale) for weight, scale in zip(weights, self.scales[1:], strict=False)]

    @property
    def casts(self) -> list:
        assert self._casts is not None, "Fp8.begin() comes before the step"
        return self._casts


class Linears(Products):
    def __call__(self, x, *weights):
        return linears_fp8(x, weights, self.scales, self.casts)


class Mlp(Products):
    def __call__(self, x, w_fc, w_proj):
        return relu2_mlp_fp8(x, w_fc, w_proj, self.scales, self.casts)


class BlockFp8:
    """One block's products."""

    DTYPES = (*[E4M3] * 4, *[E5M2] * 3, E4M3, E4M3, E5M2, *[E4M3] * 4, *[E5M2] * 2)  # of qkv, proj and mlp

    def __init__(self, block, scales):
        self.block = block
        self.qkv, self.proj, self.mlp = Linears(scales[:7]), Linears(scales[7:10]), Mlp(scales[10:])

    def begin(self) -> None:
        attn, mlp = self.block.attn, self.block.mlp
        self.qkv.begin(attn.c_q.weight, attn.c_k.weight, attn.c_v.weight)
        self.proj.begin(attn.c_proj.weight)
        self.mlp.begin(mlp.c_fc.weight, mlp.c_proj.weight)


class Fp8:
    """Scales and 8-bit weights of all blocks of `model`. Raises UsageError for sizes that are not taken."""

    def __init__(self, model):
        check_sizes(model.config)
        each, blocks = len(BlockFp8.DTYPES), model.transformer.h
        device = model.lm_head.weight.device
        self.scales = Scales(BlockFp8.DTYPES * len(blocks), device=device, measured=MEASURED)
        self.blocks = [BlockFp8(block, self.scales[each * i : each * (i + 1)]) for i, block in enumerate(blocks)]

    @property
    def measuring(self) -> bool:
        """Whether this step is one of the first, which a compiled model should be left out of."""
        return self.scales.measuring

    @torch.no_grad()
    def begin(self) -> None:
        """Cast the weights for a step: they must stand still until its last micro-batch."""
        for block in self.blocks:
            block.begin()

    def finish(self, reduce=None) -> None:
        """End a step. `reduce` takes the magnitudes that this rank saw to the maximum of all ranks, in place."""
        seen = self.scales.amax
        if reduce is not None:
            reduce(seen)
        self.scales.update(seen)

    def forget(self) -> None:
        """End a step that changed nothing: what it saw does not count."""
        self.scales.forget()

    def state(self) -> dict[str, torch.Tensor]:
        """What a checkpoint needs, between two steps, to go on bit for bit."""
        return self.scales.state()

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        self.scales.load_state(state)
