"""sample_tokens against the engine's sampler, which has its own tests against exact probabilities."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from pynanochat.engine.sampler import sample
from pynanochat.engine.sampling import Sampling
from pynanochat.ops import sample_tokens

samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 1e-300, 0.1, 0.8, 1.0, 5.0, 100.0]),
    top_k=st.sampled_from([0, 1, 2, 50, 299, 300, 10_000]),
    top_p=st.sampled_from([1e-9, 0.3, 0.95, 1.0]),
    min_p=st.sampled_from([0.0, 0.02, 0.5, 1.0]),
)
numbers = st.one_of(st.sampled_from([0.0, 1 - 2.0**-53]), st.floats(0, 1, exclude_max=True))
rows = st.lists(st.tuples(samplings, numbers), min_size=1, max_size=64)
LOGITS = {
    "random": lambda x: 3 * x,
    "peaked": lambda x: 60 * x,
    "flat": lambda x: x / 1000,
    "tied": lambda x: x.round(),
    "equal": lambda x: 0 * x,
    "two groups": lambda x: torch.where(x > 0.5, 2.0, -1.0),
    "mostly impossible": lambda x: torch.where(x > 1, 3 * x, -torch.inf),
    "both zeros": lambda x: torch.where(x > 0, 0.0, -0.0),
    "far apart": lambda x: x * 1e37,
}


def columns_of(samplings, numbers) -> list[torch.Tensor]:
    """What sample_tokens takes behind the logits."""
    double = lambda values: torch.tensor(list(values), dtype=torch.float64)  # noqa: E731
    return [
        double(s.temperature for s in samplings),
        torch.tensor([s.top_k for s in samplings], dtype=torch.int64),
        double(s.top_p for s in samplings),
        double(s.min_p for s in samplings),
        double(numbers),
    ]


def random_logits(rows, vocabulary, seed=1):
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed))


@given(rows=rows, seed=st.integers(0, 99), kind=st.sampled_from(sorted(LOGITS)))
def test_the_tokens_of_the_sampler(rows, seed, kind):
    logits = LOGITS[kind](random_logits(len(rows), 300, seed))
    settings, numbers = (list(column) for column in zip(*rows, strict=True))
    expected = sample(logits, settings, numbers)
    assert torch.equal(sample_tokens(logits, *columns_of(settings, numbers)), expected)


@pytest.mark.parametrize("vocabulary", [1, 2, 3, 5000])
def test_vocabularies(vocabulary):
    settings = [Sampling(t, k, p, m) for t in (0, 0.9) for k in (0, 2) for p in (0.7, 1.0) for m in (0.0, 0.1)] * 3
    logits = 2 * random_logits(len(settings), vocabulary)
    numbers = torch.rand(len(settings), dtype=torch.float64, generator=torch.Generator().manual_seed(2)).tolist()
    assert torch.equal(sample_tokens(logits, *columns_of(settings, numbers)), sample(logits, settings, numbers))


def test_rows_that_are_not_numbers_are_told_apart():
    logits = random_logits(5, 300)
    logits[1, 7], logits[2], logits[3, 4] = torch.nan, -torch.inf, torch.inf
    for sampling in (Sampling(0), Sampling(1.0), Sampling(1.0, 0), Sampling(1.0, 0, 0.5), Sampling(1, 0, 1, 0.1)):
        tokens = sample_tokens(logits, *columns_of([sampling] * 5, [0.5] * 5))
        assert tokens[1:4].tolist() == [300] * 3
        assert torch.equal(tokens, sample(logits, [sampling] * 5, [0.5] * 5))


def test_the_first_of_equals_is_the_most_probable():
    logits = torch.tensor([[0.0, 2.0, 1.0, 2.0, 2.0]])
    assert sample_tokens(logits, *columns_of([Sampling(0)], [0.9])).tolist() == [1]


def test_never_waits_for_a_value():
    class Waits(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            assert not any(word in function.name() for word in ("_local_scalar_dense", "nonzero", "is_nonzero"))
            return function(*args, **(kwargs or {}))

    columns = columns_of([Sampling(0), Sampling(0.8, 5, 0.9, 0.1)], [0.3, 0.4])
    with Waits():
        sample_tokens(random_logits(2, 50), *columns)
    nothing = sample_tokens(torch.empty(2, 50, device="meta"), *(x.to("meta") for x in columns))
    assert nothing.shape == (2,) and nothing.dtype == torch.int64


def test_no_rows():
    assert sample_tokens(torch.zeros(0, 7), *columns_of([], [])).shape == (0,)


def test_operator_is_registered_right():
    columns = columns_of([Sampling(0), Sampling(0.8, 5, 0.9, 0.1)], [0.3, 0.4])
    torch.library.opcheck(torch.ops.pynanochat.sample_tokens.default, (random_logits(2, 50), *columns))


def test_compiles_without_a_graph_break():
    columns = columns_of([Sampling(0), Sampling(0.8, 5, 0.9, 0.1)], [0.3, 0.4])
    f = lambda logits: sample_tokens(2 * logits, *columns) + 1  # noqa: E731
    logits = random_logits(2, 50)
    assert torch.equal(torch.compile(f, fullgraph=True)(logits), f(logits))


@pytest.mark.parametrize("place", range(6))
def test_names_what_is_wrong(place):
    inputs = [random_logits(2, 50), *columns_of([Sampling(0), Sampling()], [0.3, 0.4])]
    name = ("logits", "temperature", "top_k", "top_p", "min_p", "number")[place]
    for wrong in (inputs[place].to(torch.float16), inputs[place][:, None]):
        with pytest.raises(ValueError, match=f"^{name} ha"):
            sample_tokens(*inputs[:place], wrong, *inputs[place + 1 :])
