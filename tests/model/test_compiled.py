"""The compiled step: one graph of a whole forward pass, in which our ops stand as the operators that they register."""

import pytest
import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd

from pynanochat import runtime
from pynanochat.errors import UsageError
from pynanochat.model import GPT, GPTConfig
from pynanochat.model.fp8 import Fp8

SIZE = {"head_dim": 16, "n_layer": 3, "n_head": 4, "n_kv_head": 2, "n_embd": 64, "vocab_size": 50, "sequence_len": 40}
OURS = {"linear", "relu2_mlp", "attention", "rotary_qk_norm"}  # each also as NAME_backward
HEAD = "linear_softcap_cross_entropy_losses_and_grads"


def lively(arch, dtype, layers=SIZE["n_layer"]):
    """A model without zero weights, so that every gradient has something to say."""
    model = GPT(GPTConfig.from_depth(3, arch, **SIZE | {"n_layer": layers}), compute_dtype=dtype)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def recorder():
    """A backend that runs the graphs as they are, and the names of our operators in each: {"forward": ..., ...}."""
    seen = {"forward": [], "backward": []}

    def compiler(which):
        def note(graph, example_inputs):
            calls = [node for node in graph.graph.nodes if node.op == "call_function"]
            # an operator that changes an argument is itself the argument of what calls it
            targets = {str(target) for node in calls for target in (node.target, *node.args[:1])}
            seen[which].append({t.split(".")[1] for t in targets if t.startswith("pynanochat.")})
            return make_boxed_func(graph.forward)

        return note

    return aot_autograd(fw_compiler=compiler("forward"), bw_compiler=compiler("backward")), seen


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("arch", ["2025", "2026"])
def test_a_training_step_is_one_graph_with_our_operators_in_it(arch, dtype):
    model = lively(arch, dtype)
    ids = torch.randint(0, 50, (2, 21), generator=torch.Generator().manual_seed(1))
    backend, seen = recorder()
    compiled = torch.compile(model, backend=backend, fullgraph=True, dynamic=False)
    losses, grads = [], []
    for forward in (compiled, model):
        model.zero_grad()
        loss = forward(ids[:, :-1], ids[:, 1:])
        loss.backward()
        losses.append(loss.detach())
        grads.append({name: p.grad for name, p in model.named_parameters()})
    assert len(seen["forward"]) == len(seen["backward"]) == 1
    assert seen["forward"][0] >= OURS | {HEAD}
    assert seen["backward"][0] >= {f"{name}_backward" for name in OURS}
    torch.testing.assert_close(*losses)
    bounds = {"rtol": 1e-3, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 0.05, "atol": 2e-3}
    for name, gradient in grads[1].items():
        assert gradient.dtype == grads[0][name].dtype == torch.float32
        torch.testing.assert_close(grads[0][name], gradient, **bounds, msg=name)


def test_dynamo_finds_no_break_and_does_not_compile_a_second_batch():
    model, ids = lively("2026", torch.bfloat16), torch.zeros(2, 20, dtype=torch.int64)
    found = torch._dynamo.explain(model)(ids, ids)
    assert (found.graph_count, found.graph_break_count) == (1, 0), found.break_reasons
    torch._dynamo.reset()
    backend, seen = recorder()
    compiled = torch.compile(model, backend=backend, fullgraph=True, dynamic=False)
    for seed in range(3):
        ids = torch.randint(0, 50, (2, 21), generator=torch.Generator().manual_seed(seed))
        compiled(ids[:, :-1], ids[:, 1:]).backward()
        with torch.no_grad():  # as the optimizer does
            for parameter in model.parameters():
                parameter.sub_(parameter.grad, alpha=1e-3)
        model.zero_grad(set_to_none=True)
    assert len(seen["forward"]) == 1


def test_a_step_in_8_bits_is_one_graph_too(monkeypatch):
    """Once the scales no longer measure: bit for bit the eager step, the magnitudes too, and never compiled again."""
    monkeypatch.setattr("pynanochat.model.fp8.MEASURED", 1)
    model = lively("2026", torch.bfloat16, layers=1)
    model.fp8 = Fp8(model)
    backend, seen = recorder()
    compiled = torch.compile(model, backend=backend, fullgraph=True, dynamic=False)

    def step(forward, seed):
        ids = torch.randint(0, 50, (2, 21), generator=torch.Generator().manual_seed(seed))
        model.zero_grad()
        model.fp8.begin()
        forward(ids[:, :-1], ids[:, 1:]).backward()
        return {name: p.grad for name, p in model.named_parameters()} | {"amax": model.fp8.scales.amax}

    step(model, 0)
    model.fp8.finish()
    for seed in (1, 2):
        expected = step(model, seed)
        model.fp8.forget()
        for name, found in step(compiled, seed).items():
            assert torch.equal(found, expected[name]), name
        model.fp8.finish()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.sub_(parameter.grad, alpha=1e-3)
    assert len(seen["forward"]) == len(seen["backward"]) == 1
    assert seen["forward"][0] >= {"attention", "linear_fp8_cast", "relu2_mlp_fp8_relu2"}
    assert seen["backward"][0] >= {"attention_backward", "linear_fp8_cast", "relu2_mlp_fp8_slope"}


@pytest.mark.parametrize(
    ("name", "kind", "capability", "triton", "wanted"),
    [
        ("auto", "cpu", None, True, False),
        ("auto", "cuda", (9, 0), True, True),
        ("auto", "cuda", (9, 0), False, False),
        ("auto", "cuda", (6, 1), True, False),
        ("on", "cpu", None, True, True),
        ("off", "cuda", (9, 0), True, False),
        (True, "cpu", None, True, True),  # as runs wrote it before there was auto
        (False, "cuda", (9, 0), True, False),
    ],
)
def test_where_the_step_is_compiled(monkeypatch, name, kind, capability, triton, wanted):
    monkeypatch.setattr("importlib.util.find_spec", lambda package: object() if triton else None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert runtime.wants_compiling(name, torch.device(kind)) is wanted


def test_another_word_is_refused():
    with pytest.raises(UsageError, match="--compile sometimes: use auto, on or off"):
        runtime.wants_compiling("sometimes", torch.device("cpu"))
