"""adamw_step on its GPU backends: lists of tensors of any size, in place."""

import pytest
import torch

from pynanochat.ops import adamw_step_gpu
from pynanochat.ops.adamw_step import adamw_step, adamw_step_reference
from pynanochat.ops.backends import implementations
from tests.kernels.on_gpu import test_a_hundred_times, test_on_a_stream_of_its_own  # noqa: F401

OP = "adamw_step"
SETTINGS = {"lr": 0.03, "beta1": 0.8, "beta2": 0.95, "eps": 1e-10, "weight_decay": 0.1}
SHAPES = {
    "scalars": [(), (1,), ()],
    "odd": [(7, 13), (1,), (3, 5, 2), (5000,)],
    "parts of blocks": [(2047,), (2048,), (2049,), (4095,), (4096,), (3, 2731)],
    "nothing between": [(0,), (5,), (0, 3), (4100,), (2, 0)],
    "more than one table": [(i % 7,) for i in range(90)],
}
NAMES = ("param", "exp_avg", "exp_avg_sq")


@pytest.fixture(autouse=True)
def _backend(request, monkeypatch):
    if "backend" in request.fixturenames:
        monkeypatch.setenv("PYNANOCHAT_BACKEND", request.getfixturevalue("backend"))


def inputs(shapes, device, gradient=torch.float32, seed=0):
    """params, grads, exp_avgs and exp_avg_sqs."""
    generator = torch.Generator().manual_seed(seed)
    make = lambda: [torch.randn(shape, generator=generator).to(device) for shape in shapes]  # noqa: E731
    params, grads, first, second = make(), make(), make(), make()
    return params, [g.to(gradient) for g in grads], first, [v.square() for v in second]


def copies(four, dtype=None):
    return [[t.to(dtype) if dtype else t.clone() for t in tensors] for tensors in four]


def check(no_worse, four, step=3):
    truth, theirs, grads = copies(four, torch.float64), copies(four, torch.float32), [g.clone() for g in four[1]]
    adamw_step(*four, step=step, **SETTINGS)
    adamw_step_reference(*truth, step=step, **SETTINGS)
    adamw_step_reference(*theirs, step=step, **SETTINGS)
    for at, what in zip((0, 2, 3), NAMES, strict=True):
        for ours, plain, true in zip(four[at], theirs[at], truth[at], strict=True):
            if ours.numel():
                no_worse(what, ours, plain, true, 1.0)
    assert all(map(torch.equal, four[1], grads)), "a gradient was written to"


def example(backend, device):
    def step(*tensors):
        four = [[t.clone() for t in tensors[i::4]] for i in range(4)]
        implementations(OP)[backend](*four, step=3, **SETTINGS)
        return four

    return step, [t for one in zip(*inputs([(100_000,), (13,)], device), strict=True) for t in one]


@pytest.mark.parametrize("gradient", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES.keys())
def test_shapes_and_dtypes(backend, device, no_worse, shapes, gradient):
    check(no_worse, inputs(shapes, device, gradient))


def test_addresses_that_no_vector_load_takes(backend, device, no_worse):
    """Tensors that begin off 16 bytes, each of the four alone."""
    for off in range(4):
        four = inputs([(5000,), (7,)], device)
        four[off][:] = [torch.cat([t.new_zeros(1), t])[1:] for t in four[off]]
        check(no_worse, four)


def test_several_steps_with_moving_gradients(backend, device, no_worse):
    """The addresses of params and moments stay, those of gradients change, as after zero_grad."""
    four = inputs([(40, 3), (2500,)], device)
    for step in (1, 2, 3):
        four[1][:] = inputs([(40, 3), (2500,)], device, seed=step)[1]
        check(no_worse, four, step)


