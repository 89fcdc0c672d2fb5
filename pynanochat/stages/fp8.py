"""`--fp8` of a run: refused where it cannot be, and given to the model that a stage trains.

It is for pretraining, midtraining and SFT. Reinforcement learning goes without: what it learns from must be as likely
to the policy that learns as it was to the one that was sampled. Utilisation (MFU) stays that of the bf16 peak, with
which runs are compared.
"""

import torch

from pynanochat.errors import UsageError
from pynanochat.model.fp8 import Fp8, check_sizes, unable
from pynanochat.ops import backends

OPS = ("linear_fp8", "relu2_mlp_fp8")


def check(wanted: bool, device, config=None) -> None:
    """Raise UsageError where `--fp8` is wanted and `device`, or a model of `config`, cannot have it."""
    if not wanted:
        return
    if reason := unable(device):
        raise UsageError(
            f"--fp8: {reason}; products in 8 bits need an NVIDIA GPU of compute capability 8.9 or more (Ada, Hopper "
            "or newer); use --no-fp8 here"
        )
    if config is not None:
        check_sizes(config)


def give(model, run, stage: str) -> None:
    """Make the `model` of a stage train in 8 bits where its run wants that, and say so in one line."""
    if not run.settings.fp8:
        return
    device = model.lm_head.weight.device
    check(True, device, model.config)
    model.fp8 = Fp8(model)
    tensor = torch.empty(0, device=device)
    slow = any(backends.choose(op, tensor) == "reference" for op in OPS)
    unverified = ", by plain torch's casts, which are slow: `pynanochat bench gpu` verifies our own" if slow else ""
    run.say(f"{stage}: the blocks' products are in fp8{unverified}")
