"""What the tests of the two ops in 8-bit floats share: inputs, both passes, and how far 8 bits may be off."""

import pytest
import torch

from pynanochat.ops.fp8 import E4M3, E5M2

LINEAR = [E4M3, E4M3, E5M2]  # of x, weight, dy
MLP = [E4M3] * 4 + [E5M2] * 2  # of x, w_fc, w_proj, h, dy, dz


def skip_without_fp8(device):
    if device == "cuda" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("8-bit floats need sm_89")


def draw(*shape, device="cpu", seed=0):
    """Normal numbers of very different sizes."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    return (x * torch.exp(3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed + 1)))).to(device)


def layer(tokens, channels, units, device):
    """x and dy (N, C) in bf16, w_fc (M, C) and w_proj (C, M) in fp32, as an MLP has them."""
    generator = torch.Generator().manual_seed(5)
    draw = lambda *s: torch.randn(s, generator=generator).to(device)  # noqa: E731
    weights = draw(units, channels) / channels**0.5, draw(channels, units) / units**0.5
    return draw(tokens, channels).bfloat16(), draw(tokens, channels).bfloat16(), *weights


def run(function, inputs, dy, *rest):
    """The result of function(*inputs, *rest) and the gradients of `inputs` for `dy`; rest[0] are the scales."""
    leaves = [t.detach().requires_grad_() for t in inputs]
    y = function(*leaves, *rest)
    return y.detach(), *torch.autograd.grad(y, leaves, dy)


def apart(ours, exact):
    """How far results are from exact ones, each as a part of its size."""
    return [((mine.double() - true).norm() / true.norm()).item() for mine, true in zip(ours, exact, strict=True)]
