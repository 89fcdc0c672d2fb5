"""attention_paged on its GPU backends, with cases and inputs as in bench_attention_paged.

A case is (queries, tokens) of each row, H, G, D, page, window. What no query sees is NaN in the pages and -1 in the
tables.
"""

import pytest
import torch

from pynanochat.bench import bench_attention_paged as bench
from pynanochat.ops.attention_paged import attention_paged, attention_paged_reference
from pynanochat.ops.backends import implementations

OP = "attention_paged"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
ONE_QUERY = {
    "one token": ([(1, 1)], 2, 2, 16, 4, -1),
    "rows of many lengths": ([(1, 7), (1, 50), (1, 16), (1, 17)], 4, 4, 32, 16, -1),
    "in a window": ([(1, 7), (1, 50), (1, 64), (1, 33)], 4, 2, 32, 16, 20),
    "window of itself": ([(1, 9), (1, 8)], 2, 2, 16, 4, 0),
    "splits": ([(1, 300), (1, 2), (1, 129)], 2, 2, 64, 16, -1),
    "splits in a window": ([(1, 400), (1, 3)], 2, 1, 64, 16, 290),
    "three of a group": ([(1, 150), (1, 31)], 6, 2, 64, 16, -1),
    "more heads than a block takes": ([(1, 40)], 10, 1, 32, 8, -1),
    "head of 96": ([(1, 40), (1, 5)], 4, 2, 96, 16, 25),
    "head of 128": ([(1, 70), (1, 33)], 2, 1, 128, 16, -1),
    "head of 256": ([(1, 40)], 2, 1, 256, 16, -1),
    "odd head, odd page": ([(1, 30), (1, 150)], 6, 2, 33, 5, -1),
    "tiny head": ([(1, 40)], 3, 3, 3, 16, -1),
    "rows without a query": ([(0, 20), (1, 20), (0, 3), (1, 140), (0, 1)], 2, 2, 16, 8, -1),
}
MORE_QUERIES = {
    "several queries": ([(5, 5), (3, 40), (1, 64)], 2, 1, 32, 8, 11),
    "a prompt and decoding": ([(40, 40), (1, 90)], 2, 2, 16, 16, -1),
}


def inputs(case, dtype, device):
    return [x.to(device) if isinstance(x, torch.Tensor) else x for x in bench.make(case, dtype)]


def check(backend, no_worse, given, ours=None):
    doubles = [x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in given]
    q, k, *_ = doubles
    ours = implementations(OP)[backend](*given) if ours is None else ours
    largest = (q.abs().max() * k.nan_to_num().clamp(-10, 10).abs().max() * q.size(-1) ** 0.5).item()
    no_worse("out", ours, attention_paged_reference(*given), bench.plain(*doubles), largest)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", ONE_QUERY.values(), ids=ONE_QUERY)
def test_one_query_a_row(backend, device, no_worse, case, dtype):
    check(backend, no_worse, inputs(case, dtype, device))


@pytest.mark.parametrize("case", MORE_QUERIES.values(), ids=MORE_QUERIES)
def test_more_queries(backend, device, no_worse, case):
    check(backend, no_worse, inputs(case, torch.bfloat16, device))


@pytest.mark.parametrize("case", ["in a window", "splits in a window"])
def test_what_no_query_sees_never_matters(backend, device, case):
    given = inputs(ONE_QUERY[case], torch.float32, device)
    assert (given[3] == -1).any() and given[1].isnan().any()
    assert implementations(OP)[backend](*given).isfinite().all()


def test_rows_that_only_fill_a_graph_give_zeros(backend, device):
    """A query of a row of no tokens, whose table may hold anything."""
    given = inputs(ONE_QUERY["splits"], torch.bfloat16, device)
    expected = implementations(OP)[backend](*given)
    given[5][1] = 0
    given[3][1] = -1
    ours = implementations(OP)[backend](*given)
    assert not ours[1].any() and torch.equal(ours[::2], expected[::2])


def test_a_page_that_does_not_exist_gives_nan(backend, device):
    """And harms no other row; nothing is read out of bounds."""
    given = inputs(ONE_QUERY["splits"], torch.float32, device)
    expected = implementations(OP)[backend](*given)
    for wrong in (given[1].size(0), -1, 2**40):
        given[3][0, 5] = wrong
        ours = implementations(OP)[backend](*given)
        assert ours[0].isnan().all() and torch.equal(ours[1:], expected[1:])


def test_strides(backend, device, no_worse):
    """Queries and pages that are parts of larger tensors; pages that begin off 16 bytes; channels two apart."""
    q, k, v, *rest = inputs(ONE_QUERY["three of a group"], torch.bfloat16, device)
    wide = torch.cat([q, q + 1], dim=1)[:, : q.size(1)]
    both = torch.stack([k, v], dim=1)
    check(backend, no_worse, (wide, both[:, 0], both[:, 1], *rest))
    off = torch.empty(k.numel() + 1, dtype=k.dtype, device=device)[1:].view(k.shape).copy_(k)
    check(backend, no_worse, (q, off, v, *rest))
    apart = torch.empty(*v.shape, 2, dtype=v.dtype, device=device)[..., 0].copy_(v)
    check(backend, no_worse, (torch.stack([q, q], dim=-1)[..., 0], k, apart, *rest))


def test_large_scores_stay_finite(backend, device, no_worse):
    q, k, *rest = inputs(ONE_QUERY["splits"], torch.float32, device)
    check(backend, no_worse, (q * 30, k * 30, *rest))


def test_public_op(backend, device, no_worse, monkeypatch):
    monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)
    given = inputs(ONE_QUERY["splits"], torch.float16, device)
    check(backend, no_worse, given, attention_paged(*given))


def test_operator_is_registered_right(backend, device, monkeypatch):
    monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)
    given = inputs(ONE_QUERY["rows of many lengths"], torch.float32, device)
    torch.library.opcheck(torch.ops.pynanochat.attention_paged.default, given)


@pytest.mark.gpu
@pytest.mark.parametrize("case", ["decode, 1 row", "decode, 64 rows, window", "decode, grouped"])
def test_cases_of_the_engine(backend, no_worse, case):
    given = inputs(bench.BENCH_CASES[case], torch.bfloat16, "cuda")
    doubles = [x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in given]
    ours = implementations(OP)[backend](*given)
    no_worse("out", ours, attention_paged_reference(*given), attention_paged_reference(*doubles), 50.0)


@pytest.mark.gpu
def test_stream(backend, no_worse):
    """On a stream of its own, behind work that is still running there."""
    q, *rest = inputs(ONE_QUERY["splits"], torch.bfloat16, "cuda")
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        check(backend, no_worse, (q + 0, *rest))
    stream.synchronize()
