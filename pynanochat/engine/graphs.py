"""Whole decoding steps as CUDA graphs: one token of each of R rows, in one copy to the GPU and one launch.

R rows of a step, S rows of a graph (the smallest size that holds R), M entries of a row's table, V vocabulary.

    graphs = DecodeGraphs(model, cache, most_rows=64)
    if graphs.takes(layout):
        logits = graphs.run(layout)            # (R, V); overwritten by the next run

A step of a small model is hundreds of launches of a few microseconds each; replayed they follow each other on the GPU
without the host, which is itself a step ahead: ids that only the GPU knows are looked up within the graph. A graph
reads and writes fixed addresses: the step's integers lie in one static buffer, the cache gets all of its pages at once,
and rows beyond R are padding: id 0 at position 0, whose keys and values go to a page that no sequence has. A size is
captured once it has been used WARM times: short runs, and the first calls of kernels, which compile and allocate, stay
outside.

What a graph runs must ask the GPU for nothing and have shapes that do not depend on values. tests/engine/test_graphs.py
watches that, with a stand-in for CudaGraph; it has not run on a GPU yet.
"""

import torch

from pynanochat.engine.paged_cache import Layout, Pass
from pynanochat.ops import backends

NAME = "decode_graphs"  # among what is verified
WARM = 12  # eager steps of a size before it is captured, which takes about as long


class CudaGraph:
    """torch.cuda.CUDAGraph of a function without arguments. It shares the memory of `beside`, a graph that is captured:
    neither runs while the other does, and what one gives is used up before the other runs."""

    def __init__(self, device, beside=None):
        self._device, self._graph = device, torch.cuda.CUDAGraph()
        self._pool = beside._graph.pool() if beside else None

    def capture(self, function):
        """Record what `function` launches; its result, which every replay fills anew. Other threads may go on using
        the GPU, as one does that loads another model."""
        record = torch.cuda.graph(self._graph, pool=self._pool, capture_error_mode="thread_local")
        with torch.cuda.device(self._device), record:
            return function()

    def replay(self) -> None:
        self._graph.replay()


def pay_off(model) -> bool:
    """Whether decoding steps of `model` can be graphs and gain by it: on a GPU where `pynanochat bench gpu` has seen
    them to be right, with a paged attention that reads as many pages as a row has; torch's reads whole tables."""
    weight = model.lm_head.weight
    if weight.device.type != "cuda" or backends.choose("attention_paged", weight) == "reference":
        return False
    return (NAME, "cuda") in backends.verified(backends.architecture(weight.device.index or 0))


