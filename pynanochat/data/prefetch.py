"""Makes batches ahead on another thread, so that reading, tokenizing and packing cost a GPU no time.

loader = Prefetch(PackedLoader(...), ahead=2)
for rows in loader: ...                 # the same batches
state = loader.state_dict()             # of the batches that were given, not of those made ahead
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor


class Prefetch:
    """An iterator over a loader's batches with `ahead` of them made in advance. Only this object may use the loader."""

    def __init__(self, loader, ahead: int = 2):
        if ahead < 1:
            raise ValueError(f"ahead {ahead}: at least 1")
        self.loader, self.ahead = loader, ahead
        self._pool = ThreadPoolExecutor(1, "prefetch")
        self._coming: deque[Future] = deque()
        self._snapshot, self._metrics = loader.snapshot(), _metrics(loader)

    def __iter__(self) -> Iterator:
        return self

    def __next__(self):
        """The next batch; what the loader raises is raised here, in its turn."""
        while len(self._coming) <= self.ahead:
            self._coming.append(self._pool.submit(self._make))
        batch, self._snapshot, self._metrics = self._coming.popleft().result()
        return batch

    def _make(self) -> tuple:
        return next(self.loader), self.loader.snapshot(), _metrics(self.loader)

    def metrics(self) -> dict[str, float]:
        """The loader's metrics after the batch that was given last; none where it has none."""
        return self._metrics

    def state_dict(self) -> dict:
        """The loader's state after the batch that was given last."""
        return self._snapshot()

    def load_state_dict(self, state: dict) -> None:
        """Drop what was made ahead and continue where `state` was taken."""
        while self._coming:
            self._coming.popleft().exception()  # wait: the loader must be at rest
        self.loader.load_state_dict(state)
        self._snapshot, self._metrics = self.loader.snapshot(), _metrics(self.loader)

    def close(self) -> None:
        """Stop the thread. Batches made ahead are lost."""
        self._pool.shutdown(cancel_futures=True)


def _metrics(loader) -> dict[str, float]:
    return loader.metrics() if hasattr(loader, "metrics") else {}
