"""attention_paged: every backend that runs here against attention by the book; cases from bench_attention_paged."""

import pytest
import torch

from pynanochat.bench import bench_attention_paged as bench
from pynanochat.bench.harness import prove
from pynanochat.ops import attention_paged
from pynanochat.ops.attention_paged import attention_paged_reference


@pytest.mark.parametrize("case", bench.TEST_CASES.values(), ids=bench.TEST_CASES)
@pytest.mark.parametrize("dtype", bench.DTYPES, ids=str)
def test_matches_torch(case, dtype, isa):
    prove(bench.compare(bench.make(case, dtype)), dtype)


@pytest.mark.parametrize("case", bench.TEST_CASES.values(), ids=bench.TEST_CASES)
def test_the_reference_is_right(case):
    inputs = bench.make(case, torch.float64)
    torch.testing.assert_close(attention_paged_reference(*inputs), bench.plain(*inputs))
    assert torch.equal(attention_paged(*inputs), attention_paged_reference(*inputs))  # no kernel takes float64


@pytest.mark.parametrize("case", ["decode in a window", "several queries", "many queries in a window"])
def test_what_no_query_sees_never_matters(case, isa):
    """The pages hold NaN there, the tables -1."""
    inputs = bench.make(bench.TEST_CASES[case], torch.float32)
    assert (inputs[3] == -1).any() and inputs[1].isnan().any()
    assert attention_paged(*inputs).isfinite().all()
    assert attention_paged_reference(*inputs).isfinite().all()


def test_a_row_is_the_same_alone_and_among_others(isa):
    rows, *shape = bench.TEST_CASES["several queries"]
    q, k, v, tables, starts, lengths, longest, window = bench.make((rows, *shape), torch.float32)
    together = attention_paged(q, k, v, tables, starts, lengths, longest, window)
    for row, (queries, _) in enumerate(rows):
        part = slice(starts[row], starts[row + 1])
        ends = torch.tensor([0, queries])
        alone = attention_paged(q[part], k, v, tables[row : row + 1], ends, lengths[row : row + 1], queries, window)
        assert torch.equal(alone, together[part])


def test_large_scores_stay_finite(isa):
    q, k, v, *rest = bench.make(bench.TEST_CASES["decode"], torch.float32)
    prove(bench.compare((q * 8, k * 8, v, *rest)), torch.float32)


def test_takes_strides(isa):
    q, k, v, *rest = bench.make(bench.TEST_CASES["several queries"], torch.bfloat16)
    wide = torch.cat([q, q + 1], dim=1)[:, : q.size(1)]
    both = torch.stack([k, v], dim=1)
    assert torch.equal(attention_paged(wide, both[:, 0], both[:, 1], *rest), attention_paged(q, k, v, *rest))


def test_threads_do_not_change_bits():
    inputs = bench.make(bench.TEST_CASES["many queries"], torch.bfloat16)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(attention_paged(*inputs))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


def test_operator_is_registered_right():
    inputs = bench.make(bench.TEST_CASES["several queries"], torch.float32)
    torch.library.opcheck(torch.ops.pynanochat.attention_paged.default, inputs)


def test_compiles_without_a_graph_break():
    q, *rest = bench.make(bench.TEST_CASES["decode"], torch.float32)
    f = lambda q: attention_paged(2 * q, *rest).square()  # noqa: E731
    torch.testing.assert_close(torch.compile(f, fullgraph=True)(q), f(q))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tables": torch.full((3, 8), 99)}, r"tables\[0, 0\] = 99 is not in \[0"),
        ({"tables": torch.zeros(3, 8, dtype=torch.int32)}, "tables must be dense int64"),
        ({"lengths": torch.tensor([5, 400, 64])}, "row 1: 3 queries at the end of 400 tokens in 8 pages of 8"),
        ({"lengths": torch.tensor([4, 40, 64])}, "row 0: 5 queries at the end of 4 tokens"),
        ({"starts": torch.tensor([0, 5, 8, 16])}, "starts must lead"),
        ({"v_pages": torch.zeros(17, 8, 1, 24, dtype=torch.bfloat16)}, "v_pages must have the dtype of q"),
        ({"k_pages": torch.zeros(17, 8, 3, 24)}, "no multiple"),
    ],
)
def test_names_what_is_wrong(changed, message):
    names = ("q", "k_pages", "v_pages", "tables", "starts", "lengths", "longest", "window")
    inputs = dict(zip(names, bench.make(bench.TEST_CASES["several queries"], torch.float32), strict=True))
    with pytest.raises(ValueError, match=message):
        attention_paged(**inputs | changed)
