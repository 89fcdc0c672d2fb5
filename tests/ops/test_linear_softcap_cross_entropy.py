"""linear_softcap_cross_entropy: every backend that runs here against plain torch; cases from its benchmark."""

import pytest
import torch
import torch.nn.functional as F

from pynanochat.bench import bench_linear_softcap_cross_entropy as bench
from pynanochat.bench.harness import prove
from pynanochat.errors import UsageError
from pynanochat.ops import linear_softcap_cross_entropy
from pynanochat.ops.backends import implementations
from pynanochat.ops.linear_softcap_cross_entropy import losses_and_grads_reference, losses_reference

FP32 = bench.DTYPES["fp32"]
ops = torch.ops.pynanochat


def cpu():
    return implementations("linear_softcap_cross_entropy")["cpu"]


@pytest.mark.parametrize("case", bench.TEST_CASES.values(), ids=bench.TEST_CASES)
@pytest.mark.parametrize("dtypes", bench.DTYPES.values(), ids=bench.DTYPES)
def test_matches_torch(case, dtypes, isa):
    prove(bench.compare(bench.make(case, dtypes)), dtypes[0])


@pytest.mark.parametrize("softcap", [0.5, 30.0, 45.0, 1000.0])
def test_any_softcap(softcap, isa):
    prove(bench.compare(bench.make((50, 24, 90), FP32), softcap), torch.float32)


@pytest.mark.parametrize("dtypes", bench.DTYPES.values(), ids=bench.DTYPES)
def test_takes_strides_and_padding(dtypes, isa):
    results = bench.compare(bench.make((45, 20, 101), dtypes, padding=11, layout="strided"))
    prove(results, dtypes[0])
    assert torch.count_nonzero(results["dweight"][0][101:]) == 0


def test_losses_alone_are_the_same(isa):
    x, weight, targets, token_scale, V = bench.make((70, 40, 200), FP32)
    settings = (V, bench.SOFTCAP, bench.IGNORE)
    alone = cpu().losses(x, weight, targets, *settings)
    assert torch.equal(alone, cpu().losses_and_grads(x, weight, targets, token_scale, *settings)[0])


def test_threads_do_not_change_bits():
    inputs = bench.make((700, 48, 1000), bench.DTYPES["bf16, fp32 weight"])
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(bench.run(cpu().losses_and_grads, *inputs))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(results[0][name], other[name]) for other in results[1:] for name in other)


def test_confident_predictions_keep_their_gradient(isa):
    x = torch.eye(32) * 6
    weight, targets = torch.eye(32) * 6, torch.arange(32)
    prove(bench.compare((x, weight, targets, torch.ones(32), 32)), torch.float32)


def test_saturated_logits_are_finite(isa):
    x, weight, targets, token_scale, V = bench.make((20, 16, 50), FP32)
    for result in bench.run(cpu().losses_and_grads, x * 1e4, weight * 1e4, targets, token_scale, V).values():
        assert torch.isfinite(result).all()


