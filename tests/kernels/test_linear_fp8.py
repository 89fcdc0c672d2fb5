"""linear_fp8 on its GPU backends: the cast, then the whole op. Interpreted, the cast stores fp32, rounded by torch."""

import pytest
import torch

from pynanochat.errors import UsageError
from pynanochat.ops.backends import implementations
from pynanochat.ops.fp8 import E4M3, E5M2, Scales
from pynanochat.ops.linear import linear_reference
from pynanochat.ops.linear_fp8 import cast_reference, linear_fp8

OP = "linear_fp8"
SHAPES = [(64, 64), (70, 130), (1, 5), (33, 1), (0, 16)]


@pytest.fixture(autouse=True)
def _only_where_there_is_fp8(device):
    if device == "cuda" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("8-bit floats need sm_89")


@pytest.fixture
def kernel(backend, monkeypatch):
    monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)
    return implementations(OP)[backend]


def draw(*shape, device="cpu", seed=0, size=1.0):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * size
    return (x * torch.exp(3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed + 1)))).to(device)


def check_cast(cast, x, dtype):
    ours, theirs = Scales([dtype], device=x.device), Scales([dtype], device=x.device)
    for scales in (ours, theirs):
        scales.scale.fill_(8.0)
        scales.amax.fill_(0.5)
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


def run(function, x, weight, dy, *rest):
    leaves = [x.detach().requires_grad_(), weight.detach().requires_grad_()]
    y = function(*leaves, *rest)
    return y.detach(), *torch.autograd.grad(y, leaves, dy)


def test_close_to_the_exact_product(kernel, device):
    """As close as 8 bits allow: e4m3 has an error of 2^-4 at most in each factor, e5m2 of 2^-3."""
    x, weight, dy = (
        draw(64, 48, device=device),
        draw(32, 48, device=device, seed=2),
        draw(64, 32, device=device, seed=4),
    )
    x = x.bfloat16()
    ours = run(linear_fp8, x, weight, dy.bfloat16(), Scales([E4M3, E4M3, E5M2], device=device)[:])
    exact = run(linear_reference, x.double(), weight.double(), dy.bfloat16().double())
    limits = [  # of every entry: the factors' errors times their magnitudes, and some small numbers lost
        0.13 * (x.double().abs() @ weight.double().abs().T),
        0.20 * (dy.double().abs() @ weight.double().abs()),
        0.20 * (dy.double().abs().T @ x.double().abs()),
    ]
    assert [t.dtype for t in ours] == [torch.bfloat16, torch.bfloat16, torch.float32]
    for mine, true, limit in zip(ours, exact, limits, strict=True):
        assert ((mine.double() - true).abs() <= limit + 0.01 * true.abs().max()).all()
        assert (mine.double() - true).norm() < 0.08 * true.norm()


def test_the_scales_of_a_step_follow_the_tensors(kernel, device):
    """After a step every scale knows its tensor; a tensor that grew is cut off in one step and right in the next."""
    scales = Scales([E4M3, E4M3, E5M2], device=device)
    x, weight, dy = (
        draw(32, 16, device=device),
        draw(16, 16, device=device, seed=2),
        draw(32, 16, device=device, seed=4),
    )
    errors = []
    for size in (1.0, 1.0, 100.0, 100.0):
        y, *_ = run(linear_fp8, size * x, weight, dy, scales[:])
        for scale, tensor in zip(scales, (size * x, weight, dy), strict=True):
            assert scale.amax.item() == tensor.abs().max().item()
        scales.update()
        exact = size * x.double() @ weight.double().T
        errors.append(((y - exact).norm() / exact.norm()).item())
    assert max(errors[0], errors[1], errors[3]) < 0.06 < errors[2]


def test_the_scales_may_move_on_before_the_backward(kernel, device):
    scales = Scales([E4M3, E4M3, E5M2], device=device)
    x, weight = draw(32, 16, device=device).requires_grad_(), draw(16, 16, device=device, seed=2).requires_grad_()
    y = linear_fp8(x, weight, scales[:])
    scales.amax.fill_(1e5)
    scales.update()
    dx, _ = torch.autograd.grad(y.sum(), (x, weight))
    exact = weight.double().sum(0).expand(32, 16)
    assert (dx - exact).norm() < 0.1 * exact.norm()


def test_shapes(kernel, device):
    scales = Scales([E4M3, E4M3, E5M2], device=device)
    weight = draw(48, 32, device=device)
    assert linear_fp8(draw(2, 8, 32, device=device), weight, scales[:]).shape == (2, 8, 48)
    for x, w in ((draw(17, 32), weight), (draw(16, 24), draw(48, 24)), (draw(16, 32), draw(40, 32))):
        with pytest.raises(UsageError, match="multiple of 16"):
            linear_fp8(x.to(device), w.to(device), scales[:])


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
