"""attention_paged on its GPU backends: queries of many rows over pages, cases from bench_attention_paged.

R rows, H query heads, G key/value heads, D head dim, M entries of a table.
"""

import functools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pynanochat.bench import bench_attention_paged as bench
from pynanochat.ops import attention_paged
from pynanochat.ops.attention_paged import attention_paged_reference
from pynanochat.ops.backends import implementations
from tests.kernels.on_gpu import test_a_hundred_times, test_in_a_graph, test_on_a_stream_of_its_own  # noqa: F401

OP = "attention_paged"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
ONE_QUERY = {  # (queries, tokens) of each row; H, G, D, page, window
    "one token": ([(1, 1)], 2, 2, 16, 4, -1),
    "decode": ([(1, 7), (1, 150)], 2, 1, 32, 16, -1),
    "rows of many lengths": ([(1, 7), (1, 50), (1, 16), (1, 17)], 4, 4, 32, 16, -1),
    "in a window": ([(1, 7), (1, 50), (1, 64), (1, 33)], 4, 2, 32, 16, 20),
    "window of itself": ([(1, 9), (1, 8)], 2, 2, 16, 4, 0),
    "splits": ([(1, 300), (1, 2), (1, 129)], 2, 2, 64, 16, -1),
    "splits in a window": ([(1, 400), (1, 3)], 2, 1, 64, 16, 290),
    "three of a group": ([(1, 150), (1, 31)], 6, 2, 64, 16, -1),
    "group of twenty": ([(1, 30), (1, 100)], 20, 1, 16, 16, -1),
    "head of 96": ([(1, 40), (1, 5)], 4, 2, 96, 16, 25),
    "head of 128": ([(1, 70), (1, 33)], 2, 1, 128, 16, -1),
    "head of 256": ([(1, 40)], 2, 1, 256, 16, -1),
    "odd head, odd page": ([(1, 30), (1, 150)], 6, 2, 33, 5, -1),
    "tiny head": ([(1, 40)], 3, 3, 3, 16, -1),
    "rows without a query": ([(0, 20), (1, 20), (0, 3), (1, 140), (0, 1)], 2, 2, 16, 8, -1),
}
MORE_QUERIES = {
    "several queries": ([(5, 5), (3, 40), (9, 64)], 2, 1, 24, 8, 11),
    "window of itself": ([(1, 9), (3, 9)], 2, 2, 16, 4, 0),
    "mixed": ([(40, 150), (1, 90), (0, 20), (8, 8), (1, 100)], 2, 1, 16, 16, -1),
    "mixed in a window": ([(30, 100), (1, 100), (0, 3)], 4, 2, 64, 16, 50),
    "many queries in a long window": ([(40, 300)], 2, 1, 16, 16, 200),
    "large head": ([(1, 40), (30, 60)], 1, 1, 256, 16, 25),
    "tiny head": ([(1, 40), (3, 60)], 3, 3, 3, 16, -1),
}


def make(case, dtype, device):
    """The inputs, tables and pages holding -1 and NaN where no query sees them."""
    return [x.to(device) if isinstance(x, torch.Tensor) else x for x in bench.make(case, dtype)]


def example(backend, device):
    q, k, v, *rest = make(([(1, 700), (1, 300), (1, 1)], 6, 2, 128, 16, -1), torch.bfloat16, device)
    return lambda q, k, v: implementations(OP)[backend](q, k, v, *rest), [q, k.nan_to_num(), v.nan_to_num()]


def doubles(inputs):
    return [x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in inputs]


def largest_score(q, k):
    """A bound, as the CUDA kernel sums its scores one by one. What lies past the end of a row, 1e4, does not count."""
    return (q.double().abs().max() * k.double().nan_to_num().clamp(-10, 10).abs().max() * q.size(-1) ** 0.5).item()