def test_nan_is_not_hidden(isa):
    x, weight, targets, token_scale, V = bench.make((20, 16, 50), FP32)
    x[5, 3] = float("nan")
    losses = bench.run(cpu().losses_and_grads, x, weight, targets, token_scale, V)["losses"]
    assert losses[5].isnan() and torch.isfinite(losses).sum() == 19


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_reductions_are_those_of_torch(reduction, backend, monkeypatch):
    monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)
    x, weight, targets, _, V = bench.make((40, 16, 30), FP32, padding=2)
    x, weight = x.requires_grad_(), weight.requires_grad_()
    ours = linear_softcap_cross_entropy(x, weight, targets, reduction=reduction, vocab_size=V)
    logits = 15 * torch.tanh(x @ weight[:V].T / 15)
    plain = F.cross_entropy(logits, targets, ignore_index=-1, reduction=reduction)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)
    grad = torch.rand_like(plain)
    both = [torch.autograd.grad(loss, (x, weight), grad) for loss in (ours, plain)]
    torch.testing.assert_close(*both, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        again = linear_softcap_cross_entropy(x, weight, targets, reduction=reduction, vocab_size=V)
    torch.testing.assert_close(again, ours)


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_gradient_in_float64(reduction):
    x, weight, targets, _, V = bench.make((6, 5, 9), (torch.float64, torch.float64), padding=2)
    f = lambda x, w: linear_softcap_cross_entropy(x, w, targets, softcap=2.0, vocab_size=V, reduction=reduction)  # noqa: E731
    torch.autograd.gradcheck(f, (x.requires_grad_(), weight.requires_grad_()))


def test_reference_formula_is_autograds():
    x, weight, targets, token_scale, V = bench.make((30, 8, 20), (torch.float64, torch.float64))
    x, weight = x.requires_grad_(), weight.requires_grad_()
    settings = (V, 3.0, bench.IGNORE)
    losses = losses_reference(x, weight, targets, *settings)
    by_autograd = torch.autograd.grad((losses * token_scale).sum(), (x, weight))
    torch.testing.assert_close(
        losses_and_grads_reference(x.detach(), weight.detach(), targets, token_scale, *settings)[1:], by_autograd
    )


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_nothing_to_learn_from(backend, monkeypatch):
    monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)
    x, weight, targets, *_ = bench.make((12, 8, 20), FP32)
    weight.requires_grad_()
    for some in (targets[:0], torch.full_like(targets, -1)):
        loss = linear_softcap_cross_entropy(x[: len(some)], weight, some)
        assert loss.item() == 0 and torch.count_nonzero(torch.autograd.grad(loss, weight)[0]) == 0


@pytest.mark.parametrize("target", [30, -2, 2**40])
def test_target_out_of_range_is_named(target):
    x, weight, targets, token_scale, V = bench.make((12, 8, 30), FP32)
    targets[5] = target
    with pytest.raises(ValueError, match=rf"targets\[5\] = {target} is neither in \[0, 30\) nor ignore_index -1"):
        cpu().losses_and_grads(x, weight, targets, token_scale, V, 15.0, -1)


def test_names_what_is_wrong():
    x, weight, targets, *_ = bench.make((12, 8, 30), FP32)
    with pytest.raises(UsageError, match="reduction='median'"):
        linear_softcap_cross_entropy(x, weight, targets, reduction="median")
    with pytest.raises(ValueError, match="vocab_size 31"):
        linear_softcap_cross_entropy(x, weight, targets, vocab_size=31)
    with pytest.raises(ValueError, match="weight has shape"):
        linear_softcap_cross_entropy(x, weight[:, :7], targets)
    with pytest.raises(ValueError, match="int64"):
        linear_softcap_cross_entropy(x, weight, targets.int())
    with pytest.raises(ValueError, match="softcap"):
        linear_softcap_cross_entropy(x, weight, targets, softcap=0.0)


def test_operators_are_registered_right():
    x, weight, targets, token_scale, V = bench.make((10, 8, 30), FP32, padding=3)
    settings = (V, 15.0, -1)
    grads = ops.linear_softcap_cross_entropy_losses_and_grads.default
    torch.library.opcheck(grads, (x, weight, targets, token_scale, *settings))
    losses = ops.linear_softcap_cross_entropy_losses.default
    torch.library.opcheck(losses, (x.requires_grad_(), weight.requires_grad_(), targets, *settings))


@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_compiles_without_a_graph_break(reduction):
    x, weight, targets, *_ = bench.make((12, 8, 30), FP32)
    weight.requires_grad_()
    f = lambda x, w, t: linear_softcap_cross_entropy(2 * x, w, t, reduction=reduction).sum()  # noqa: E731
    compiled = torch.compile(f, fullgraph=True, dynamic=True)
    for n in (12, 7):
        part = x[:n].clone().requires_grad_()
        losses = [g(part, weight, targets[:n]) for g in (compiled, f)]
        torch.testing.assert_close(*losses)
        torch.testing.assert_close(*[torch.autograd.grad(loss, (part, weight)) for loss in losses])
