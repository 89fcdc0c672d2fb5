"""sample_tokens on the CPU against its reference; the engine's sampler tests both against exact probabilities."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from pynanochat.engine.sampling import Sampling
from pynanochat.ops import sample_tokens
from pynanochat.ops.sample_tokens import sample_tokens_reference

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


def check(logits, settings, numbers):
    columns = columns_of(settings, numbers)
    assert torch.equal(sample_tokens(logits, *columns), sample_tokens_reference(logits, *columns))


@given(rows=rows, seed=st.integers(0, 99), kind=st.sampled_from(sorted(LOGITS)))
def test_the_tokens_of_the_reference(rows, seed, kind):
    check(LOGITS[kind](random_logits(len(rows), 300, seed)), *(list(column) for column in zip(*rows, strict=True)))


@pytest.mark.parametrize("vocabulary", [1, 2, 3, 31, 5000])
def test_vocabularies(vocabulary, isa):
    settings = [Sampling(t, k, p, m) for t in (0, 0.9) for k in (0, 2) for p in (0.7, 1.0) for m in (0.0, 0.1)] * 3
    numbers = torch.rand(len(settings), dtype=torch.float64, generator=torch.Generator().manual_seed(2)).tolist()
    check(2 * random_logits(len(settings), vocabulary), settings, numbers)


@pytest.mark.parametrize("order", ["rising", "falling", "by chance", "tied"])
def test_many_candidates(order, isa):
    """More than are looked at first, and rows whose every logit is the largest so far."""
    settings = [
        Sampling(t, k, p) for t in (0.5, 3.0, 100.0) for k in (0, 1, 50, 400, 3999, 4000) for p in (0.5, 0.999, 1.0)
    ]
    numbers = torch.rand(len(settings), dtype=torch.float64, generator=torch.Generator().manual_seed(3)).tolist()
    logits = 3 * random_logits(len(settings), 5003)
    logits = {
        "rising": logits.sort(dim=1).values,
        "falling": logits.sort(dim=1, descending=True).values,
        "by chance": logits,
        "tied": logits.round(),
    }[order]
    check(logits, settings, numbers)


def test_threads_and_neighbours_do_not_change_a_token():
    settings, numbers = [Sampling(1.0, 0), Sampling(0.8, 50), Sampling(0.8, 0, 0.9)] * 4, [0.37] * 12
    logits, columns = 3 * random_logits(12, 5000), columns_of(settings, numbers)
    alone = [sample_tokens(logits[i : i + 1], *(x[i : i + 1] for x in columns)).item() for i in range(12)]
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            assert sample_tokens(logits, *columns).tolist() == alone
    finally:
        torch.set_num_threads(before)


def test_strided_logits_and_settings():
    """A head's padding cut off, columns two apart, settings that are columns of a table."""
    settings, numbers = [Sampling(0), Sampling(0.8, 0), Sampling(0.7, 5), Sampling(2.0, 0, 0.9)], [0.1, 0.4, 0.6, 0.9]
    columns = [torch.stack([x, x], dim=1)[:, 0] for x in columns_of(settings, numbers)]
    for logits in (random_logits(4, 128)[:, :100], random_logits(4, 128)[:, ::2], random_logits(128, 4).T):
        expected = sample_tokens_reference(logits, *columns)
        assert torch.equal(sample_tokens(logits, *columns), expected)


def test_rows_that_are_not_numbers_are_told_apart():
    logits = random_logits(5, 300)
    logits[1, 7], logits[2], logits[3, 4] = torch.nan, -torch.inf, torch.inf
    for sampling in (Sampling(0), Sampling(1.0), Sampling(1.0, 0), Sampling(1.0, 0, 0.5), Sampling(1, 0, 1, 0.1)):
        tokens = sample_tokens(logits, *columns_of([sampling] * 5, [0.5] * 5))
        assert tokens[1:4].tolist() == [300] * 3
        assert torch.equal(tokens, sample_tokens_reference(logits, *columns_of([sampling] * 5, [0.5] * 5)))


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
