"""relu2_mlp_fp8 on its GPU backends. Interpreted, 8-bit factors are multiplied and results stored in fp32."""

import pytest
import torch

from pynanochat.errors import UsageError
from pynanochat.ops import relu2_mlp_fp8
from pynanochat.ops.backends import implementations
from pynanochat.ops.fp8 import Scales
from pynanochat.ops.linear_fp8 import cast, cast_reference
from pynanochat.ops.relu2_mlp import relu2_mlp_reference
from tests.kernels.fp8_inputs import MLP, apart, layer, run, skip_without_fp8

OP = "relu2_mlp_fp8"
UTILITIES = ("test_faketensor", "test_autograd_registration", "test_aot_dispatch_dynamic")


@pytest.fixture
def kernel(backend, device, monkeypatch):
    skip_without_fp8(device)
    monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)
    return implementations(OP)[backend]


def check_8_bits(written, exact, scale):
    """Both layouts hold `exact` times the scale, cut and rounded once, or its neighbour where sums differ; and amax."""
    by_rows, by_columns = written
    limit = torch.finfo(scale.dtype).max
    expected = (exact.double() * scale.scale.double()).clamp(-limit, limit)
    assert by_rows.dtype == scale.dtype and by_rows.is_contiguous() and by_columns.is_contiguous()
    assert torch.equal(by_columns.float(), by_rows.float().T)
    unit = torch.finfo(scale.dtype).eps / 2 * expected.abs().clamp_min(torch.finfo(scale.dtype).smallest_normal)
    rough = 2.0**-10 * expected.abs().max() if by_rows.is_cuda else 0.0  # fp8 tensor cores sum in fewer bits
    assert ((by_rows.double() - expected).abs() <= 1.05 * unit + rough).all()
    torch.testing.assert_close(scale.amax, exact.abs().max().float(), rtol=1e-3, atol=0)


@pytest.mark.parametrize("shape", [(48, 32, 80), (70, 16, 130)], ids=str)
def test_epilogues(kernel, device, shape):
    x, dy, w_fc, w_proj = layer(*shape, device)
    scales = Scales(MLP, device=device)
    for scale, tensor in zip(scales[:5], (x, w_fc, w_proj, x, dy), strict=True):
        scale.measure(tensor)
    scales[3].scale.fill_(64.0)  # so that a few results are cut off
    scales[5].scale.fill_(2.0**14)
    scales[3].measuring = scales[5].measuring = False
    x8, fc8, dy8 = (cast_reference(t, s)[0] for t, s in ((x, scales[0]), (w_fc, scales[1]), (dy, scales[4])))
    proj8_columns = cast_reference(w_proj, scales[2])[1]
    of = [scale.inverse for scale in scales]
    h, *h8 = kernel.relu2(x8, fc8, (of[0], of[1]), scales[3], torch.bfloat16)
    exact_h = ((x8.double() * of[0]) @ (fc8.double() * of[1]).T).relu().square()
    assert h.dtype == torch.bfloat16 and (exact_h * 64).max() > 448
    torch.testing.assert_close(h.double(), exact_h, rtol=2**-8, atol=1e-3)
    check_8_bits(h8, exact_h, scales[3])
    dz8 = kernel.slope(dy8, proj8_columns, h, (of[4], of[2]), scales[5])
    exact_dz = ((dy8.double() * of[4]) @ (proj8_columns.double() * of[2]).T) * 2 * h.double().sqrt()
    assert (exact_dz.abs() * 2.0**14).max() > 57344
    check_8_bits(dz8, exact_dz, scales[5])


