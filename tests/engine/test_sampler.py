"""Samplers against exact probabilities."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from pynanochat.engine.sampler import logprobs, sample, uniform
from pynanochat.engine.sampling import Sampling
from pynanochat.errors import UsageError


def exact(logits, s, history=()):
    """The distribution by the book, in Python floats."""
    for i in set(history):
        logits[i] = logits[i] / s.repetition_penalty if logits[i] > 0 else logits[i] * s.repetition_penalty
    order = sorted(range(len(logits)), key=lambda i: -logits[i])
    best = logits[order[0]]
    order = [i for i in order if not 0 < s.top_k < len(order) or logits[i] >= logits[order[s.top_k - 1]]]
    weight = {i: math.exp((logits[i] - best) / s.temperature) for i in order}
    total, mass, smallest = math.fsum(weight.values()), 0.0, best
    for i in order:
        if s.top_p < 1 and mass >= s.top_p * total:
            break
        mass, smallest = mass + weight[i], logits[i]
    kept = [i for i in order if logits[i] >= smallest and weight[i] >= s.min_p]
    total = math.fsum(weight[i] for i in kept)
    return [weight[i] / total if i in kept else 0.0 for i in range(len(logits))]


def random_logits(rows, vocabulary, seed=1, scale=3.0):
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * scale


def shares(logits, sampling, history=None, draws=4000):
    """How much of the unit interval leads to each token, from `draws` numbers that divide it evenly."""
    numbers = [(i + 0.5) / draws for i in range(draws)]
    histories = None if history is None else [history] * draws
    tokens = sample(logits.expand(draws, -1), [sampling] * draws, numbers, histories)
    return (torch.bincount(tokens, minlength=logits.numel()) / draws).tolist()


SETTINGS = [
    Sampling(temperature, top_k, top_p, min_p, penalty)
    for temperature, top_k, top_p, min_p, penalty in itertools.product(
        (0.5, 1.0, 2.0), (0, 1, 5, 99), (0.3, 0.9, 1.0), (0.0, 0.2), (1.0, 1.7)
    )
]


@pytest.mark.parametrize("sampling", SETTINGS, ids=str)
def test_every_combination_of_filters_is_exact(sampling):
    """Not a statistic: the interval of each token is as long as its probability."""
    logits = random_logits(1, 40)[0]
    history = [3, 3, 7, int(logits.argmax()), int(logits.argmin())]
    expected = exact(logits.tolist(), sampling, history)
    got = shares(logits, sampling, history)
    assert max(abs(a - b) for a, b in zip(got, expected, strict=True)) <= 1.01 / 4000
    assert all(p > 0 for p, share in zip(expected, got, strict=True) if share)


CHI = [
    Sampling(0.9, 0),
    Sampling(0.9, 6),
    Sampling(0.9, 0, 0.8),
    Sampling(0.9, 0, 1.0, 0.2),
    Sampling(0.9, 0, 1.0, 0.0, 1.8),
    Sampling(0.7, 8, 0.9, 0.05, 1.3),
]


@pytest.mark.parametrize("sampling", CHI, ids=str)
def test_draws_follow_the_probabilities(sampling):
    """Chi-square over 20,000 draws whose numbers are those of one request."""
    draws, logits, history = 20_000, torch.linspace(-2, 2, 12).roll(5), [0, 4, 4, 9]
    numbers = [uniform(42, 0, position) for position in range(draws)]
    tokens = sample(logits.expand(draws, -1), [sampling] * draws, numbers, [history] * draws)
    counts = torch.bincount(tokens, minlength=12).tolist()
    p = exact(logits.tolist(), sampling, history)
    assert all(count == 0 for count, share in zip(counts, p, strict=True) if share == 0)
    live = [(count, share * draws) for count, share in zip(counts, p, strict=True) if share]
    chi_square = sum((count - mean) ** 2 / mean for count, mean in live)
    freedom = len(live) - 1
    assert freedom >= 3
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


samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 1e-300, 0.1, 0.8, 1.0, 5.0, 100.0]),
    top_k=st.sampled_from([0, 1, 2, 50, 299, 300, 10_000]),
    top_p=st.sampled_from([1e-9, 0.3, 0.95, 1.0]),
    min_p=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.1, 0.7, 10.0]),
)
numbers = st.one_of(st.sampled_from([0.0, 1 - 2.0**-53]), st.floats(0, 1, exclude_max=True))
rows = st.lists(st.tuples(samplings, numbers, st.lists(st.integers(0, 299), max_size=20)), min_size=1, max_size=64)


@given(rows=rows, seed=st.integers(0, 99), levels=st.sampled_from([0, 3]))
def test_a_row_draws_what_it_draws_alone(rows, seed, levels):
    """Whatever settings stand beside it, and where many logits are equal."""
    logits = random_logits(len(rows), 300, seed)
    logits = (logits * levels).round() / levels if levels else logits
    settings, numbers, histories = (list(column) for column in zip(*rows, strict=True))
    together = sample(logits, settings, numbers, histories).tolist()
    for row, (s, number, history) in enumerate(rows):
        assert sample(logits[row : row + 1], [s], [number], [history]).tolist() == [together[row]]
        if s.temperature >= 0.1:
            assert exact(logits[row].tolist(), s, history)[together[row]] > 0 or s.top_p < 1


@given(sampling=samplings, number=numbers, seed=st.integers(0, 99))
def test_filters_only_ever_leave_less(sampling, number, seed):
    logits = random_logits(1, 300, seed)
    token = sample(logits, [sampling], [number], [[]]).item()
    above = int((logits > logits[0, token]).sum())
    assert 0 <= token < 300 and logits[0, token].isfinite()
    assert not sampling.top_k or above < sampling.top_k
    if sampling.temperature == 0 or sampling.min_p == 1 or sampling.top_p < 1e-6:
        assert above == 0


def test_the_penalty_is_for_having_been_seen():
    logits = torch.tensor([[2.0, 1.5, -1.0, 0.0]])
    double = Sampling(0, repetition_penalty=2.0)
    assert sample(logits, [double], [0.0], [[]]).item() == 0
    assert sample(logits, [double], [0.0], [[0]]).item() == sample(logits, [double], [0.0], [[0] * 9]).item() == 1
    assert sample(-logits, [Sampling(0, repetition_penalty=0.25)], [0.0], [(0,)]).item() == 2
    assert sample(-logits, [Sampling(0, repetition_penalty=0.1)], [0.0], [(2, 0, 1)]).item() == 2
    assert logits.tolist() == [[2.0, 1.5, -1.0, 0.0]]
    mixed = sample(logits.expand(3, -1), [Sampling(0), double, Sampling(0)], [0.0] * 3, [None, [0], None])
    assert mixed.tolist() == [0, 1, 0]


def test_rows_that_are_not_numbers_are_told_apart():
    logits = random_logits(5, 300)
    logits[1, 7], logits[2], logits[3, 4] = torch.nan, -torch.inf, torch.inf
    whole = random_logits(5, 300)
    for sampling in (Sampling(0), Sampling(1.0), Sampling(1.0, 0), Sampling(1.0, 0, 0.5), Sampling(1, 0, 1, 0.1)):
        tokens = sample(logits, [sampling] * 5, [0.5] * 5).tolist()
        assert tokens[1:4] == [300] * 3
        expected = sample(whole, [sampling] * 5, [0.5] * 5).tolist()
        assert [tokens[0], tokens[4]] == [expected[0], expected[4]]


def test_log_probabilities_are_those_of_the_raw_logits():
    logits = random_logits(3, 50)
    wide = logits.double().log_softmax(dim=-1)
    tokens = torch.tensor([4, 0, 49])
    taken, top, ids = logprobs(logits, tokens, 5)
    torch.testing.assert_close(taken, wide[torch.arange(3), tokens])
    torch.testing.assert_close(top, wide.sort(dim=-1, descending=True).values[:, :5])
    torch.testing.assert_close(wide.gather(1, ids), top)
    assert logprobs(logits, tokens, 0)[1].shape == (3, 0) and logprobs(logits, tokens, 60)[1].shape == (3, 50)
    alone = logprobs(logits[1:2], tokens[1:2], 5)
    assert torch.equal(alone[0], taken[1:2]) and torch.equal(alone[1], top[1:2])


def test_the_global_generator_is_not_touched():
    before = torch.random.get_rng_state()
    sample(torch.randn(1, 9, generator=torch.Generator()), [Sampling()], [0.4])
    assert torch.equal(before, torch.random.get_rng_state())


def test_edges_of_the_unit_interval():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]])
    tokens = [sample(logits, [Sampling(1.0, 0)], [number]).item() for number in (0.0, 0.5, 1 - 2.0**-53)]
    assert tokens == [1, 3, 3]


def test_equal_logits_at_the_edge_stay_together():
    for sampling, kept in (
        (Sampling(1.0, top_k=2), [0, 1, 2]),
        (Sampling(1.0, 0, 0.9), [0, 1, 2]),
        (Sampling(1.0, 0, 1.0, math.exp(-2)), [0, 1, 2]),
        (Sampling(1.0, 0, 0.5), [1]),
    ):
        got = shares(torch.tensor([1.0, 3.0, 1.0, 0.0]), sampling)
        assert [token for token, share in enumerate(got) if share] == kept, sampling
    assert all(shares(torch.zeros(4), Sampling(1.0, 0, 0.5)))
    assert all(shares(torch.zeros(400), Sampling(1.0, 300)))
    long_tie = torch.cat([torch.arange(40.0) / 20 + 1, torch.zeros(300)])
    nucleus = Sampling(5.0, 50, 0.5)  # the share is of all that top-k left, the 300 equal to the 50th too
    p = exact(long_tie.tolist(), nucleus)
    assert p[50] and max(abs(a - b) for a, b in zip(shares(long_tie, nucleus), p, strict=True)) <= 1.01 / 4000


@pytest.mark.parametrize(
    "bad",
    [
        {"temperature": -0.1}, {"temperature": 101}, {"temperature": float("nan")},
        {"top_k": -1}, {"top_k": 2.5}, {"top_p": 0}, {"top_p": 1.1}, {"top_p": float("nan")},
        {"min_p": -0.1}, {"min_p": 1.1}, {"min_p": float("nan")},
        {"repetition_penalty": 0}, {"repetition_penalty": 11}, {"repetition_penalty": float("inf")},
    ],
)  # fmt: skip
def test_settings_out_of_range(bad):
    with pytest.raises(UsageError, match=next(iter(bad))):
        Sampling(**bad)


MIXED = [
    Sampling(0.0),
    Sampling(1.0),
    Sampling(0.7, top_k=5),
    Sampling(1.3, top_p=0.8),
    Sampling(0.9, top_k=20, top_p=0.9, min_p=0.05),
    Sampling(0.8, min_p=0.3),
    Sampling(1.0, top_k=10_000),
]


class NothingAsked(TorchDispatchMode):
    """Refuses what would make the host wait for a GPU."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "masked_select", "equal"), name
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("seed", range(4))
def test_the_reference_gives_the_same_tokens_and_asks_for_nothing(seed, monkeypatch):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(5 * len(MIXED), 300, generator=generator) * 3
    logits[3] = torch.nan
    samplings, numbers = MIXED * 5, torch.rand(5 * len(MIXED), generator=generator, dtype=torch.float64).tolist()
    ours = sample(logits, samplings, numbers).tolist()
    monkeypatch.setenv("PYNANOCHAT_BACKEND", "reference")
    with NothingAsked():
        tokens = sample(logits, samplings, numbers)
    assert tokens.tolist() == ours and ours[3] == 300


def test_a_number_for_each_row():
    logits, settings = random_logits(3, 40), [Sampling(1.0, 0)] * 3
    for numbers in ([0.5], [0.5] * 4):
        with pytest.raises(ValueError, match=r"^number has shape"):
            sample(logits, settings, numbers)


def test_a_top_k_beyond_every_number_is_no_limit():
    logits = random_logits(1, 40)
    assert shares(logits[0], Sampling(1.0, 2**80)) == shares(logits[0], Sampling(1.0, 0))
