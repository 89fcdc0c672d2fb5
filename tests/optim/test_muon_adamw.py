"""MuonAdamW as an object: grouping, state that continues bit for bit, schedule, clipping, learning, misuse."""

import json

import pytest
import torch
from safetensors.torch import load, save

from pynanochat.errors import CheckpointError, UsageError
from pynanochat.ops.muon_step import muon_step
from pynanochat.optim import SCHEDULES, MuonAdamW, build_optimizer

RECIPES = ["2025", "2026"]


class Model(torch.nn.Module):
    """The parts of a GPT that matter to its optimizer: matrices of several shapes, tables, scalars."""

    def __init__(self, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        new = lambda *shape: torch.nn.Parameter(0.3 * torch.randn(*shape, generator=generator))  # noqa: E731
        self.embed, self.head = new(11, 6), new(11, 6)
        self.fc = torch.nn.ParameterList([new(24, 6), new(24, 6), new(24, 6)])
        self.proj = torch.nn.ParameterList([new(6, 24), new(6, 24)])
        self.gate = new(1, 12)
        self.value_embed = torch.nn.ParameterList([new(11, 6)])
        self.resid_lambda, self.x0_lambda, self.smear = new(3), new(3), new(1)

    def parameter_groups(self):
        parts = {"embed": "embed", "head": "head", "value_embed": "value_embed", "resid_lambda": "resid_lambda"}
        parts |= {"x0_lambda": "x0_lambda", "smear": "smear_backout"}
        groups = {}
        for name, param in self.named_parameters():
            groups.setdefault(parts.get(name.split(".")[0], "matrix"), []).append((name, param))
        return groups


def set_gradients(model, step, skip=()):
    generator = torch.Generator().manual_seed(1000 + step)
    for name, param in model.named_parameters():
        grad = torch.randn(param.shape, generator=generator)
        param.grad = None if name in skip else grad


def train(model, optimizer, steps, total=20, recipe="2026", skip=()):
    for step in steps:
        set_gradients(model, step, skip)
        optimizer.apply_schedule(*SCHEDULES[recipe]["pretrain"].at(step, total))
        optimizer.step()


def equal(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("recipe", RECIPES)
def test_state_dict_continues_bit_for_bit(recipe):
    model = Model()
    optimizer = build_optimizer(model, recipe)
    train(model, optimizer, range(5), recipe=recipe)
    twin = Model(seed=1)
    twin.load_state_dict(model.state_dict())
    other = build_optimizer(twin, recipe)
    other.load_state_dict(optimizer.state_dict())
    train(model, optimizer, range(5, 10), recipe=recipe)
    train(twin, other, range(5, 10), recipe=recipe)
    assert equal(model, twin)


@pytest.mark.parametrize("recipe", RECIPES)
def test_named_state_continues_bit_for_bit_through_safetensors_and_json(recipe):
    model = Model()
    optimizer = build_optimizer(model, recipe, ns_dtype=torch.float32)
    train(model, optimizer, range(5), recipe=recipe)
    saved, scalars = save(optimizer.named_state(model.named_parameters())), json.dumps(optimizer.scalars())
    twin = Model(seed=1)
    twin.load_state_dict(model.state_dict())
    other = build_optimizer(twin, recipe, ns_dtype=torch.float32)
    other.load_named_state(load(saved), twin.named_parameters())
    other.load_scalars(json.loads(scalars))
    assert [g["lr"] for g in other.param_groups] == [g["lr"] for g in optimizer.param_groups]
    for m, o in ((model, optimizer), (twin, other)):  # without a schedule, so that the scalars matter
        set_gradients(m, 77)
        o.step()
    assert equal(model, twin)
    train(model, optimizer, range(6, 10), recipe=recipe)
    train(twin, other, range(6, 10), recipe=recipe)
    assert equal(model, twin)


def test_loaded_state_shares_nothing_with_its_source():
    model, twin = Model(), Model()
    optimizer, other = build_optimizer(model), build_optimizer(twin)
    train(model, optimizer, range(2))
    other.load_state_dict(optimizer.state_dict())
    before = {k: v.clone() for k, v in optimizer.named_state(model.named_parameters()).items()}
    train(twin, other, range(3))
    after = optimizer.named_state(model.named_parameters())
    assert all(torch.equal(before[k], after[k]) for k in before)


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("recipe", RECIPES)
def test_matrices_move_as_if_alone(recipe, one_thread):
    """On one thread: several share the products of a stack and of one matrix out differently, and round otherwise."""
    model = Model()
    alone = {name: p.detach().clone() for name, p in model.named_parameters()}
    train(model, build_optimizer(model, recipe, weight_decay=0.1), [0], total=1, recipe=recipe)
    for name, param in model.parameter_groups()["matrix"]:
        rows, cols = param.shape
        second = torch.zeros((1, rows, 1) if rows >= cols else (1, 1, cols))
        settings = {"lr": 0.02, "momentum": SCHEDULES[recipe]["pretrain"].at(0, 1).momentum, "weight_decay": 0.1}
        muon_step([alone[name]], [param.grad], torch.zeros(1, rows, cols), second, recipe=recipe, **settings)
        assert torch.equal(alone[name], param.detach()), name


@pytest.mark.parametrize("recipe", RECIPES)
def test_parameters_without_gradient_stay(recipe):
    model, twin = Model(), Model()
    skip = ("fc.1", "embed", "resid_lambda")
    train(model, build_optimizer(model, recipe), range(3), skip=skip)
    train(twin, build_optimizer(twin, recipe), range(3))
    start = dict(Model().named_parameters())
    reference = dict(twin.named_parameters())
    for name, param in model.named_parameters():
        assert torch.equal(param, start[name] if name in skip else reference[name]), name


def test_rates_of_2026():
    model = Model()
    groups = {g["name"]: g for g in build_optimizer(model, "2026", lr_multiplier=0.5, weight_decay=0.7).param_groups}
    width = (6 / 768) ** -0.5
    assert {name: g["lr"] for name, g in groups.items()} == pytest.approx(
        {
            "embed": 0.3 * width * 0.5,
            "head": 0.008 * width * 0.5,
            "value_embed": 0.15 * width * 0.5,
            "resid_lambda": 0.0025,
            "x0_lambda": 0.25,
            "smear_backout": 0.2,
            "matrix": 0.01,
        }
    )
    assert [groups[n]["betas"] for n in ("embed", "head", "x0_lambda")] == [(0.8, 0.995), (0.8, 0.96), (0.96, 0.95)]
    assert [groups[n]["weight_decay"] for n in ("embed", "head", "value_embed", "matrix")] == [0.001, 0.01, 0.01, 0.7]
    assert all(g["eps"] == 1e-10 for g in groups.values() if g["kind"] == "adamw")


def test_rates_of_2025():
    groups = {g["name"]: g for g in build_optimizer(Model(), "2025").param_groups}
    width = (6 / 768) ** -0.5
    assert groups["embed"]["lr"] == pytest.approx(0.2 * width)
    assert groups["head"]["lr"] == pytest.approx(0.004 * width)
    assert groups["matrix"]["lr"] == 0.02
    assert {g["weight_decay"] for g in groups.values()} == {0.0}
    assert groups["embed"]["betas"] == groups["head"]["betas"] == (0.8, 0.95)


def test_schedule_reaches_the_groups():
    optimizer = build_optimizer(Model(), "2026", weight_decay=0.4)
    optimizer.apply_schedule(0.5, 0.9, 0.25)
    groups = {g["name"]: g for g in optimizer.param_groups}
    assert groups["matrix"]["lr"] == pytest.approx(0.01)
    assert groups["matrix"]["momentum"] == 0.9
    assert groups["matrix"]["weight_decay"] == pytest.approx(0.1)
    assert groups["x0_lambda"]["lr"] == pytest.approx(0.25)
    assert groups["head"]["weight_decay"] == 0.01  # AdamW's own decay does not follow the schedule
    optimizer.apply_schedule(1.0, 0.9, 1.0)
    assert groups["matrix"]["weight_decay"] == pytest.approx(0.4)


def test_clipping():
    model = Model()
    optimizer = build_optimizer(model, "2025")
    set_gradients(model, 0)
    exact = sum(float(p.grad.double().square().sum()) for p in model.parameters()) ** 0.5
    before = [p.grad.clone() for p in model.parameters()]
    assert float(optimizer.clip_gradients(None)) == pytest.approx(exact, rel=1e-6)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True))
    assert float(optimizer.clip_gradients(1.0)) == pytest.approx(exact, rel=1e-6)
    for p, g in zip(model.parameters(), before, strict=True):
        torch.testing.assert_close(p.grad, g / exact, rtol=1e-5, atol=1e-8)
    shrunk = [p.grad.clone() for p in model.parameters()]
    optimizer.clip_gradients(5.0)
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), shrunk, strict=True))


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_learns(recipe):
    """Two layers fitted to a linear map: the loss falls by far more than the step size explains by chance."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(256, 16, generator=generator)
    y = x @ torch.randn(16, 16, generator=generator) / 4
    first, second = (torch.nn.Parameter(torch.randn(16, 16, generator=generator) / 4) for _ in range(2))
    bias = torch.nn.Parameter(torch.ones(16))
    optimizer = MuonAdamW(
        [
            {"kind": "muon", "params": [first, second], "lr": 0.02, "recipe": recipe},
            {"kind": "adamw", "params": [bias], "lr": 0.02},
        ]
    )
    losses = []
    for step in range(200):
        optimizer.apply_schedule(*SCHEDULES[recipe]["pretrain"].at(step, 200))
        loss = (x @ first @ second + bias - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.01 * losses[0]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: t.pop("fc.1.momentum_buffer"), "fc.1 has second_moment"),
        (lambda t: t.update({"ghost.exp_avg": torch.zeros(1)}), "ghost belongs to no parameter"),
        (lambda t: t.update({"embed.exp_avg": torch.zeros(2, 2)}), r"embed.exp_avg has shape \(2, 2\)"),
        (lambda t: t.pop("embed.step"), "embed has exp_avg, exp_avg_sq"),
    ],
)
def test_damaged_state_is_named(spoil, message):
    model = Model()
    optimizer = build_optimizer(model)
    train(model, optimizer, range(2))
    tensors = dict(optimizer.named_state(model.named_parameters()))
    spoil(tensors)
    twin = Model()
    with pytest.raises(CheckpointError, match=message):
        build_optimizer(twin).load_named_state(tensors, twin.named_parameters())


def test_state_of_the_other_recipe_is_refused():
    model, twin = Model(), Model()
    optimizer = build_optimizer(model, "2025")
    train(model, optimizer, range(2))
    with pytest.raises(CheckpointError, match="use the optimizer recipe that saved it"):
        build_optimizer(twin, "2026").load_named_state(
            optimizer.named_state(model.named_parameters()), twin.named_parameters()
        )


def test_misuse_is_named():
    with pytest.raises(UsageError, match="kind 'sgd'"):
        MuonAdamW([{"kind": "sgd", "params": [torch.zeros(2, 2)], "lr": 1.0}])
    with pytest.raises(UsageError, match="only matrices"):
        MuonAdamW([{"kind": "muon", "params": [torch.nn.Parameter(torch.zeros(2))], "lr": 1.0}])
    with pytest.raises(UsageError, match="recipe '1999'"):
        build_optimizer(Model(), "1999")
    with pytest.raises(UsageError, match="'bias' has no learning rate"):
        build_optimizer(Model(), "2025", lrs={"bias": 0.1})
