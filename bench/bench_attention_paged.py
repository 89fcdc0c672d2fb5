"""Attention over paged keys and values, as the engine's steps need it, against pages gathered for torch's attention.

    python -m pynanochat.bench.bench_attention_paged
    pytest bench/bench_attention_paged.py --benchmark-enable

The cases below also drive tests/ops/test_attention_paged.py.
"""

import functools

import pytest
import torch

from pynanochat.bench.harness import interleave, prove, race, ratios, report, stream_rate
from pynanochat.ops.attention_paged import attention_paged, attention_paged_reference

DTYPES = (torch.float32, torch.bfloat16)
PAGE = 16
BENCH_CASES = {  # (queries, tokens) of each row; H, G, D, page, window
    "decode, 1 row": ([(1, 1024)], 6, 6, 128, PAGE, -1),
    "decode, 64 rows": ([(1, 256 + 8 * i) for i in range(64)], 6, 6, 128, PAGE, -1),
    "decode, 64 rows, window": ([(1, 1024)] * 64, 6, 6, 128, PAGE, 512),
    "decode, grouped": ([(1, 512)] * 16, 8, 2, 64, PAGE, -1),
    "prefill behind a prefix": ([(512, 1024)], 6, 6, 128, PAGE, -1),
    "mixed": ([(256, 768), *[(1, 512)] * 31], 6, 6, 128, PAGE, 512),
    "short ends of shared prompts": ([(8, 400 + i) for i in range(32)], 6, 6, 128, PAGE, -1),
}
TEST_CASES = {
    "one token": ([(1, 1)], 2, 2, 16, 4, -1),
    "decode": ([(1, 7), (1, 50), (1, 16), (1, 17)], 4, 4, 32, 16, -1),
    "decode in a window": ([(1, 7), (1, 50), (1, 64), (1, 33)], 4, 4, 32, 16, 20),
    "window of itself": ([(1, 9), (3, 9)], 2, 2, 16, 4, 0),
    "grouped, odd head": ([(1, 30), (2, 31)], 6, 2, 33, 5, -1),
    "several queries": ([(5, 5), (3, 40), (9, 64)], 2, 1, 24, 8, 11),
    "an empty row": ([(0, 20), (2, 20), (0, 3)], 2, 2, 16, 8, -1),
    "many queries": ([(40, 40), (1, 90), (70, 333), (100, 100)], 2, 2, 16, 16, -1),
    "many queries in a window": ([(40, 200), (1, 200), (70, 333)], 4, 2, 64, 16, 50),
    "large head": ([(1, 40), (30, 60)], 1, 1, 256, 16, 25),
    "tiny head": ([(1, 40), (30, 60)], 3, 3, 3, 16, -1),
}


def make(case, dtype, seed=0):
    """q, k_pages, v_pages, tables, starts, lengths, longest, window.

    Pages are in no order, and what no query sees is NaN in the pages and -1 in the tables.
    """
    rows, H, G, D, page, window = case
    generator = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)  # noqa: E731
    longest = max(length for _, length in rows)
    tables = torch.full((len(rows), -(-longest // page)), -1)
    needed = sum(-(-length // page) for _, length in rows)
    free = torch.randperm(needed + 3, generator=generator).tolist()
    k, v = (torch.full((needed + 3, page, G, D), float("nan"), dtype=dtype) for _ in range(2))
    for row, (queries, length) in enumerate(rows):
        first = 0 if window < 0 else max(0, length - queries - window) // page
        for i in range(first, -(-length // page)):
            tables[row, i] = free.pop()
            filled = min(page, length - i * page)
            for pages in (k, v):
                pages[tables[row, i], :filled] = normal(filled, G, D)
                pages[tables[row, i], filled:] = 1e4  # what lies past the end matters no more than what it was before
    counts = torch.tensor([0] + [queries for queries, _ in rows])
    lengths = torch.tensor([length for _, length in rows])
    q = normal(int(counts.sum()), H, D)
    return q, k, v, tables, counts.cumsum(0), lengths, int(counts.max()), window


def plain(q, k_pages, v_pages, tables, starts, lengths, longest, window):
    """By the book, query by query."""
    out = torch.empty_like(q)
    page, share = k_pages.size(1), q.size(1) // k_pages.size(2)
    for row in range(len(tables)):
        count = int(starts[row + 1] - starts[row])
        for i in range(count):
            at = int(lengths[row]) - count + i
            seen = range(0 if window < 0 else max(0, at - window), at + 1)
            k, v = (
                torch.stack([x[tables[row, j // page], j % page] for j in seen]).repeat_interleave(share, dim=1)
                for x in (k_pages, v_pages)
            )
            query = q[starts[row] + i]
            p = (torch.einsum("hd,shd->hs", query, k) / query.size(-1) ** 0.5).softmax(-1)
            out[starts[row] + i] = torch.einsum("hs,shd->hd", p, v)
    return out


def compare(inputs, exact=plain) -> dict:
    """name -> (ours, plain torch, float64), for harness.prove."""
    doubles = [x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in inputs]
    return {"out": (attention_paged(*inputs), attention_paged_reference(*inputs), exact(*doubles))}


def bytes_read(case, dtype) -> int:
    """Keys and values that a pass must read once."""
    rows, _, G, D, _, window = case
    seen = sum(length if window < 0 else min(length, window + queries) for queries, length in rows)
    return 2 * seen * G * D * torch.finfo(dtype).bits // 8


@functools.lru_cache(maxsize=1)
def contest(case: str, dtype) -> dict:
    """engine -> a call of it; first, ours must be as good as torch's."""
    inputs = make(BENCH_CASES[case], dtype)
    prove(compare(inputs, attention_paged_reference), dtype)
    engines = {"ours": attention_paged, "torch": attention_paged_reference}
    return {engine: functools.partial(function, *inputs) for engine, function in engines.items()}


@pytest.mark.parametrize("engine", ("ours", "torch"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", BENCH_CASES)
def test_attention_paged(benchmark, case, dtype, engine):
    race(benchmark, contest, engine, case, dtype)


def main() -> None:
    rows = []
    for case, shape in BENCH_CASES.items():
        for dtype in DTYPES:
            times = interleave(contest(case, dtype), seconds=2.0)
            rate = bytes_read(shape, dtype) / times["ours"][0]
            rows.append(
                {
                    "case": case,
                    "dtype": str(dtype)[6:],
                    **ratios(times),
                    "GB/s of keys and values": rate / 1e9,
                    "of a copy's rate": rate / stream_rate(),
                }
            )
    report("attention_paged", rows)


if __name__ == "__main__":
    main()