def test_sizes_may_change_at_an_address(backend, device, no_worse):
    """A plan that is kept must not serve another size."""
    four = inputs([(4000,)], device)
    check(no_worse, [[t[:3000] for t in tensors] for tensors in four])
    tail = [t[3000:].clone() for t in (four[0][0], four[2][0], four[3][0])]
    check(no_worse, [[t[:2900] for t in tensors] for tensors in four])
    assert all(map(torch.equal, tail, (four[0][0][3000:], four[2][0][3000:], four[3][0][3000:])))
    check(no_worse, four)


def test_extreme_gradients(backend, device, no_worse):
    four = inputs([(100,)], device)
    for size in (0.0, 1e-25, 1e15):
        scaled = copies(four)
        scaled[1][0] *= size
        scaled[2][0] *= size
        scaled[3][0] *= size**2
        check(no_worse, scaled)


def test_the_first_step_of_zero_moments(backend, device):
    """It goes as far whatever the gradient's size; without a gradient it only decays."""
    params, grads, *_ = inputs([(100,)], device)
    for grad, moved in ((grads[0], grads[0].sign()), (torch.zeros(100, device=device), 0)):
        param, zeros = params[0].clone(), [torch.zeros(100, device=device) for _ in range(2)]
        adamw_step(param, grad, *zeros, step=1, **SETTINGS)
        torch.testing.assert_close(param, params[0] * (1 - 0.03 * 0.1) - 0.03 * moved, rtol=1e-5, atol=1e-6)


def test_rates_are_those_of_the_formula():
    values = adamw_step_gpu.rate_values(step=2, **SETTINGS)
    expected = [1 - 0.003, 0.2, 0.95, 0.05, 1 / (1 - 0.95**2), 1e-10, 0.03 / (1 - 0.8**2)]
    assert values == pytest.approx(expected, rel=1e-12)


@pytest.mark.gpu
def test_lists_that_one_launch_cannot_do(backend, device, no_worse):
    """A transposed gradient, a strided moment, gradients of two dtypes: the reference does them, also where forced."""
    four = inputs([(6, 10), (33,)], device)
    four[1][0] = four[1][0].T.contiguous().T
    check(no_worse, four)
    four = inputs([(6, 10), (33,)], device)
    four[2][0] = torch.stack([four[2][0]] * 2, dim=-1)[..., 0]
    check(no_worse, four)
    four = inputs([(6, 10), (33,)], device)
    four[1][1] = four[1][1].bfloat16()
    check(no_worse, four)


@pytest.mark.gpu
def test_in_a_cuda_graph(no_worse):
    """The Triton launch, captured; its rates change from replay to replay."""
    four = inputs([(300, 70), (5000,)], "cuda")
    expected = copies(four)
    rates = torch.zeros(7, device="cuda")
    plan = adamw_step_gpu.triton.plan(rates, *four)
    adamw_step_gpu.triton.step(rates, *copies(four))  # compiles it
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        adamw_step_gpu.triton.launch(rates, plan)
    for step in (1, 2):
        rates.copy_(torch.tensor(adamw_step_gpu.rate_values(step=step, **SETTINGS)))
        graph.replay()
        adamw_step_reference(*expected, step=step, **SETTINGS)
    for ours, theirs in zip(four[0], expected[0], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.gpu
def test_more_elements_than_32_bits_count(backend, no_worse):
    """The last of more than 2^31 elements, or of as many as the card holds, beside a tensor after it."""
    count = min(2**31 + 5000, torch.cuda.mem_get_info()[0] // 5 // 4)
    tail = inputs([(100,)], "cuda")
    four = [[torch.zeros(count, device="cuda"), last[0].clone()] for last in tail]
    for tensors, last in zip(four, tail, strict=True):
        tensors[0][-100:] = last[0]
    adamw_step(*four, step=3, **SETTINGS)
    truth, theirs = copies(tail, torch.float64), copies(tail)
    adamw_step_reference(*truth, step=3, **SETTINGS)
    adamw_step_reference(*theirs, step=3, **SETTINGS)
    for at, what in zip((0, 2, 3), NAMES, strict=True):
        for ours in (four[at][0][-100:], four[at][1]):
            no_worse(what, ours, theirs[at][0], truth[at][0], 1.0)
