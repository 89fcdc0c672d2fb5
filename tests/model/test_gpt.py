"""The GPT against an independent account of both architectures, and what it must never do."""

import pytest
import torch

from pynanochat.errors import UsageError
from pynanochat.model import GPT, GPTConfig
from tests.model import reference

SMALL = {
    "head_dim": 8,
    "n_layer": 4,
    "n_head": 4,
    "n_kv_head": 2,
    "n_embd": 32,
    "vocab_size": 50,
    "sequence_len": 40,
}
SWITCHES = {
    "2025": {"arch": "2025"},
    "2026": {},
    "MHA": {"n_kv_head": 4},
    "one key head": {"n_kv_head": 1},
    "odd depth": {"n_layer": 3},
    "one layer": {"n_layer": 1},
    "no value embeddings": {"value_embeddings": False},
    "no residual scalars": {"residual_scalars": False},
    "no smear": {"smear": False},
    "no backout": {"backout": False},
    "no padding": {"vocab_multiple": 1},
    "other gate widths": {"value_gate_channels": 5, "smear_channels": 7},
    "other scale, base, cap": {"qk_scale": 1.5, "rope_base": 500.0, "softcap": 3.0, "norm_eps": 1e-3},
}


def small(seed=0, **fields):
    """A model whose weights are all alive."""
    fields = SMALL | fields
    model = GPT(GPTConfig.from_depth(fields["n_layer"], fields.pop("arch", "2026"), **fields), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def ids_of(rows, positions, seed=1):
    return torch.randint(0, SMALL["vocab_size"], (rows, positions), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", SWITCHES)
def test_equals_the_account_in_words(name):
    model, ids = small(**SWITCHES[name]), ids_of(2, 9)
    expected = torch.stack([reference.logits(model, row.tolist()) for row in ids])
    assert expected.std() > 0.5
    got = model(ids)
    assert got.dtype == torch.float32 and got.shape == (2, 9, 50)
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("arch", ["2025", "2026"])
def test_windows_equal_the_account_in_words(arch, monkeypatch):
    monkeypatch.setattr("pynanochat.model.config.SHORT_WINDOW_MULTIPLE", 4)
    model, ids = small(arch=arch, window_pattern="SSL", sequence_len=16), ids_of(1, 16)
    assert [model.config.window(layer) for layer in range(4)] == [4, 4, -1, -1]
    torch.testing.assert_close(model(ids)[0].double(), reference.logits(model, ids[0].tolist()), rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("switch", ["value_embeddings", "residual_scalars", "smear", "backout"])
def test_every_switch_is_felt(switch):
    on, off = small(), small(**{switch: False})
    off.load_state_dict(on.state_dict(), strict=False)
    assert len(off.state_dict()) < len(on.state_dict())
    assert (on(ids_of(1, 9)) - off(ids_of(1, 9))).abs().max() > 0.05


@pytest.mark.parametrize("arch", ["2025", "2026"])
def test_the_future_never_changes_the_past(arch):
    model, ids = small(arch=arch), ids_of(1, 12)
    before = model(ids)
    for position in range(1, 12):
        changed = ids.clone()
        changed[0, position:] = (changed[0, position:] + 1) % 50
        after = model(changed)
        torch.testing.assert_close(after[:, :position], before[:, :position], rtol=0, atol=1e-5)
        assert (after[:, position] - before[:, position]).abs().max() > 1e-3


def test_rows_know_nothing_of_each_other():
    model, ids = small(), ids_of(3, 10)
    torch.testing.assert_close(model(ids)[1:2], model(ids[1:2]), rtol=0, atol=1e-5)


def test_loss_is_the_naive_formula():
    model, ids, targets = small(), ids_of(3, 10), ids_of(3, 10, seed=2)
    targets[0, :4] = -1
    each = -model(ids).log_softmax(-1).gather(2, targets.clamp_min(0)[..., None])[..., 0] * (targets != -1)
    torch.testing.assert_close(model(ids, targets, reduction="none"), each, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model(ids, targets, reduction="sum"), each.sum(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model(ids, targets), each.sum() / 26, rtol=1e-4, atol=1e-5)
    assert model(ids, torch.full_like(ids, -1)) == 0


@pytest.mark.parametrize("arch", ["2025", "2026"])
def test_every_parameter_gets_the_gradient_of_the_naive_loss(arch):
    model, ids, targets = small(arch=arch), ids_of(2, 10), ids_of(2, 10, seed=2)
    names, parameters = zip(*model.named_parameters(), strict=True)
    got = torch.autograd.grad(model(ids, targets), parameters)
    naive = torch.nn.functional.cross_entropy(model(ids).flatten(0, 1), targets.flatten())
    for name, mine, theirs in zip(names, got, torch.autograd.grad(naive, parameters), strict=True):
        assert mine.abs().max() > 0, name
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-6, msg=name)


def test_padding_rows_of_the_head_stay_out():
    model, ids, targets = small(), ids_of(2, 10), ids_of(2, 10, seed=2)
    assert model.lm_head.weight.size(0) == 64
    loss, logits = model(ids, targets), model(ids)
    loss.backward()
    assert not model.lm_head.weight.grad[50:].any()
    with torch.no_grad():
        model.lm_head.weight[50:] = 1e4
    assert torch.equal(model(ids), logits) and torch.equal(model(ids, targets), loss)


def test_the_last_logits_alone():
    model, ids = small(), ids_of(2, 10)
    torch.testing.assert_close(model(ids, last=True), model(ids)[:, -1:], rtol=0, atol=1e-5)


def test_some_places_alone():
    model, ids, targets = small(), ids_of(3, 10), ids_of(3, 10, seed=2)
    at = torch.tensor([3, 29, 10, 10])
    torch.testing.assert_close(model(ids, at=at), model(ids).flatten(0, 1)[at], rtol=0, atol=1e-5)
    each = model(ids, targets, reduction="none").flatten()
    torch.testing.assert_close(model(ids, targets.flatten()[at], at=at, reduction="none"), each[at], rtol=0, atol=1e-5)
    assert model(ids, at=at[:0]).shape == (0, model.config.vocab_size)


def test_more_tokens_than_the_context():
    assert small()(ids_of(1, 40)).shape == (1, 40, 50)
    with pytest.raises(UsageError, match="41 tokens in a row: the model's context is 40"):
        small()(ids_of(1, 41))


def test_bfloat16_is_close_to_float32():
    model, ids = small(), ids_of(2, 20)
    half = GPT(model.config, compute_dtype=torch.bfloat16)
    half.load_state_dict(model.state_dict())
    wanted, got = model(ids), half(ids)
    assert got.dtype == torch.float32
    assert (got - wanted).square().mean().sqrt() < 0.03 * wanted.std()
    assert half(ids, ids).dtype == torch.float32
    half(ids, ids).backward()
    assert all(p.grad.dtype == torch.float32 for p in half.parameters())


@pytest.mark.parametrize("arch", ["2025", "2026"])
def test_compiled_without_a_break(arch):
    model, ids, targets = small(arch=arch), ids_of(2, 10), ids_of(2, 10, seed=2)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(ids), model(ids), rtol=1e-4, atol=1e-5)
    compiled(ids, targets).backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model(ids, targets).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(grads[name], parameter.grad, rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.slow
def test_compiled_to_machine_code():
    model, ids = small(), ids_of(2, 10)
    torch.testing.assert_close(torch.compile(model)(ids), model(ids), rtol=1e-4, atol=1e-5)


def test_initial_weights_depend_on_the_seed_alone():
    first, again, other = small_fresh(0), small_fresh(0), small_fresh(1)
    torch.manual_seed(99)
    state = torch.random.get_rng_state()
    third = small_fresh(0)
    assert torch.equal(state, torch.random.get_rng_state())
    for name, tensor in first.items():
        assert torch.equal(tensor, again[name]) and torch.equal(tensor, third[name])
    assert not torch.equal(first["transformer.wte.weight"], other["transformer.wte.weight"])


def small_fresh(seed):
    return GPT(GPTConfig.from_depth(4, **SMALL), seed=seed).state_dict()


def test_initial_weights_of_2026():
    config = GPTConfig.from_depth(4, head_dim=32, vocab_size=1000)
    model = GPT(config)
    width = config.n_embd
    spread = {name: p.std().item() for name, p in model.named_parameters() if p.numel() > 100}
    assert spread["transformer.wte.weight"] == pytest.approx(0.8, rel=0.02)
    assert spread["lm_head.weight"] == pytest.approx(0.001, rel=0.02)
    for layer in range(4):
        for name in "qkv":
            assert spread[f"transformer.h.{layer}.attn.c_{name}.weight"] == pytest.approx(width**-0.5, rel=0.02)
        assert spread[f"transformer.h.{layer}.mlp.c_fc.weight"] == pytest.approx(0.4 * width**-0.5, rel=0.02)
        assert spread[f"transformer.h.{layer}.attn.c_proj.weight"] == 0
        assert spread[f"transformer.h.{layer}.mlp.c_proj.weight"] == 0
    for layer in (1, 3):
        assert spread[f"value_embeds.{layer}.weight"] == pytest.approx(width**-0.5, rel=0.02)
    lambdas = model.resid_lambdas.tolist(), model.x0_lambdas.tolist()
    assert lambdas[0] == pytest.approx([1.15, 1.15 - 0.1 / 3, 1.15 - 0.2 / 3, 1.05])
    assert lambdas[1] == pytest.approx([0.20, 0.15, 0.10, 0.05])
    assert model.smear_lambda.item() == 0 and model.backout_lambda.item() == pytest.approx(0.2)


@pytest.mark.parametrize("arch", ["2025", "2026"])
def test_a_fresh_model_guesses_evenly(arch):
    model = GPT(GPTConfig.from_depth(4, arch, **SMALL))
    assert model(ids_of(2, 20), ids_of(2, 20, seed=2)).item() == pytest.approx(
        torch.tensor(50.0).log().item(), abs=0.02
    )


BLOCK = [
    "attn.c_q.weight",
    "attn.c_k.weight",
    "attn.c_v.weight",
    "attn.c_proj.weight",
    "mlp.c_fc.weight",
    "mlp.c_proj.weight",
]


def test_names_that_checkpoints_rely_on():
    blocks = {f"transformer.h.{layer}.{name}" for layer in range(4) for name in BLOCK}
    old = GPT(GPTConfig.from_depth(4, "2025", **SMALL)).state_dict()
    assert set(old) == blocks | {"transformer.wte.weight", "lm_head.weight"}
    new = GPT(GPTConfig.from_depth(4, **SMALL)).state_dict()
    assert set(new) - set(old) == {
        "transformer.h.1.attn.ve_gate.weight",
        "transformer.h.3.attn.ve_gate.weight",
        "value_embeds.1.weight",
        "value_embeds.3.weight",
        "resid_lambdas",
        "x0_lambdas",
        "smear_gate.weight",
        "smear_lambda",
        "backout_lambda",
    }
    assert new["transformer.h.0.attn.c_k.weight"].shape == (16, 32) and new["value_embeds.1.weight"].shape == (64, 16)


def test_parameter_groups_hold_each_parameter_once():
    model = small()
    groups = model.parameter_groups()
    grouped = [name for members in groups.values() for name, _ in members]
    assert sorted(grouped) == sorted(name for name, _ in model.named_parameters())
    assert all(p.ndim == 2 and name.startswith("transformer.h.") for name, p in groups["matrix"])
    assert all(members for members in groups.values())
