"""LoRA: the matrices of the blocks stay as they are, and a product of two thin ones is learnt to be added to each.

    adapt(model, rank=8, alpha=16.0)     # in place: only the adapters of the blocks (and the head) learn from now on
    adapters(model)                      # {"transformer.h.0.attn.c_q.a": parameter, ...}; none in a plain GPT
    merged_state(model)                  # the state dict of the plain GPT that computes the same
    merge(model)                         # in place: that plain GPT

weight = base + alpha/rank · B A, with A (rank, columns) drawn small and B (rows, rank) zero, so that an adapted model
begins as the model it was. The sum is formed before each product: every op of the seam, the fused ones too, works as on
plain weights, and a merged model computes bit for bit what the adapted one does. That costs rank · width² more
multiplications a product, little beside a micro-batch of thousands of tokens. What is saved is the optimizer's memory
and the gradients that ranks exchange.
"""

import torch
from torch import nn

from pynanochat.errors import CheckpointError, UsageError
from pynanochat.model.gpt import GPT, Weight

MATRICES = ("attn.c_q", "attn.c_k", "attn.c_v", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


class Adapted(nn.Module):
    """A frozen matrix and its adapter, in the place of a Weight."""

    def __init__(self, weight, rank: int, alpha: float, generator):
        super().__init__()
        rows, columns = weight.shape
        bound = columns**-0.5
        a = (torch.rand(rank, columns, generator=generator) * 2 - 1) * bound
        self.scale = alpha / rank
        self.base = nn.Parameter(weight.detach(), requires_grad=False)
        self.a = nn.Parameter(a.to(weight))
        self.b = nn.Parameter(weight.new_zeros(rows, rank))

    @property
    def weight(self) -> torch.Tensor:
        """The matrix (rows, columns) that products are made with."""
        return self.base + self.scale * (self.b @ self.a)


def adapt(model: GPT, rank: int, alpha: float, *, head: bool = False, seed: int = 0) -> None:
    """Give every matrix of the blocks, and the head where asked, an adapter; everything else is frozen.

    Raises UsageError for a rank that no matrix of the model can have.
    """
    most = min(min(model.get_submodule(name).weight.shape) for name in _places(model, head))
    if not 1 <= rank <= most:
        raise UsageError(f"--lora-rank {rank}: must be from 1 to {most}, the least side of this model's matrices")
    if not alpha > 0:
        raise UsageError(f"--lora-alpha {alpha}: must be above 0")
    generator = torch.Generator().manual_seed(seed)
    model.requires_grad_(False)
    for name in _places(model, head):
        _put(model, name, Adapted(model.get_submodule(name).weight, rank, alpha, generator))


def _places(model: GPT, head: bool) -> list[str]:
    blocks = [f"transformer.h.{i}.{name}" for i in range(model.config.n_layer) for name in MATRICES]
    return [*blocks, *(["lm_head"] if head else [])]


def _put(model, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, module)


def _adapted(model) -> list[tuple[str, Adapted]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, Adapted)]


def adapters(model) -> dict[str, nn.Parameter]:
    """The parameters that learn, by name; none for a model without adapters."""
    return {f"{name}.{part}": getattr(module, part) for name, module in _adapted(model) for part in ("a", "b")}


def load_adapters(model, tensors: dict[str, torch.Tensor]) -> None:
    """Copy in what `adapters` gave. Raises CheckpointError where names or shapes are others."""
    own = adapters(model)
    if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in tensors.items()}:
        raise CheckpointError("the saved adapters have other places or another rank; give the same --lora-rank again")
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(tensors[name])


@torch.no_grad()
def merged_state(model) -> dict[str, torch.Tensor]:
    """The state dict of a plain GPT that computes what `model` does; the model's own where it has no adapters."""
    state = model.state_dict()
    for name, module in _adapted(model):
        for part in ("base", "a", "b"):
            del state[f"{name}.{part}"]
        state[f"{name}.weight"] = module.weight
    return state


def merge(model: GPT) -> None:
    """Make `model` a plain GPT again, of the same outputs; all of it may learn from now on."""
    for name, module in _adapted(model):
        plain = Weight(*module.base.shape)
        plain.weight = nn.Parameter(module.weight.detach())
        _put(model, name, plain)
    model.requires_grad_(True)


def merged(model: GPT) -> GPT:
    """A plain copy of an adapted model, for decoding; the model itself where it has no adapters."""
    if not adapters(model):
        return model
    device = next(model.parameters()).device
    plain = GPT(model.config, compute_dtype=model.compute_dtype)
    plain.load_state_dict(merged_state(model))
    return plain.to(device).train(model.training)
