"""linear, and the product behind it: every instruction set against plain torch; cases from bench_relu2_mlp."""

import itertools

import pytest
import torch

from pynanochat import _C
from pynanochat.bench import bench_relu2_mlp as bench
from pynanochat.bench.harness import prove, relative_error
from pynanochat.ops import linear
from pynanochat.ops.linear import linear_reference


@pytest.mark.parametrize("case", bench.TEST_CASES.values(), ids=bench.TEST_CASES)
@pytest.mark.parametrize("dtypes", bench.DTYPES.values(), ids=bench.DTYPES)
def test_matches_torch(case, dtypes, isa):
    prove(bench.compare(linear, linear_reference, bench.make(case, dtypes)[:3]), dtypes[0])


def test_few_and_shaped_rows():
    x, _, weight, _ = bench.make((240, 16, 24), bench.DTYPES["fp32"])
    for shape in ((2, 3, 16), (240, 16), (4, 5, 12, 16), (0, 16), (16,)):
        part = x.flatten()[: torch.Size(shape).numel()].view(shape)
        torch.testing.assert_close(linear(part, weight), linear_reference(part, weight))


def orientations(m, n, dtype):
    """An (m, n) matrix stored by rows and by columns, as a slice of a wider one."""
    x = torch.randn(m, n + 3).to(dtype)
    return [
        x[:, :n].contiguous(),
        x[:, :n].T.contiguous().T,
        x[:, 1 : n + 1],
        torch.randn(n, m + 5).to(dtype).T[2 : m + 2],
    ]


@pytest.mark.parametrize("shape", [(5, 7, 3), (200, 600, 513), (97, 1, 33), (50, 64, 1), (1, 40, 300)])
def test_product_of_any_orientation(shape, isa):
    m, n, k = shape
    dtypes = itertools.product((torch.float32, torch.bfloat16), repeat=2)
    for a_dtype, b_dtype in dtypes:
        for a, b in itertools.product(orientations(m, k, a_dtype), orientations(k, n, b_dtype)):
            exact, c = a.double() @ b.double(), torch.full((m, n), float("nan"))
            _C.product(a, b, c, False)
            assert relative_error(c, exact) < 1e-6
            _C.product(a, b, c, True)
            assert relative_error(c, exact) < 5e-3


def test_threads_do_not_change_bits():
    inputs = bench.make((500, 200, 130), bench.DTYPES["fp32"])[:3]
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            results.append(bench.run(linear, *inputs))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0][name], other[name]) for other in results[1:] for name in other)


def test_gradients_only_where_wanted():
    x, grad, weight, _ = bench.make((64, 32, 32), bench.DTYPES["fp32"])
    weight.requires_grad_()
    linear(x, weight).backward(grad)
    torch.testing.assert_close(weight.grad, grad.T @ x, rtol=1e-4, atol=1e-4)
    x.requires_grad_()
    linear(x, weight.detach()).backward(grad)
    torch.testing.assert_close(x.grad, grad @ weight, rtol=1e-4, atol=1e-4)


def test_gradient_in_float64():
    x, _, weight, _ = bench.make((5, 4, 3), (torch.float64, torch.float64))
    torch.autograd.gradcheck(linear, (x.requires_grad_(), weight.requires_grad_()))


def test_operator_is_registered_right():
    x, _, weight, _ = bench.make((9, 8, 6), bench.DTYPES["bf16, fp32 weight"])
    torch.library.opcheck(torch.ops.pynanochat.linear.default, (x.requires_grad_(), weight.requires_grad_()))


def test_names_what_is_wrong():
    a = torch.randn(64, 8)
    with pytest.raises(ValueError, match="b has shape"):
        _C.product(a, torch.randn(9, 4), torch.empty(64, 4), False)
    with pytest.raises(ValueError, match="float32 and bfloat16"):
        linear(a.half(), torch.randn(4, 8))
    with pytest.raises(ValueError, match="after=relu3"):
        _C.product(a, a.T, torch.empty(64, 64), False, "relu3")
    with pytest.raises(ValueError, match="dense along one dimension"):
        _C.product(torch.randn(8, 8)[::2, ::2], a[:4], torch.empty(4, 8), False)
