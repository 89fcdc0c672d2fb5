"""The engine's sampler against the usual sampling code: softmax, topk or sort, multinomial.

    python -m pynanochat.bench.bench_sample_tokens
    pytest bench/bench_sample_tokens.py --benchmark-enable

Ours draws by numbers that belong to a request, so first the tokens must be those that the usual code's probabilities
give by the same numbers. Each logit must be read once: that bounds it. bench/gpu_small.py has the same cases on a GPU.
"""

import functools

import pytest
import torch

from pynanochat.bench.harness import interleave, race, ratios, report, stream_rate
from pynanochat.engine.sampler import sample
from pynanochat.engine.sampling import Sampling

V = 32768
ROWS = (1, 64)
SETTINGS = {"free": Sampling(1.0, 0), "top-k 50": Sampling(0.8, 50), "top-p 0.9": Sampling(0.8, 0, 0.9)}
ENGINES = ("ours", "plain")


def make(rows: int, vocabulary: int = V, device="cpu"):
    """logits (R, V) fp32 with a head and a long tail, and a number in [0, 1) for each row."""
    generator = torch.Generator().manual_seed(rows)
    logits = torch.randn(rows, vocabulary, generator=generator) * 3
    return logits.to(device), torch.rand(rows, generator=generator, dtype=torch.float64).to(device)


def usual_probabilities(logits, sampling: Sampling):
    """What the usual code draws from: probabilities (R, W) and their ids (R, W), None for all of them in order."""
    logits = logits / sampling.temperature
    if sampling.top_k:
        values, ids = logits.topk(sampling.top_k, dim=-1)
        return values.softmax(dim=-1), ids
    if sampling.top_p == 1:
        return logits.softmax(dim=-1), None
    values, ids = logits.sort(dim=-1, descending=True)
    p = values.softmax(dim=-1)
    return p.masked_fill(p.cumsum(dim=-1) - p >= sampling.top_p, 0.0), ids


def plain(logits, sampling: Sampling):
    """A token (R,) for each row, by the usual code."""
    p, ids = usual_probabilities(logits, sampling)
    place = torch.multinomial(p, 1)
    return (place if ids is None else ids.gather(1, place)).squeeze(1)


def by_numbers(logits, sampling: Sampling, numbers):
    """The tokens that the usual code's probabilities, in fp64 and in the order of ids, give by these numbers."""
    p, ids = usual_probabilities(logits.double(), sampling)
    if ids is not None:
        p = torch.zeros_like(logits, dtype=torch.float64).scatter(1, ids, p)
    mass = p.cumsum(dim=-1)
    return torch.searchsorted(mass, numbers[:, None] * mass[:, -1:], right=True).squeeze(1)


@functools.lru_cache(maxsize=1)
def contest(rows: int, settings: str) -> dict:
    """engine -> a call of it; first, ours must draw from the same probabilities."""
    sampling, (logits, numbers) = SETTINGS[settings], make(rows)
    samplings, each = [sampling] * rows, numbers.tolist()
    wanted = by_numbers(logits, sampling, numbers)
    assert torch.equal(sample(logits, samplings, each), wanted), "not the usual code's probabilities"
    return {
        "ours": functools.partial(sample, logits, samplings, each),
        "plain": functools.partial(plain, logits, sampling),
    }


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("rows", ROWS)
def test_sample_tokens(benchmark, rows, settings, engine):
    race(benchmark, contest, engine, rows, settings)


def main() -> None:
    table = []
    for rows in ROWS:
        for settings in SETTINGS:
            times = interleave(contest(rows, settings), seconds=3.0)
            moved = 4 * rows * V / times["ours"][0]
            case = {"op": "sample_tokens", "case": f"{rows} rows, {settings}"}
            table.append(case | ratios(times) | {"GB/s": moved / 1e9, "of a copy's rate": moved / stream_rate()})
    report("sample_tokens", table)


if __name__ == "__main__":
    main()
