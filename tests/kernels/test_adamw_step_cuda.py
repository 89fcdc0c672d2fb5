"""adamw_step on its GPU backends: lists of tensors of any size, in place."""

import pytest
import torch

from pynanochat.ops.adamw_step import adamw_step, adamw_step_reference
from pynanochat.ops.backends import implementations

OP = "adamw_step"
SETTINGS = {"lr": 0.03, "beta1": 0.8, "beta2": 0.95, "eps": 1e-10, "weight_decay": 0.1}
SHAPES = {
    "a model's": [(64, 48), (12,), (1,), (), (3, 5, 2)],
    "parts of blocks": [(4095,), (4096,), (4097,), (3, 2731)],
    "nothing between": [(0,), (5,), (0, 3), (4100,), (2, 0)],
    "more than one table": [(i % 7,) for i in range(200)],
}


def case(shapes, device, grad_dtype=torch.float32):
    """Lists of params, grads and moments, as they are after some steps."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda: [torch.randn(s, generator=generator).to(device) for s in shapes]  # noqa: E731
    return draw(), [g.to(grad_dtype) for g in draw()], draw(), [m.square() for m in draw()]


def stepped(step_all, tensors, dtype, steps=(3, 4)):
    """params and both moments after steps of `step_all` on copies in `dtype`."""
    p, g, m, v = ([t.to(dtype, copy=True) for t in group] for group in tensors)
    for step in steps:
        step_all(p, g, m, v, step=step, **SETTINGS)
    return p, m, v


def check(backend, no_worse, tensors, ours=None):
    """Two steps of the backend, or the result `ours` of them, against plain torch and fp64."""
    if ours is None:
        ours = [[t.clone() for t in group] for group in tensors]
        for step in (3, 4):
            implementations(OP)[backend](*ours, step=step, **SETTINGS)
        assert all(torch.equal(a, b) for a, b in zip(ours[1], tensors[1], strict=True)), "a gradient was written to"
    theirs = stepped(adamw_step_reference, tensors, torch.float32)
    truth = stepped(adamw_step_reference, tensors, torch.float64)
    join = lambda group: torch.cat([t.flatten() for t in group])  # noqa: E731
    for what, mine, his, true in zip(
        ("param", "exp_avg", "exp_avg_sq"), (ours[0], *ours[2:]), theirs, truth, strict=True
    ):
        no_worse(what, join(mine), join(his), join(true))


@pytest.mark.parametrize("grad_dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_shapes_and_dtypes(backend, device, no_worse, shapes, grad_dtype):
    check(backend, no_worse, case(shapes, device, grad_dtype))


def test_unaligned(backend, device, no_worse):
    """Tensors that begin off 16 bytes, each of the four alone."""
    for off in range(4):
        tensors = case([(5000,), (7,)], device)
        for i, tensor in enumerate(tensors[off]):
            tensors[off][i] = torch.empty(tensor.numel() + 1, device=device)[1:].copy_(tensor)
        check(backend, no_worse, tensors)


def test_strided_and_mixed(backend, device, no_worse):
    """A transposed gradient, which another implementation takes; gradients of two dtypes in one list."""
    p, g, m, v = case([(6, 10), (33,)], device)
    check(backend, no_worse, (p, [g[0].T.contiguous().T, g[1]], m, v))
    check(backend, no_worse, (p, [g[0], g[1].bfloat16()], m, v))


def test_the_first_step_of_zero_moments(backend, device):
    params, grads, *_ = case([(100,)], device)
    zeros = [[torch.zeros_like(p) for p in params] for _ in range(2)]
    before = params[0].clone()
    implementations(OP)[backend](params, grads, *zeros, step=1, **SETTINGS)
    expected = before * (1 - 0.03 * 0.1) - 0.03 * grads[0].sign()  # whatever the gradient's size
    torch.testing.assert_close(params[0], expected, rtol=1e-5, atol=1e-6)


def test_zero_gradient_only_decays(backend, device):
    (param,), *_ = case([(50,)], device)
    before, zero = param.clone(), torch.zeros_like(param)
    implementations(OP)[backend]([param], [zero], [zero.clone()], [zero.clone()], step=1, **SETTINGS)
    torch.testing.assert_close(param, before * (1 - 0.03 * 0.1), rtol=1e-6, atol=0)


def test_public_op(backend, device, no_worse, monkeypatch):
    monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)
    tensors = case(SHAPES["a model's"], device, torch.bfloat16)
    ours = [[t.clone() for t in group] for group in tensors]
    for step in (3, 4):
        adamw_step(*ours, step=step, **SETTINGS)
    check(backend, no_worse, tensors, ours)


@pytest.mark.gpu
def test_more_elements_than_32_bits_count(backend):
    """The last of more than 2^31 elements, or of as many as the card holds, beside a tensor after it."""
    size = min(2**31 + 5, torch.cuda.mem_get_info()[0] // 40)
    large = [torch.ones(size, device="cuda") for _ in range(4)]
    small = [torch.ones(7, device="cuda") for _ in range(4)]
    lists = [[a, b] for a, b in zip(large, small, strict=True)]
    implementations(OP)[backend](*lists, step=2, **SETTINGS)
    assert small[0][0] != 1
    for i in (0, 2, 3):
        assert torch.equal(large[i][-7:], small[i]) and torch.equal(large[i][:7], small[i])


@pytest.mark.gpu
def test_stream(backend, no_worse):
    """On a stream of its own, behind work that is still running there."""
    p, g, m, v = case([(100_000,), (13,)], "cuda")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        check(backend, no_worse, (p, [x + 0 for x in g], m, v))
    stream.synchronize()
