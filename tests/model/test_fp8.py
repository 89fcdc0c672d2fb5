"""A model whose blocks multiply in 8 bits while it trains: close to bf16, and untouched by it everywhere else."""

import copy

import pytest
import torch

from pynanochat.errors import UsageError
from pynanochat.model import GPT, GPTConfig, lora
from pynanochat.model.fp8 import Fp8, unable
from pynanochat.optim import build_optimizer

OP = "fp8_training"
SIZE = {"head_dim": 16, "n_layer": 2, "n_head": 4, "n_kv_head": 2, "n_embd": 64, "vocab_size": 50, "sequence_len": 33}
BLOCK = ("attn.c_q", "attn.c_k", "attn.c_v", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


def model_of(arch="2026", lively=True, **fields):
    """A model in bf16; `lively`, without zero weights, so that every gradient has something to say."""
    model = GPT(GPTConfig.from_depth(2, arch, **SIZE | fields), seed=1, compute_dtype=torch.bfloat16)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters() if lively else ():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def rows_of(seed, rows=4):
    """Rows (B, 34) of random tokens."""
    return torch.randint(0, 50, (rows, 34), generator=torch.Generator().manual_seed(seed))


def train(model, steps):
    """The losses of `steps` steps of the same two micro-batches: the blocks learn them by heart."""
    optimizer = build_optimizer(model, model.config.arch, lr_multiplier=0.2)
    losses, device = [], model.lm_head.weight.device
    for _ in range(steps):
        if model.fp8:
            model.fp8.begin()
        for ids in (rows_of(1).to(device), rows_of(2).to(device)):
            loss = model(ids[:, :-1], ids[:, 1:])
            (loss / 2).backward()
        losses.append(loss.item())
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if model.fp8:
            model.fp8.finish()
    return losses


@pytest.mark.gpu
def test_on_a_gpu(record_property):
    """With torch's own products on the card's tensor cores, whichever kernels of ours are verified there."""
    if not torch.cuda.is_available() or unable(torch.device("cuda")):
        pytest.skip("needs a GPU with 8-bit products")
    record_property("op", OP)
    record_property("backend", "cuda")
    test_it_learns_what_bf16_learns("2026", "cuda")


@pytest.mark.parametrize("arch", ["2025", "2026"])
def test_it_learns_what_bf16_learns(arch, device="cpu"):
    """Through the first measured steps and those of delayed scales: within 0.02 nats of bf16's loss, which falls by
    0.8 or more."""
    plain, ours = (model_of(arch, lively=False).to(device) for _ in range(2))
    ours.fp8 = Fp8(ours)
    expected, found = train(plain, 14), train(ours, 14)
    assert expected[-1] < expected[0] - 0.8
    assert found == pytest.approx(expected, abs=0.02) and found != expected


def gradients(model, ids):
    model.zero_grad()
    model(ids[:, :-1], ids[:, 1:]).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("arch", ["2025", "2026"])
def test_gradients_are_off_by_what_8_bits_are(arch):
    """A rounding to e5m2 is off by 2^-3 at most and by 0.07 in the mean, one to e4m3 by half of that. In each of 2
    layers a gradient goes through 4 of the former and through 10 factors of the latter; their squares add up."""
    model, ids = model_of(arch), rows_of(1)
    expected = gradients(model, ids)
    model.fp8 = Fp8(model)
    model.fp8.begin()
    found = gradients(model, ids)
    bound = (2 * (4 * 0.07**2 + 10 * 0.035**2)) ** 0.5
    for name, true in expected.items():
        if true.numel() < 64:
            continue  # a sum over all channels, in which much cancels
        assert found[name].dtype == torch.float32
        assert (found[name] - true).norm() < bound * true.norm(), name
    assert (model.fp8.scales.amax > 0).all()
    assert any(not torch.equal(found[name], true) for name, true in expected.items() if name.endswith("c_q.weight"))


def test_weights_are_cast_once_a_step_and_the_copies_are_used():
    model, ids = model_of(), rows_of(1)
    model.fp8 = Fp8(model)
    model.fp8.begin()
    before = gradients(model, ids)
    with torch.no_grad():
        for i in range(2):
            for name in BLOCK:
                model.transformer.h[i].get_submodule(name).weight.zero_()
    for name, gradient in gradients(model, ids).items():
        assert torch.equal(gradient, before[name]), name
    model.fp8.begin()
    assert not torch.equal(gradients(model, ids)["transformer.wte.weight"], before["transformer.wte.weight"])


@torch.no_grad()
def test_only_training_is_in_8_bits():
    """Neither the model's state nor what it computes while it is evaluated knows of them."""
    model, ids = model_of(), rows_of(2)
    with torch.enable_grad():
        plain = {mode: model.train(mode)(ids[:, :-1], ids[:, 1:]).item() for mode in (False, True)}
        names = list(model.state_dict())
        model.fp8 = Fp8(model)
        assert list(model.state_dict()) == names and len(list(model.parameters())) == len(names)
        model.fp8.begin()
        assert model.eval()(ids[:, :-1], ids[:, 1:]).item() == plain[False]
        assert model.train()(ids[:, :-1], ids[:, 1:]).item() != plain[True]
    assert model(ids[:, :-1], ids[:, 1:]).item() == plain[True]  # without gradients


def test_batches_of_any_size_are_taken():
    model = model_of()
    model.fp8 = Fp8(model)
    model.fp8.begin()
    for rows, positions in ((1, 33), (3, 7), (1, 1)):
        ids = rows_of(3)[:rows, : positions + 1]
        assert model(ids[:, :-1], ids[:, 1:]).isfinite()


def test_adapters_learn_in_8_bits_too():
    model, ids = model_of(), rows_of(4)
    lora.adapt(model, rank=4, alpha=8.0)
    model.fp8 = Fp8(model)
    model.fp8.begin()
    model(ids[:, :-1], ids[:, 1:]).backward()
    assert all(p.grad.isfinite().all() for p in lora.adapters(model).values())
    assert any(p.grad.any() for p in lora.adapters(model).values())
    assert copy.deepcopy(model).fp8.scales.amax.equal(model.fp8.scales.amax)


def test_a_step_that_is_not_begun_is_our_own_mistake():
    model, ids = model_of(), rows_of(5)
    model.fp8 = Fp8(model)
    with pytest.raises(AssertionError, match="begin"):
        model(ids[:, :-1], ids[:, 1:])


@pytest.mark.parametrize("fields", [{"head_dim": 20, "n_embd": 80}, {"n_embd": 72}, {"head_dim": 8, "n_kv_head": 1}])
def test_sides_that_are_no_multiple_of_16_are_refused(fields):
    with pytest.raises(UsageError, match="^--fp8: .* multiples of 16; use another --depth or --head-dim"):
        Fp8(model_of(**fields))


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "A100")
    gpu = torch.device("cuda", 0)
    for capability, reason in (((8, 0), "A100 has compute capability 8.0"), ((8, 9), ""), ((9, 0), ""), ((12, 0), "")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, c=capability: c)
        assert unable(gpu) == reason
    assert unable(torch.device("cpu")) == "cpu is no GPU"
