"""What fails on one rank ends all of them with the same words, and none waits for a result that never comes."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from pynanochat.errors import BackendError, PynanochatError
from pynanochat.evals import ranks


@pytest.fixture
def two_ranks(monkeypatch):
    """Runs a function of the rank on two threads, between which `gather` works as between processes."""
    barrier, given = Barrier(2, timeout=20), {}

    def gather(found, rank, device):
        given[rank] = found
        barrier.wait()
        everything = [*given[0], *given[1]]
        barrier.wait()
        return everything

    monkeypatch.setattr(ranks, "gather", gather)

    def run(work):
        with ThreadPoolExecutor(2) as pool:
            return [pool.submit(ranks.gather_from, lambda r=rank: work(r), rank, "cpu") for rank in (0, 1)]

    return run


def test_results_come_together_on_every_rank(two_ranks):
    assert [done.result() for done in two_ranks(lambda rank: [rank, rank])] == [[0, 0, 1, 1]] * 2


@pytest.mark.parametrize("broken", [0, 1])
def test_a_failure_of_one_is_raised_on_all(two_ranks, broken):
    def work(rank):
        if rank == broken:
            raise BackendError("the sandbox did not run")
        return [rank]

    for rank, done in enumerate(two_ranks(work)):
        with pytest.raises(BackendError if rank == broken else PynanochatError, match="the sandbox did not run"):
            done.result()