class DecodeGraphs:
    """The graphs of one model and its cache, by number of rows. `graph` makes an object like CudaGraph."""

    def __init__(self, model, cache, most_rows: int, graph=CudaGraph):
        self.model, self.cache, self._graph = model, cache, graph
        self.sizes = ladder(most_rows)
        self.columns = -(-model.config.sequence_len // cache.page)
        self._steps: dict[int, _Step] = {}
        self._first = None  # the first graph, whose memory the others share
        self._uses = dict.fromkeys(self.sizes, 0)

    def takes(self, layout: Layout) -> bool:
        """Whether this pass is a decoding step of a size that is captured, or is to be by now."""
        rows = len(layout.lengths)
        if layout.longest != 1 or rows != len(layout.ids) or not 0 < rows <= self.sizes[-1]:
            return False
        size = self._size(rows)
        self._uses[size] += 1
        return self._uses[size] > WARM

    def run(self, layout: Layout) -> torch.Tensor:
        """The logits (R, V) of the layout's rows."""
        size = self._size(len(layout.lengths))
        if size not in self._steps:
            step = _Step(self.model, self.cache, size, self.columns, self.cache.take_all_room())
            graph = self._graph(self.cache.device, self._first)
            step.capture(layout, graph)
            self._steps[size], self._first = step, self._first or graph
        return self._steps[size].run(layout)

    def _size(self, rows):
        return next(size for size in self.sizes if size >= rows)


def ladder(most: int) -> list[int]:
    """1, 2, 4, ... up to the first that holds `most` rows."""
    sizes = [1]
    while sizes[-1] < most:
        sizes.append(2 * sizes[-1])
    return sizes


class _Host:
    """Integers (total,) on their way to a GPU, in memory that it reads by itself."""

    def __init__(self, total: int, on_gpu: bool):
        self.integers = torch.zeros(total, dtype=torch.int64, pin_memory=on_gpu)
        self._copied = torch.cuda.Event() if on_gpu else None

    def send(self, buffer: torch.Tensor) -> None:
        """Have them copied to the buffer by the GPU, in its own time."""
        buffer.copy_(self.integers, non_blocking=True)
        if self._copied is not None:
            self._copied.record(torch.cuda.current_stream(buffer.device))

    def wait(self) -> None:
        """Until they may be changed: until they are copied, if they were sent."""
        if self._copied is not None:
            self._copied.synchronize()


class _Step:
    """The decoding step of S rows: its buffer, and its graph once it is captured.

    The buffer holds ids, previous, positions and lengths (S,), then for each group of layers slots (S,) and a table
    (S, M), all int64. The host fills one of two buffers while the GPU may still copy from the other.
    """

    def __init__(self, model, cache, size: int, columns: int, spare: list[int]):
        self.model, self.cache, self.size, self.spare = model, cache, size, spare
        groups = len(cache.groups)
        total = size * (4 + groups * (1 + columns))
        on_gpu = cache.device.type == "cuda"
        self._hosts = [_Host(total, on_gpu) for _ in range(2)]
        self._buffer = torch.zeros(total, dtype=torch.int64, device=cache.device)
        self._numbers = {host: _parts(host.integers.numpy(), size, groups, columns) for host in self._hosts}
        self._inputs = _parts(self._buffer, size, groups, columns)
        self._starts = torch.arange(size + 1, device=cache.device)
        self._logits = self._replay = None

    def capture(self, layout: Layout, graph) -> None:
        self._put(layout)
        self.forward()  # kernels for this number of rows are compiled and loaded here, which a capture does not allow
        self._logits = graph.capture(self.forward)
        self._replay = graph.replay

    def run(self, layout: Layout) -> torch.Tensor:
        self._put(layout)
        self._replay()
        return self._logits[: len(layout.lengths)]

    def forward(self) -> torch.Tensor:
        """What is captured: the logits (S, V) of what the buffer holds."""
        ids, previous, positions, lengths, slots, tables = self._inputs
        part = Pass(self.cache, positions, previous, self._starts, lengths, 1, tables, slots)
        return self.model(self.cache.drawn.of(ids)[:, None], cache=part).squeeze(1)

    def _put(self, layout: Layout) -> None:
        """Fill the buffer: the layout's rows, then padding."""
        rows = len(layout.lengths)
        self._hosts.reverse()
        host = self._hosts[0]
        host.wait()
        ids, previous, positions, lengths, slots, tables = self._numbers[host]
        for mine, given, padding in (
            (ids, layout.ids, 0),
            (previous, layout.previous, -1),
            (positions, layout.positions, 0),
            (lengths, layout.lengths, 1),
            *zip(slots, layout.slots, [page * self.cache.page for page in self.spare], strict=True),
        ):
            mine[:rows], mine[rows:] = given, padding
        for table, given, spare in zip(tables, layout.tables, self.spare, strict=True):
            table[:rows, : given.shape[1]] = given
            table[rows:] = spare
        host.send(self._buffer)


def _parts(whole, size: int, groups: int, columns: int):
    """Views of a buffer: ids, previous, positions, lengths, and for each group its slots and its table."""
    ids, previous, positions, lengths = (whole[i * size : (i + 1) * size] for i in range(4))
    rest = whole[4 * size :]
    slots = [rest[i * size : (i + 1) * size] for i in range(groups)]
    rest = rest[groups * size :]
    tables = [rest[i * size * columns : (i + 1) * size * columns].reshape(size, columns) for i in range(groups)]
    return ids, previous, positions, lengths, slots, tables
