"""Scales of 8-bit floats: their arithmetic, their history, and what a checkpoint keeps."""

import math

import pytest
import torch

from pynanochat.ops import linear_fp8, relu2_mlp_fp8
from pynanochat.ops.fp8 import E4M3, E5M2, Scales, power_of_two
from pynanochat.ops.linear_fp8 import cast_reference


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
        for scale in scales:
            scale.amax.fill_(amax)
        scales.update()
        seen.append([scale.scale.item() for scale in scales])
        assert not scales.amax.any()
    assert [first for first, _ in seen] == [256.0, 4.0, 4.0, 4.0, 128.0]
    assert [second for _, second in seen] == [4096.0, 64.0, 64.0, 64.0, 2048.0]  # and 8 times as much would fit
    assert all(scale.inverse * scale.scale == 1 for scale in scales)


def test_a_gradient_may_grow_eightfold_before_it_is_cut_off():
    scales = Scales([E4M3, E5M2])
    scales.update(torch.tensor([3.0, 7.9]))
    assert 8 * 7.9 * scales[1].scale <= torch.finfo(E5M2).max < 16 * 7.9 * scales[1].scale


def test_what_is_no_number_does_not_spoil_a_scale():
    scales = Scales([E4M3, E4M3, E4M3])
    for amax in ([2.0, 2.0, 2.0], [float("inf"), float("nan"), 4.0]):
        scales.update(torch.tensor(amax))
    assert scales.scale.tolist() == [128.0, 128.0, 64.0]


def test_the_first_steps_take_their_scales_from_the_tensors():
    scales = Scales([E4M3, E4M3], measured=2)
    x = torch.tensor([1.0, -3.0, float("nan"), float("inf")])
    for step, expected in enumerate((128.0, 64.0, 64.0)):
        scales[0].measure(x * 2**step)
        assert scales.scale.tolist() == [expected, 1.0] and scales[0].inverse == 1 / expected
        assert scales.measuring == scales[0].measuring == (step < 2)
        scales[0].amax.fill_(3.0 * 2**step)
        scales.update()


@pytest.mark.parametrize("dtype", [E4M3, E5M2], ids=str)
def test_infinities_are_seen_to_be_bad(dtype):
    """They must not pass as the largest number: what they are multiplied with has to show it."""
    scale = Scales([dtype])[0]
    rows, columns = cast_reference(torch.tensor([[1.0, float("inf")], [-float("inf"), 1e30]]), scale)
    bad = [[False, True], [True, False]]
    assert rows.float().isnan().tolist() == bad and columns.T.float().isnan().tolist() == bad
    assert rows.float()[1, 1] == torch.finfo(dtype).max and scale.amax == 1e30


def test_a_step_that_is_not_done_leaves_no_trace():
    scales = Scales([E4M3])
    scales.update(torch.tensor([2.0]))
    scales[0].amax.fill_(1e30)
    scales.forget()
    scales.update()
    assert scales.scale.tolist() == [128.0] and scales.updates == 2


def test_a_checkpoint_goes_on_bit_for_bit():
    whole, parts = (Scales([E4M3, E5M2], history=2, measured=4) for _ in range(2))
    for step in range(6):
        if step == 3:
            saved = {name: tensor.clone() for name, tensor in parts.state().items()}
            parts = Scales([E4M3, E5M2], history=2, measured=4)
            parts.load_state(saved)
        for scales in (whole, parts):
            assert [scale.measuring for scale in scales] == [step < 4] * 2
            scales[0].amax.fill_(0.3 * 3 ** (step % 4))
            scales[1].amax.fill_(5.0 / (step + 1))
            scales.update()
        for a, b in zip(whole, parts, strict=True):
            assert torch.equal(a.scale, b.scale) and torch.equal(a.inverse, b.inverse)


def test_every_scalar_lies_where_products_and_kernels_want_it():
    """At a multiple of 16, each in memory of its own, and there it stays."""
    scales = Scales([E4M3, E5M2] * 8)
    scalars = lambda: [getattr(s, name).data_ptr() for s in scales for name in ("scale", "inverse", "amax")]  # noqa: E731
    before = scalars()
    assert not any(address % 16 for address in before) and len(set(before)) == 3 * len(scales)
    scales.update(torch.rand(16))
    scales.load_state(scales.state())
    assert scalars() == before


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
        scales.forget()
        y = f(*leaves)
        results.append([y.detach(), *torch.autograd.grad(y.sum(), inputs), scales.amax.clone()])
    torch.testing.assert_close(*results)
    assert (results[0][-1] > 0).all()
