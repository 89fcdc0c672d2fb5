"""Tests that a GPU backend of any op has to pass, for the files here to import: on a stream of its own, many times
over, and in a CUDA graph.

    from tests.kernels.on_gpu import test_a_hundred_times, test_in_a_graph, test_on_a_stream_of_its_own  # noqa: F401

The file has `example(backend, device)`: a function, and the tensors that it reads and leaves as they are.
"""

import pytest
import torch

SLEEP = 50_000_000  # cycles, some 30 ms


def flat(result) -> list:
    """The tensors of a result, which may be one or nested tuples and lists of them."""
    if isinstance(result, torch.Tensor):
        return [result]
    return [] if result is None else [x for part in result for x in flat(part)]


def check_alike(ours, theirs):
    """Equal but for a few roundings: on another stream or in a graph cuBLAS may sum in another order."""
    assert len(ours) == len(theirs) > 0
    for mine, other in zip(ours, theirs, strict=True):
        if mine.is_floating_point() and mine.numel():
            limit = 4 * torch.finfo(mine.dtype).eps * other.double().abs().max()
            assert (mine.double() - other.double()).abs().max() <= limit
        else:
            assert torch.equal(mine, other)


@pytest.mark.gpu
def test_on_a_stream_of_its_own(request, backend, device):
    """Behind work that is still running there: a launch on another stream would find nothing ready."""
    function, given = request.module.example(backend, device)
    expected = flat(function(*given))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        late = [torch.zeros_like(x) for x in given]
        torch.cuda._sleep(SLEEP)
        for x, value in zip(late, given, strict=True):
            x.copy_(value)
        ours = flat(function(*late))
    stream.synchronize()
    check_alike(ours, expected)


@pytest.mark.gpu
def test_a_hundred_times(request, backend, device):
    """The same bits every time."""
    function, given = request.module.example(backend, device)
    first = flat(function(*given))
    for _ in range(100):
        assert all(map(torch.equal, flat(function(*given)), first))


@pytest.mark.gpu
def test_in_a_graph(request, backend, device):
    """Captured once it is warm, and replayed on other values in the same tensors."""
    function, given = request.module.example(backend, device)
    other = [x.flip(0) if x.is_floating_point() else x.clone() for x in given]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        before, expected = flat(function(*given)), flat(function(*other))
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            ours = flat(function(*given))
        for x, value in zip(given, other, strict=True):
            x.copy_(value)
        graph.replay()
    stream.synchronize()
    assert not all(map(torch.equal, before, expected)), "the values make no difference"
    check_alike(ours, expected)