def check(backend, no_worse, inputs, largest_logit=0.0):
    before = [x.clone() for x in inputs[:6]]
    ours = implementations(OP)[backend](*inputs)
    assert ours.is_contiguous()
    if backend == "cuda":
        largest_logit = max(largest_logit, largest_score(*inputs[:2]))
    truth = attention_paged_reference(*doubles(inputs))
    no_worse("out", ours, attention_paged_reference(*inputs), truth, largest_logit)
    assert all(torch.equal(x.nan_to_num(), y.nan_to_num()) for x, y in zip(before, inputs[:6], strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", ONE_QUERY.values(), ids=ONE_QUERY)
def test_one_query_a_row(backend, device, no_worse, case, dtype):
    check(backend, no_worse, make(case, dtype, device))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", MORE_QUERIES.values(), ids=MORE_QUERIES)
def test_more_queries(backend, device, no_worse, case, dtype):
    """Which the cuda backend refuses; where it is the default, another does them."""
    inputs = make(case, dtype, device)
    if backend != "cuda":
        return check(backend, no_worse, inputs)
    with pytest.raises(ValueError, match="takes rows of one"):
        implementations(OP)[backend](*inputs)


@pytest.mark.parametrize("case", ["decode", "in a window", "splits in a window"])
def test_table_entries_that_are_not_needed_may_be_anything(backend, device, case):
    inputs = make(ONE_QUERY[case], torch.float32, device)
    expected = implementations(OP)[backend](*inputs)
    assert (inputs[3] == -1).any() and inputs[1].isnan().any()
    inputs[3] = torch.where(inputs[3] == -1, 2**62, inputs[3])
    assert torch.equal(implementations(OP)[backend](*inputs), expected) and expected.isfinite().all()


def test_tables_longer_than_any_row(backend, device, no_worse):
    """As a CUDA graph has them: the splits are for more tokens than there are, so most of them are empty."""
    q, k, v, tables, *rest = make(ONE_QUERY["decode"], torch.float32, device)
    longer = torch.cat([tables, torch.full((2, 40), -1, device=device)], dim=1)
    ours = implementations(OP)[backend](q, k, v, longer, *rest)
    inputs = (q, k, v, tables, *rest)
    no_worse("out", ours, attention_paged_reference(*inputs), attention_paged_reference(*doubles(inputs)))


def test_rows_that_only_fill_a_graph_give_zeros(backend, device):
    q, k, v, tables, starts, lengths, *rest = make(ONE_QUERY["decode"], torch.float32, device)
    lengths[0] = 0
    for columns in (tables, torch.cat([tables, torch.full((2, 40), -1, device=device)], dim=1)):
        out = implementations(OP)[backend](q, k, v, columns, starts, lengths, *rest)
        assert not out[0].any() and out[1].any() and out.isfinite().all()


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_strides(backend, device, no_worse, dtype):
    """q out of a joint projection and with channels two apart; keys and values interleaved in one storage, turned, with
    channels two apart, or off 16 bytes."""
    case = ONE_QUERY["splits"] if backend == "cuda" else MORE_QUERIES["several queries"]
    q, k, v, *rest = make(case, dtype, device)
    joint = torch.cat([q, q + 1], dim=1)[:, : q.size(1)]
    both = torch.stack([k, v], dim=1)
    check(backend, no_worse, [joint, both[:, 0], both[:, 1], *rest])
    apart = torch.stack([q, q], dim=-1)[..., 0]
    turned = k.transpose(1, 2).contiguous().transpose(1, 2)
    check(backend, no_worse, [apart, turned, v, *rest])
    off = torch.empty(k.numel() + 1, dtype=dtype, device=device)[1:].view(k.shape).copy_(k)
    check(backend, no_worse, [q, off, v, *rest])


def test_large_scores_stay_finite(backend, device, no_worse):
    q, k, v, *rest = make(ONE_QUERY["splits"], torch.float32, device)
    check(backend, no_worse, [q * 8, k * 8, v, *rest], largest_logit=300.0)


def test_no_queries(backend, device):
    q, k, v, tables, starts, *rest = make(ONE_QUERY["decode"], torch.float32, device)
    assert implementations(OP)[backend](q[:0], k, v, tables, 0 * starts, *rest).shape == (0, 2, 32)


class _Asks(TorchDispatchMode):
    """Fails at the operations that make the host wait for a value."""

    WAIT = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "unique", "masked_select")

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert not any(word in function.name() for word in self.WAIT), function
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("case", "kernels"), [("one token", 1), ("splits", 2)])
def test_asks_no_tensor_for_its_value(backend, device, monkeypatch, case, kernels):
    """Twice over: no operation that waits is called, and the glue and launcher work on tensors that have no values."""
    inputs = make(ONE_QUERY[case], torch.float32, device)
    with _Asks():
        implementations(OP)[backend](*inputs)
    if backend == "triton":
        from pynanochat.kernels import attention_paged as kernel

        launches = []
        for name in ("attend_kernel", "combine_kernel"):
            launch = lambda *x, of=name, **constants: launches.append(of)  # noqa: E731
            monkeypatch.setattr(kernel, name, _Launcher(launch))
        out = kernel.forward(*(x.to("meta") if isinstance(x, torch.Tensor) else x for x in inputs))
        assert out.is_meta and out.shape == inputs[0].shape
        assert launches == ["attend_kernel", "combine_kernel"][:kernels]


