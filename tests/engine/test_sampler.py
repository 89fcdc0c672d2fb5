"""Samplers against exact probabilities."""

import itertools
import math

import pytest
import torch

from pynanochat.engine.sampler import Sampling, draw, probabilities, sample, uniform
from pynanochat.errors import UsageError


def exact(logits, temperature, top_k, top_p):
    """The distribution by the book, in Python floats, without ties."""
    order = sorted(range(len(logits)), key=lambda i: -logits[i])
    order = order[:top_k] if top_k else order
    weight = {i: math.exp((logits[i] - logits[order[0]]) / temperature) for i in order}
    total = sum(weight.values())
    kept, mass = [], 0.0
    for i in order:
        kept.append(i)
        mass += weight[i] / total
        if mass >= top_p:
            break
    total = sum(weight[i] for i in kept)
    return [weight[i] / total if i in kept else 0.0 for i in range(len(logits))]


SETTINGS = list(itertools.product((0.5, 1.0, 2.0), (0, 1, 5, 99), (0.3, 0.9, 1.0)))


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), SETTINGS)
def test_probabilities_are_exact(temperature, top_k, top_p):
    logits = torch.randn(3, 40, generator=torch.Generator().manual_seed(1)) * 3
    p = probabilities(logits, Sampling(temperature, top_k, top_p))
    p = p / p.sum(dim=-1, keepdim=True)
    for row in range(3):
        expected = torch.tensor(exact(logits[row].tolist(), temperature, top_k, top_p))
        torch.testing.assert_close(p[row], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (6, 1.0), (0, 0.8), (8, 0.9)])
def test_draws_follow_the_probabilities(top_k, top_p):
    """Chi-square over 20,000 draws whose numbers are those of one request."""
    draws, logits = 20_000, torch.linspace(-2, 2, 12).roll(5)
    sampling = Sampling(0.9, top_k, top_p)
    numbers = [uniform(42, 0, position) for position in range(draws)]
    tokens = sample(logits.expand(draws, -1), [sampling] * draws, numbers)
    counts = torch.bincount(tokens, minlength=12).tolist()
    p = exact(logits.tolist(), 0.9, top_k, top_p)
    assert all(count == 0 for count, share in zip(counts, p, strict=True) if share == 0)
    live = [(count, share * draws) for count, share in zip(counts, p, strict=True) if share]
    chi_square = sum((count - mean) ** 2 / mean for count, mean in live)
    freedom = len(live) - 1
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5 + 6  # beyond the 99.9th percentile


def test_numbers_are_uniform_and_independent_of_each_other():
    rows = [[uniform(seed, sample, position) for position in range(2000)] for seed in (0, 1) for sample in (0, 1)]
    for row in rows:
        assert min(row) >= 0 and max(row) < 1
        assert abs(sum(row) / 2000 - 0.5) < 4 * (1 / 12 / 2000) ** 0.5
    for a, b in itertools.combinations(rows, 2):
        correlation = torch.corrcoef(torch.tensor([a, b]))[0, 1]
        assert abs(correlation) < 4 / 2000**0.5
    assert uniform(1, 2, 3) != uniform(12, 3, 0) and uniform(-5, 0, 0) != uniform(5, 0, 0)
    assert uniform(2**80, 0, 0) == uniform(2**80, 0, 0)


def test_rows_keep_their_own_settings():
    logits = torch.randn(6, 100, generator=torch.Generator().manual_seed(2))
    samplings = [Sampling(0), Sampling(1.0, 5), Sampling(0), Sampling(1.0, 5), Sampling(2.0, 0, 0.5), Sampling(0.1)]
    numbers = [0.1, 0.9, 0.5, 0.2, 0.7, 0.3]
    together = sample(logits, samplings, numbers)
    alone = [sample(logits[i : i + 1], [samplings[i]], [numbers[i]]).item() for i in range(6)]
    assert together.tolist() == alone
    assert together[0] == logits[0].argmax() and together[2] == logits[2].argmax()


def test_the_global_generator_is_not_touched():
    before = torch.random.get_rng_state()
    sample(torch.randn(1, 9, generator=torch.Generator()), [Sampling()], [0.4])
    assert torch.equal(before, torch.random.get_rng_state())


def test_edges_of_the_unit_interval():
    p = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]])
    assert draw(p, [0.0]).item() == 1
    assert draw(p, [1 - 2.0**-53]).item() == 3
    assert draw(p, [0.25]).item() == 3
    assert draw(p * 1e-30, [1 - 2.0**-53]).item() == 3


def test_equal_logits_at_the_edge_stay_together():
    p = probabilities(torch.tensor([[1.0, 3.0, 1.0, 0.0]]), Sampling(1.0, top_k=2))
    assert (p > 0).tolist() == [[True, True, True, False]]
    p = probabilities(torch.zeros(1, 4), Sampling(1.0, 0, 0.5))
    assert (p > 0).all()


@pytest.mark.parametrize("bad", [(-0.1,), (101,), (float("nan"),), (1, -1), (1, 2.5), (1, 0, 0), (1, 0, 1.1)])
def test_settings_out_of_range(bad):
    with pytest.raises(UsageError):
        Sampling(*bad)
