"""linear_fp8 on its GPU backends: the cast, then the whole op. Interpreted, the cast stores fp32, rounded by torch."""

import pytest
import torch

from pynanochat.errors import UsageError
from pynanochat.ops.backends import implementations
from pynanochat.ops.fp8 import E4M3, E5M2, Scales
from pynanochat.ops.linear import linear_reference
from pynanochat.ops.linear_fp8 import cast, cast_reference, linear_fp8, linears_fp8
from tests.kernels.fp8_inputs import LINEAR, apart, draw, run, skip_without_fp8

OP = "linear_fp8"
SHAPES = [(64, 64), (70, 130), (1, 5), (33, 1), (0, 16)]


@pytest.fixture
def kernel(backend, device, monkeypatch):
    skip_without_fp8(device)
    monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)
    return implementations(OP)[backend]


def check_cast(cast, x, dtype):
    ours, theirs = Scales([dtype], device=x.device), Scales([dtype], device=x.device)
    for scales in (ours, theirs):
        scales[0].scale.fill_(8.0)
        scales[0].amax.fill_(0.5)
    by_rows, by_columns = cast(x, ours[0])
    expected, _ = cast_reference(x, theirs[0])
    assert by_rows.dtype == dtype and by_rows.is_contiguous() and by_columns.is_contiguous()
    torch.testing.assert_close(by_rows.float(), expected.float(), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(by_columns.float(), expected.float().T, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(ours.amax, theirs.amax)


@pytest.mark.parametrize("x_dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("dtype", [E4M3, E5M2], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_cast(kernel, device, shape, dtype, x_dtype):
    """Every bit is that of plain torch: times the scale, cut, rounded once."""
    check_cast(kernel, draw(*shape, device=device).to(x_dtype), dtype)


@pytest.mark.parametrize("dtype", [E4M3, E5M2], ids=str)
def test_cast_of_views_and_of_what_is_no_number(kernel, device, dtype):
    x = draw(40, 90, device=device)
    check_cast(kernel, x.T, dtype)
    check_cast(kernel, x[::3, 1::2], dtype)
    check_cast(kernel, x[:1].expand(20, 90), dtype)
    x[3, 4], x[5, 6], x[7, 8] = float("nan"), float("inf"), -float("inf")
    check_cast(kernel, x, dtype)


def three(device, rows=32, channels=16):
    """x (N, C) and a weight (16, C), and a gradient (N, 16)."""
    shapes = ((rows, channels), (16, channels), (rows, 16))
    return [draw(*shape, device=device, seed=2 * i) for i, shape in enumerate(shapes)]


def test_close_to_the_exact_product(kernel, device):
    """As close as 8 bits allow: e4m3 has an error of 2^-4 at most in each factor, e5m2 of 2^-3."""
    x, weight, dy = three(device, 64, 48)
    x, dy = x.bfloat16(), dy.bfloat16()
    ours = run(linear_fp8, (x, weight), dy, Scales(LINEAR, device=device)[:])
    exact = run(linear_reference, (x.double(), weight.double()), dy.double())
    limits = [  # of every entry: the factors' errors times their magnitudes, and some small numbers lost
        0.13 * (x.double().abs() @ weight.double().abs().T),
        0.20 * (dy.double().abs() @ weight.double().abs()),
        0.20 * (dy.double().abs().T @ x.double().abs()),
    ]
    assert [t.dtype for t in ours] == [torch.bfloat16, torch.bfloat16, torch.float32]
    for mine, true, limit in zip(ours, exact, limits, strict=True):
        assert ((mine.double() - true).abs() <= limit + 0.01 * true.abs().max()).all()
    assert max(apart(ours, exact)) < 0.08


def test_the_scales_of_a_step_follow_the_tensors(kernel, device):
    """After a step every scale knows its tensor; a tensor that grew is cut off in one step and right in the next."""
    scales = Scales(LINEAR, device=device)
    x, weight, dy = three(device)
    errors = []
    for size in (1.0, 1.0, 100.0, 100.0):
        y, *_ = run(linear_fp8, (size * x, weight), dy, scales[:])
        for scale, tensor in zip(scales, (size * x, weight, dy), strict=True):
            assert scale.amax.item() == tensor.abs().max().item()
        scales.update()
        errors += apart([y], [size * x.double() @ weight.double().T])
    assert max(errors[0], errors[1], errors[3]) < 0.06 < errors[2]


def test_weights_that_share_an_input(kernel, device):
    """Products with casts made beforehand are those of one after the other, and x gets the sum of their gradients."""
    x, *weights = draw(32, 16, device=device), *(draw(16 * n, 16, device=device, seed=n) for n in (1, 2, 3))
    dys = [draw(32, 16 * n, device=device, seed=9 * n) for n in (1, 2, 3)]
    scales = Scales([E4M3] * 4 + [E5M2] * 3, device=device)
    casts = [cast(weight, scale) for weight, scale in zip(weights, scales[1:4], strict=True)]
    leaves = [t.requires_grad_() for t in (x, *weights)]
    together = linears_fp8(x, weights, scales[:], casts)
    grads = torch.autograd.grad(together, leaves, dys)
    assert (scales.amax > 0).all()
    single = [run(linear_fp8, (x, w), dy, Scales(LINEAR, device=device)[:]) for w, dy in zip(weights, dys, strict=True)]
    for y, dweight, alone in zip(together, grads[1:], single, strict=True):
        assert torch.equal(y, alone[0]) and torch.equal(dweight, alone[2])
    torch.testing.assert_close(grads[0], sum(alone[1] for alone in single))


def test_the_scales_may_move_on_before_the_backward(kernel, device):
    scales = Scales(LINEAR, device=device)
    x, weight, _ = (t.requires_grad_() for t in three(device))
    y = linear_fp8(x, weight, scales[:])
    for scale in scales:
        scale.amax.fill_(1e5)
    scales.update()
    dx, _ = torch.autograd.grad(y.sum(), (x, weight))
    exact = weight.double().sum(0).expand(32, 16)
    assert (dx - exact).norm() < 0.1 * exact.norm()


def test_rows_are_filled_up_and_sides_must_be_whole(kernel, device):
    """7 x 3 rows are as 32 of which 11 are zeros; a weight is not filled up."""
    x, weight, dy = three(device)
    few = run(linear_fp8, (x[:21].view(7, 3, 16), weight), dy[:21].view(7, 3, 16), Scales(LINEAR, device=device)[:])
    x, dy = (torch.cat([t[:21], torch.zeros_like(t[21:])]) for t in (x, dy))
    y, dx, dweight = run(linear_fp8, (x, weight), dy, Scales(LINEAR, device=device)[:])
    assert torch.equal(few[0], y[:21].view(7, 3, 16)) and torch.equal(few[1], dx[:21].view(7, 3, 16))
    assert torch.equal(few[2], dweight)
    for sides in ((48, 24), (40, 32)):
        with pytest.raises(UsageError, match="multiples of 16; use linear"):
            linear_fp8(draw(16, sides[1], device=device), draw(*sides, device=device), Scales(LINEAR, device=device)[:])


def test_operator_is_registered_right(kernel, device):
    scale = Scales([E5M2], device=device)[0]
    torch.library.opcheck(
        torch.ops.pynanochat.linear_fp8_cast.default,
        (draw(20, 36, device=device), scale.scale, scale.inverse, scale.amax, E5M2),
    )


@pytest.mark.gpu
def test_stream(kernel):
    """On a stream of its own, behind work that is still running there."""
    x = draw(300, 700, device="cuda")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        check_cast(kernel, x + 0, E4M3)
    stream.synchronize()