class _Launcher:
    def __init__(self, launch):
        self.launch = launch

    def __getitem__(self, grid):
        assert all(isinstance(size, int) and size > 0 for size in grid)
        return self.launch


def test_public_op(backend, device, no_worse, monkeypatch):
    monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)
    inputs = make(ONE_QUERY["splits"], torch.bfloat16, device)
    truth = attention_paged_reference(*doubles(inputs))
    no_worse("out", attention_paged(*inputs), attention_paged_reference(*inputs), truth)


def test_operator_is_registered_right(backend, device, monkeypatch):
    monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)
    inputs = make(ONE_QUERY["rows of many lengths"], torch.float32, device)
    torch.library.opcheck(torch.ops.pynanochat.attention_paged.default, inputs)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"tables": torch.zeros(4, 8, dtype=torch.int32)}, "tables must be dense int64"),
        ({"tables": torch.zeros(8, 4, dtype=torch.int64).T}, "tables must be dense int64"),
        ({"starts": torch.tensor([0, 5, 8])}, "starts (has shape|must be dense int64 of 5 rows)"),
        ({"v_pages": torch.zeros(11, 16, 4, 32, dtype=torch.bfloat16)}, "v_pages must have the dtype of q"),
        ({"k_pages": torch.zeros(8, 16, 3, 32)}, "no multiple|alike|differ in shape"),
        ({"q": torch.zeros(4, 4, 32, dtype=torch.int64)}, "q has dtype|dtype"),
    ],
)
def test_names_what_is_wrong(backend, device, changed, message):
    names = ("q", "k_pages", "v_pages", "tables", "starts", "lengths", "longest", "window")
    inputs = dict(zip(names, make(ONE_QUERY["rows of many lengths"], torch.float32, device), strict=True))
    with pytest.raises(ValueError, match=message):
        implementations(OP)[backend](**inputs | {name: x.to(device) for name, x in changed.items()})


@pytest.mark.gpu
@pytest.mark.parametrize("case", bench.BENCH_CASES.values(), ids=bench.BENCH_CASES)
def test_real_sizes(backend, no_worse, case):
    check(backend, no_worse, make(case, torch.bfloat16, "cuda"))


@pytest.mark.gpu
def test_a_cuda_graph_follows_the_lengths(backend, no_worse):
    """Captured once, replayed with other lengths, tables and queries in the same tensors; nothing waits for the GPU."""
    run = functools.partial(implementations(OP)[backend], longest=1, window=-1)
    inputs = make(([(1, 700), (1, 300)], 6, 6, 128, 16, -1), torch.bfloat16, "cuda")[:6]
    run(*inputs)  # compiles
    torch.cuda.set_sync_debug_mode("error")
    try:
        run(*inputs)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = run(*inputs)
    other = make(([(1, 20), (1, 699)], 6, 6, 128, 16, -1), torch.bfloat16, "cuda")[:6]
    pages = min(inputs[1].size(0), other[1].size(0))
    assert other[3].max() < pages
    for old, new in zip(inputs, other, strict=True):
        old.narrow(0, 0, min(len(old), len(new))).copy_(new.narrow(0, 0, min(len(old), len(new))))
    graph.replay()
    now = (*inputs, 1, -1)
    no_worse("out", out, attention_paged_reference(*now), attention_paged_reference(*doubles(now)))


@pytest.mark.gpu
def test_pages_beyond_32_bits(backend, no_worse):
    """Keys whose place in the storage is past 2^31 elements, or as far as the card holds."""
    pages = min(2**31 // (16 * 128) + 8, torch.cuda.mem_get_info()[0] // 8 // (16 * 128))
    q, k, v, tables, *rest = make(([(1, 100)], 1, 1, 128, 16, -1), torch.bfloat16, "cuda")
    wide = [torch.empty(pages, 16, 1, 128, dtype=torch.bfloat16, device="cuda") for _ in range(2)]
    for x, small in zip(wide, (k, v), strict=True):
        x[-len(small) :] = small
    ours = implementations(OP)[backend](q, *wide, tables + pages - len(k), *rest)
    inputs = (q, k, v, tables, *rest)
    no_worse("out", ours, attention_paged_reference(*inputs), attention_paged_reference(*doubles(inputs)))
