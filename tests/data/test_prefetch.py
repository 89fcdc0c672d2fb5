"""Batches made ahead are the same batches, and the state is that of what was given."""

from itertools import islice

import numpy as np
import pytest

from pynanochat.data.prefetch import Prefetch
from pynanochat.errors import DataError

from .test_packing import loader, words


@pytest.mark.parametrize("ahead", [1, 3])
def test_same_batches_and_exact_resume(ahead):
    plain, ahead_of = loader(words(217)), Prefetch(loader(words(217)), ahead)
    for _ in range(7):
        assert np.array_equal(next(plain), next(ahead_of))
    state = ahead_of.state_dict()
    expected = list(islice(plain, 9))
    assert all(np.array_equal(a, b) for a, b in zip(expected, islice(ahead_of, 9), strict=True))
    ahead_of.load_state_dict(state)
    assert all(np.array_equal(a, b) for a, b in zip(expected, islice(ahead_of, 9), strict=True))
    ahead_of.close()


def test_a_state_before_the_first_batch():
    fresh = Prefetch(loader(words(50)))
    state = fresh.state_dict()
    first = next(fresh)
    fresh.load_state_dict(state)
    assert np.array_equal(first, next(fresh))
    fresh.close()


def test_the_end_and_errors_come_in_their_turn():
    everything = list(loader(words(60), epochs=1))
    some = Prefetch(loader(words(60), epochs=1))
    given = list(some)
    assert len(given) == len(everything) and all(map(np.array_equal, given, everything))
    some.close()
    with pytest.raises(DataError, match="do not fill one row"):
        next(Prefetch(loader(["a"], epochs=1)))
    with pytest.raises(ValueError, match="ahead 0"):
        Prefetch(loader(["a"]), 0)
