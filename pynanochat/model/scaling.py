"""What follows from a model's size: parameters, FLOPs, bytes, and from --depth the tokens, batch and learning rates.

All counts come from a model built on the meta device, so a plan allocates nothing.
"""

from dataclasses import dataclass

import torch

from pynanochat.model.config import GPTConfig
from pynanochat.model.gpt import GPT

REFERENCE_BATCH = 2**19  # tokens: the batch at which the learning rates were tuned
REFERENCE_DEPTH = 12
BATCH_EXPONENT = 0.383


@dataclass(frozen=True)
class ModelSize:
    """Counts of one model. `parameters` all of them; `matmul` those that multiply activations (blocks, gates, head)."""

    parameters: int
    matmul: int
    scaling: int
    """Block matrices and head: what tokens are counted against."""
    flops_per_token: int
    """Forward and backward, attention included, at the full context."""

    def training_bytes(self) -> int:
        """Bytes of weights, gradients and optimizer state in fp32 (two moments at most)."""
        return self.parameters * 4 * 4


def measure(config: GPTConfig) -> ModelSize:
    """The ModelSize of `config`."""
    with torch.device("meta"):
        groups = GPT(config).parameter_groups()
    count = {name: sum(p.numel() for _, p in members) for name, members in groups.items()}
    gates = sum(p.numel() for name, p in groups["matrix"] if "ve_gate" in name)
    smear = sum(p.numel() for name, p in groups["smear_backout"] if name == "smear_gate.weight")
    matmul = count["matrix"] + count["head"] + smear
    return ModelSize(
        parameters=sum(count.values()),
        matmul=matmul,
        scaling=count["matrix"] - gates + count["head"],
        flops_per_token=6 * matmul + attention_flops_per_token(config),
    )


def attention_flops_per_token(config: GPTConfig) -> int:
    """12 · heads · head_dim · min(window, context) summed over the layers, forward and backward."""
    total = 0
    for layer in range(config.n_layer):
        window = config.window(layer)
        seen = config.sequence_len if window < 0 else min(window, config.sequence_len)
        total += 12 * config.n_head * config.head_dim * seen
    return total


@dataclass(frozen=True)
class Horizon:
    """How long and how fast to train: tokens in all, tokens a step, and multipliers for the tuned settings."""

    tokens: int
    batch_tokens: int
    lr_multiplier: float
    weight_decay_multiplier: float


def horizon(config: GPTConfig, tokens_per_parameter: float, batch_tokens: int | None = None) -> Horizon:
    """The Horizon of a model by its depth: tokens = ratio · (block matrices + head), the rest from the tuned d12.

    batch = 2^19 · (D/D_d12)^0.383 to a power of two; lr ∝ √(B/2^19); weight decay ∝ √(B/2^19) · (D_d12/D).
    The 2025 recipe counts tokens against all parameters and has the batch 2^19 at every depth.
    """
    old = config.arch == "2025"
    counted = lambda c: measure(c).parameters if old else measure(c).scaling  # noqa: E731
    tokens = round(tokens_per_parameter * counted(config))
    reference = GPTConfig.from_depth(
        REFERENCE_DEPTH, arch=config.arch, head_dim=config.head_dim, vocab_size=config.vocab_size
    )
    ratio = tokens / (tokens_per_parameter * counted(reference))
    if batch_tokens is None:
        batch_tokens = REFERENCE_BATCH if old else nearest_power_of_two(REFERENCE_BATCH * ratio**BATCH_EXPONENT)
    lr = (batch_tokens / REFERENCE_BATCH) ** 0.5
    return Horizon(tokens, batch_tokens, lr, lr / ratio)


def nearest_power_of_two(x: float) -> int:
    """The power of two nearest to x on a logarithmic scale, at least 1."""
    import math

    return 2 ** max(0, round(math.log2(x)))
