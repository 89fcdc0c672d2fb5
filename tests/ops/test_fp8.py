"""Scales of 8-bit floats: their arithmetic, their history, and what a checkpoint keeps."""

import math

import pytest
import torch

from pynanochat.ops import linear_fp8, relu2_mlp_fp8
from pynanochat.ops.fp8 import E4M3, E5M2, Scales, power_of_two


@pytest.mark.parametrize("largest", [448.0, 447.9, 448.1, 224.0, 1.0, 3e-5, 1e-30, 1e30])
def test_a_scale_is_the_largest_power_of_two_that_fits(largest):
    scale = power_of_two(torch.tensor(largest), 448.0, torch.tensor(1.0)).item()
    assert math.frexp(scale)[0] == 0.5  # a power of two
    exact = torch.tensor(largest).item()
    assert scale * exact <= 448.0 < 2 * scale * exact


def test_nothing_seen_leaves_the_scale_alone():
    assert power_of_two(torch.tensor([0.0, 1.0]), torch.tensor(448.0), torch.tensor([4.0, 4.0])).tolist() == [
        4.0,
        256.0,
    ]


def test_the_largest_of_the_last_steps_counts():
    scales = Scales([E4M3, E5M2], history=3)
    seen = []
    for amax in (1.0, 100.0, 2.0, 2.0, 2.0):
        scales.amax.fill_(amax)
        scales.update()
        seen.append([scale.scale.item() for scale in scales])
        assert not scales.amax.any()
    assert [first for first, _ in seen] == [256.0, 4.0, 4.0, 4.0, 128.0]
    assert [second for _, second in seen] == [32768.0, 512.0, 512.0, 512.0, 16384.0]
    assert torch.equal(scales.inverse * scales.scale, torch.ones(2))


def test_what_is_no_number_does_not_spoil_a_scale():
    scales = Scales([E4M3, E4M3, E4M3])
    for amax in ([2.0, 2.0, 2.0], [float("inf"), float("nan"), 4.0]):
        scales.amax.copy_(torch.tensor(amax))
        scales.update()
    assert scales.scale.tolist() == [128.0, 128.0, 64.0]


def test_the_first_use_takes_its_scale_from_the_tensor():
    scales = Scales([E4M3, E4M3])
    x = torch.tensor([1.0, -3.0, float("nan"), float("inf")])
    scales[0].seed(x)
    scales[0].seed(1000 * x)  # only once
    assert scales.scale.tolist() == [128.0, 1.0] and scales.inverse.tolist() == [1 / 128, 1.0]


def test_a_checkpoint_goes_on_bit_for_bit():
    whole, parts = Scales([E4M3, E5M2], history=2), Scales([E4M3, E5M2], history=2)
    for step in range(6):
        if step == 3:
            saved = {name: tensor.clone() for name, tensor in parts.state().items()}
            parts = Scales([E4M3, E5M2], history=2)
            parts.load_state(saved)
            assert all(scale.seeded for scale in parts)
        for scales in (whole, parts):
            scales[0].amax.fill_(0.3 * 3 ** (step % 4))
            scales[1].amax.fill_(5.0 / (step + 1))
            scales.update()
        assert torch.equal(whole.scale, parts.scale) and torch.equal(whole.inverse, parts.inverse)


def test_compiles_without_a_graph_break():
    """Both ops in fp8, in one graph with its backward: the same numbers and the same magnitudes as eager."""
    scales = Scales([E4M3, E4M3, E5M2] + [E4M3] * 4 + [E5M2] * 2)
    x, w, w_fc, w_proj = inputs = [torch.randn(32, 16), torch.randn(16, 16), torch.randn(48, 16), torch.randn(16, 48)]
    function = lambda x, w, *mlp: relu2_mlp_fp8(linear_fp8(x, w, scales[:3]) * 2, *mlp, scales[3:]).square()  # noqa: E731
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    leaves = [t.requires_grad_() for t in (x, w, w_fc, w_proj)]
    function(*leaves).sum().backward()
    scales.update()
    results = []
    for f in (function, compiled):
        scales.amax.zero_()
        y = f(*leaves)
        results.append([y.detach(), *torch.autograd.grad(y.sum(), inputs), scales.amax.clone()])
    torch.testing.assert_close(*results)
    assert (results[0][-1] > 0).all()
