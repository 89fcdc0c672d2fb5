"""Copies of weights that are kept: one for all micro-batches, equal bit for bit, and never older than the weight."""

import contextlib

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pynanochat.model import GPT, GPTConfig
from pynanochat.ops import adamw_step
from pynanochat.ops.casts import cast, casts_kept

CONFIG = {"head_dim": 16, "n_head": 2, "n_kv_head": 1, "n_embd": 32, "vocab_size": 50, "sequence_len": 24}
HALF = torch.bfloat16


class Casts(TorchDispatchMode):
    """Counts conversions of fp32 matrices of `shapes` to bf16."""

    def __init__(self, shapes):
        super().__init__()
        self.shapes, self.count = shapes, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.ops.aten._to_copy.default and kwargs.get("dtype") == HALF:
            self.count += args[0].dtype == torch.float32 and tuple(args[0].shape) in self.shapes
        return function(*args, **kwargs)


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    """The ops as they are on a GPU where nothing is verified."""
    monkeypatch.setenv("PYNANOCHAT_BACKEND", "reference")


def trained(arch, scope, batches=3):
    """The losses and gradients of some micro-batches, and the casts of matrices that they took."""
    model = GPT(GPTConfig.from_depth(2, arch, **CONFIG), seed=3, compute_dtype=HALF)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    blocks = {tuple(p.shape) for _, p in model.parameter_groups()["matrix"] if p.numel() > 100}
    losses = []
    with scope, Casts(blocks) as casts:
        for seed in range(batches):
            ids = torch.randint(0, 50, (2, 21), generator=torch.Generator().manual_seed(seed))
            loss = model(ids[:, :-1], ids[:, 1:])
            loss.backward()
            losses.append(loss.detach())
    return losses, {name: p.grad for name, p in model.named_parameters()}, casts.count, model


@pytest.mark.parametrize("arch", ["2025", "2026"])
def test_kept_copies_change_nothing_and_are_made_once(arch):
    losses, grads, casts, model = trained(arch, contextlib.nullcontext())
    kept_losses, kept_grads, kept_casts, _ = trained(arch, casts_kept(everywhere=True))
    assert all(torch.equal(a, b) for a, b in zip(losses, kept_losses, strict=True))
    for name, gradient in grads.items():
        assert gradient.dtype == torch.float32 and torch.equal(gradient, kept_grads[name]), name
    matrices = sum(p.numel() > 100 for _, p in model.parameter_groups()["matrix"])
    assert (casts, kept_casts) == (3 * matrices, matrices)


def test_on_a_cpu_nothing_is_kept_unasked():
    assert trained("2026", casts_kept())[2] == trained("2026", contextlib.nullcontext())[2]


def test_a_copy_is_never_older_than_its_weight():
    weight = torch.nn.Parameter(torch.ones(2, 3))
    ways = [
        lambda: weight.mul_(3),
        lambda: torch._foreach_copy_([weight], [torch.full((2, 3), 5.0)]),
        lambda: weight.set_(torch.full((2, 3), 7.0)),
        lambda: setattr(weight, "data", torch.full((2, 3), 9.0)),
    ]
    with casts_kept(everywhere=True):
        for change in ways:
            first = cast(weight, HALF)
            assert cast(weight, HALF).data_ptr() == first.data_ptr()
            with torch.no_grad():
                change()
            assert torch.equal(cast(weight, HALF), weight.to(HALF)) and not torch.equal(first, cast(weight, HALF))


def test_a_step_of_the_optimizer_lies_between_two_blocks():
    """torch's fused AdamW leaves the version of a weight as it was."""
    weight = torch.nn.Parameter(torch.ones(2, 3))
    for _ in range(3):
        with casts_kept(everywhere=True):
            assert torch.equal(cast(weight, HALF), weight.to(HALF))
        adamw_step(weight, torch.ones(2, 3), torch.zeros(2, 3), torch.zeros(2, 3), step=1, lr=1.0, beta1=0.9, beta2=0.9)


def test_nothing_is_kept_beyond_the_block_or_of_what_is_no_parameter():
    weight, other = torch.nn.Parameter(torch.ones(2, 3)), torch.ones(2, 3)
    with casts_kept(everywhere=True):
        inside = cast(weight, HALF)
        with casts_kept():
            assert cast(weight, HALF).data_ptr() == inside.data_ptr()
        assert cast(other, HALF).data_ptr() != cast(other, HALF).data_ptr()
        with torch.inference_mode():
            assert cast(weight, HALF).data_ptr() != inside.data_ptr()
        assert not cast(weight, HALF).is_inference()
    with casts_kept(everywhere=True):
        assert cast(weight, HALF).data_ptr() != inside.data_ptr()
    assert cast(weight, torch.float32) is weight


def test_the_gradient_goes_to_the_master_weight():
    weight = torch.nn.Parameter(torch.randn(2, 3))
    with casts_kept(everywhere=True):
        (cast(weight, HALF) * 3).sum().backward()
        with torch.no_grad():
            assert not cast(weight, HALF).requires_grad
    assert weight.grad.dtype == torch.float32 and torch.equal(weight.grad, torch.full((2, 3), 3.0))