def test_what_is_no_number_stays_that_and_spoils_no_scale(kernel, device):
    """A gradient that is no number, of one token: the loop must see it in the gradients, the scales must not."""
    x, dy, w_fc, w_proj = layer(32, 16, 48, device)
    scales = Scales(MLP, device=device)
    run(relu2_mlp_fp8, (x, w_fc, w_proj), dy, scales[:])
    scales.update()
    dy[3, 4] = float("nan")
    _, dx, dw_fc, dw_proj = run(relu2_mlp_fp8, (x, w_fc, w_proj), dy, scales[:])
    assert dx[3].isnan().any() and dw_fc.isnan().any() and dw_proj[4].isnan().any() and dx[4].isfinite().all()
    scales.update()
    assert scales.scale.isfinite().all() and (scales.scale > 0).all()
    run(relu2_mlp_fp8, (x, w_fc, w_proj), dy.nan_to_num(), scales[:])


def test_a_few_steps_stay_close(kernel, device):
    """Output and gradients of three steps, the first of which knows no scale, within what 8 bits allow."""
    scales = Scales(MLP, device=device)
    for step in range(3):
        x, dy, w_fc, w_proj = layer(64, 32, 96, device)
        x = x * (1 + 0.2 * step)
        ours = run(relu2_mlp_fp8, (x, w_fc, w_proj), dy, scales[:])
        exact = run(relu2_mlp_reference, [t.double() for t in (x, w_fc, w_proj)], dy.double())
        assert [t.dtype for t in ours] == [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32]
        assert max(apart(ours, exact)) < 0.12
        assert (scales.amax > 0).all()
        scales.update()


def test_operators_are_registered_right(kernel, device):
    scales = Scales(MLP, device=device)
    x, dy, w_fc, w_proj = layer(16, 16, 32, device)
    h, one = torch.rand(16, 32, device=device).bfloat16(), torch.ones((), device=device)
    to_8 = lambda t, scale: cast_reference(t, scale)[0]  # noqa: E731
    of = lambda scale: (one, one, scale.scale, scale.inverse, scale.amax, scale.dtype)  # noqa: E731
    operators = torch.ops.pynanochat
    # not test_schema, which compares the inputs by a function that torch has not for e4m3
    check = lambda operator, *given: torch.library.opcheck(operator, given, test_utils=UTILITIES)  # noqa: E731
    factors = to_8(x, scales[0]), to_8(w_fc, scales[1])
    check(operators.relu2_mlp_fp8_relu2.default, *factors, *of(scales[3]), torch.bfloat16)
    factors = to_8(dy, scales[4]), to_8(w_proj.T, scales[2])
    check(operators.relu2_mlp_fp8_slope.default, *factors, h, *of(scales[5]))


def test_casts_made_beforehand_are_used(kernel, device):
    scales = Scales(MLP, device=device)
    x, dy, w_fc, w_proj = layer(32, 16, 48, device)
    casts = cast(w_fc, scales[1]), cast(w_proj, scales[2])
    before = run(relu2_mlp_fp8, (x, torch.zeros_like(w_fc), torch.zeros_like(w_proj)), dy, scales[:], casts)
    for ours, theirs in zip(before, run(relu2_mlp_fp8, (x, w_fc, w_proj), dy, scales[:]), strict=True):
        assert torch.equal(ours, theirs)


def test_sizes(kernel, device):
    """Rows that are no multiple of 16 change nothing for the others; widths are refused."""
    x, dy, w_fc, w_proj = layer(32, 16, 48, device)
    of = lambda rows: run(relu2_mlp_fp8, (rows, w_fc, w_proj), dy[:1].expand_as(rows), Scales(MLP, device=device)[:])  # noqa: E731
    few, many = of(x[:21]), of(x)
    assert of(x.view(2, 16, 16))[0].shape == (2, 16, 16)
    assert few[0].shape == few[1].shape == (21, 16) and max(apart([few[0]], [many[0][:21].double()])) < 0.05
    with pytest.raises(UsageError, match="multiples of 16; use relu2_mlp"):
        relu2_mlp_fp8(x, w_fc[:40], w_proj[:, :40], Scales(MLP, device=device)[:])


@pytest.mark.gpu
def test_stream(kernel):
    """On a stream of its own, behind work that is still running there."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        test_a_few_steps_stay_close(kernel, "cuda")
    stream.synchronize()
