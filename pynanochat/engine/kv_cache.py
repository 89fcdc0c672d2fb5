"""The keys and values of the tokens seen so far, a row for each sequence, rows of different lengths side by side.

B rows in use, S slots, G key/value heads, D head dim, C width.

    cache = KVCache(config, dtype, device)
    cache.open(1)                           a new empty row
    model(ids, cache=cache)                 writes ids' keys and values, moves `lengths` on
    batch.append(cache, times=4)            four samples of one prefill
    batch.remove(2)                         the last row takes the place of row 2

Rows in use are always 0 ... B-1, so that a step computes nothing for rows that are done. Storage grows in both
directions and never shrinks; layers with a window keep everything.
"""

import torch

SLOT_STEP = 256


class KVCache:
    """What the model expects of a cache: lengths (B,), previous (B, C) or None, update, advance."""

    def __init__(self, config, dtype, device):
        self.config, self.dtype, self.device = config, dtype, device
        self.counts: list[int] = []
        """`lengths` as Python knows them, so that asking costs no transfer from a GPU."""
        self.lengths = torch.zeros(0, dtype=torch.int64, device=device)
        self.previous = None
        self._at = None
        shape = (0, 0, config.n_kv_head, config.head_dim)
        self._keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.n_layer)]
        self._values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.n_layer)]

    @property
    def rows(self) -> int:
        return len(self.counts)

    def open(self, rows: int) -> None:
        """Add `rows` empty rows."""
        self.counts += [0] * rows
        self._sync_lengths()

    def update(self, layer: int, k, v):
        """Put k and v (B, T, G, D) behind each row's length; all keys and values (B, longest + T, G, D) of `layer`."""
        positions = k.size(1)
        slots = max(self.counts) + positions
        self._reserve(layer, self.rows, slots)
        if self._at is None or self._at[1].size(1) != positions:  # once for all layers of a forward pass
            row = torch.arange(self.rows, device=self.device)[:, None]
            self._at = row, self.lengths[:, None] + torch.arange(positions, device=self.device)
        stored = []
        for storage, new in ((self._keys[layer], k), (self._values[layer], v)):
            storage[self._at] = new
            stored.append(storage[: self.rows, :slots])
        return stored

    def advance(self, positions: int) -> None:
        """Every row is `positions` longer."""
        self.counts = [count + positions for count in self.counts]
        self.lengths = self.lengths + positions
        self._at = None

    def append(self, other: "KVCache", times: int = 1) -> None:
        """Add every row of `other`, each `times` times in a row."""
        if not other.rows:
            return
        first, rows = self.rows, self.rows + other.rows * times
        longest = max(other.counts)
        for layer in range(self.config.n_layer):
            self._reserve(layer, rows, max([*self.counts, longest]))
            for mine, theirs in ((self._keys, other._keys), (self._values, other._values)):
                new = theirs[layer][: other.rows, :longest].repeat_interleave(times, dim=0)
                mine[layer][first:rows, :longest] = new
        if other.previous is not None:
            new = other.previous.repeat_interleave(times, dim=0)
            self.previous = new if self.previous is None else torch.cat([self.previous, new])
        self.counts += [count for count in other.counts for _ in range(times)]
        self._sync_lengths()

    def remove(self, row: int) -> None:
        """Give up `row`; the last row moves to its place."""
        last = self.rows - 1
        if row != last:
            for storage in (*self._keys, *self._values):
                storage[row, : self.counts[last]] = storage[last, : self.counts[last]]
            self.counts[row] = self.counts[last]
        if self.previous is not None:
            self.previous = self.previous.clone()
            self.previous[row] = self.previous[last]
            self.previous = self.previous[:last] if last else None
        self.counts.pop()
        self._sync_lengths()

    def _sync_lengths(self):
        self._at = None
        self.lengths = torch.tensor(self.counts, dtype=torch.int64, device=self.device)

    def _reserve(self, layer, rows, slots):
        """Room for `rows` and `slots` in a layer. New room is zero: a mask cannot hide a NaN from the weighted sum."""
        have_rows, have_slots = self._keys[layer].shape[:2]
        if rows <= have_rows and slots <= have_slots:
            return
        if slots > have_slots:
            slots = -(-slots // SLOT_STEP) * SLOT_STEP
            slots = max(slots, min(have_slots * 3 // 2, self.config.sequence_len))
        shape = (max(rows, have_rows), max(slots, have_slots), *self._keys[layer].shape[2:])
        for storages in (self._keys, self._values):
            grown = torch.zeros(shape, dtype=self.dtype, device=self.device)
            grown[:have_rows, :have_slots] = storages[layer]
            storages[layer] = grown
