"""Adapters: nothing changes at first, only they learn, and a merged model computes the same bits."""

import pytest
import torch

from pynanochat.errors import CheckpointError, UsageError
from pynanochat.model import GPT, GPTConfig, lora


def make(arch="2026", seed=1, **fields):
    config = GPTConfig.from_depth(2, arch=arch, head_dim=16, vocab_size=97, sequence_len=16, **fields)
    model = GPT(config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():  # output projections start at zero; give every matrix something to do
        parameter.data += torch.randn(parameter.shape, generator=generator) * 0.02
    return model


def batch():
    ids = torch.randint(0, 97, (2, 17), generator=torch.Generator().manual_seed(3))
    return ids[:, :-1], ids[:, 1:]


def train(model, steps=3):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for _ in range(steps):
        model(*batch()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@pytest.mark.parametrize("head", [False, True])
@pytest.mark.parametrize("arch", ["2025", "2026"])
def test_it_begins_as_the_model_it_was_and_only_adapters_learn(arch, head):
    model, plain = make(arch), make(arch)
    lora.adapt(model, 4, 8.0, head=head)
    assert torch.equal(model(batch()[0]), plain(batch()[0]))
    names = set(lora.adapters(model))
    assert {n for n, p in model.named_parameters() if p.requires_grad} == names
    assert len(names) == 2 * (2 * 6 + head)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    train(model)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) != (name in names), name


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_merged_model_computes_the_same_bits(monkeypatch, backend, dtype):
    monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)
    model = make()
    model.compute_dtype = dtype
    lora.adapt(model, 3, 6.0, head=True)
    train(model)
    inputs, targets = batch()
    with torch.no_grad():
        logits, loss = model(inputs), model(inputs, targets)
        copy = lora.merged(model)
        fresh = GPT(model.config, compute_dtype=dtype)
        fresh.load_state_dict(lora.merged_state(model))
        lora.merge(model)
        for plain in (copy, fresh, model):
            assert not lora.adapters(plain) and torch.equal(plain(inputs), logits)
            assert torch.equal(plain(inputs, targets), loss)
    assert all(p.requires_grad for p in model.parameters())
    assert model.state_dict().keys() == make().state_dict().keys()


def test_the_gradient_is_that_of_the_product():
    """Against autograd of base + scale · B A put into a plain model, in float64."""
    model, plain = make().double(), make().double()
    model.compute_dtype = plain.compute_dtype = torch.float64
    lora.adapt(model, 2, 5.0)
    for parameter in lora.adapters(model).values():
        parameter.data = torch.randn(parameter.shape, dtype=torch.float64) * 0.1
    name = "transformer.h.1.mlp.c_fc"
    a, b = (lora.adapters(model)[f"{name}.{part}"] for part in "ab")
    plain.load_state_dict(lora.merged_state(model))
    model(*batch()).backward()
    plain(*batch()).backward()
    full = plain.get_submodule(name).weight.grad
    torch.testing.assert_close(b.grad, 2.5 * full @ a.detach().T)
    torch.testing.assert_close(a.grad, 2.5 * b.detach().T @ full)


def test_saved_adapters_load_and_others_are_refused():
    model, other = make(), make()
    lora.adapt(model, 4, 8.0)
    lora.adapt(other, 4, 8.0, seed=9)
    train(model)
    lora.load_adapters(other, lora.adapters(model))
    assert torch.equal(model(batch()[0]), other(batch()[0]))
    narrow = make()
    lora.adapt(narrow, 2, 8.0)
    with pytest.raises(CheckpointError, match="--lora-rank"):
        lora.load_adapters(narrow, lora.adapters(model))


def test_a_rank_that_no_matrix_has_is_refused():
    for rank in (-1, 0, 129):
        with pytest.raises(UsageError, match=f"--lora-rank {rank}: must be from 1 to 128"):
            lora.adapt(make(), rank, 8.0)
    with pytest.raises(UsageError, match="--lora-alpha nan"):
        lora.adapt(make(), 4, float("nan"))
