"""The keys and values of the tokens seen so far, in pages that sequences share wherever they begin alike.

R sequences, N tokens of one forward pass, G key/value heads, D head dim, page: tokens of a page.

    cache = PagedCache(config, dtype, device, tokens=32768)
    sequence = cache.open(ids)                          takes up the pages of as much of ids as is cached
    cache.reserve(sequence, 40)                         pages for 40 more tokens; False where memory is short
    ids, part = cache.plan([(sequence, ids, 40), ...])  what the model reads in one forward pass
    logits = model(ids, cache=part, at=places)
    cache.advance(sequence, ids, 40)                    40 tokens more are cached, and others may find them
    cache.fork(sequence)                                another sequence with the same tokens
    cache.close(sequence)

Layers with the same window are a group with pages and tables of its own: what lies behind the window is given back. A
beginning counts as cached only where each group still has all that its window sees from there.
"""

import hashlib
from array import array
from collections import Counter

import numpy as np
import torch

from pynanochat.engine.flight import Drawn, sent
from pynanochat.engine.page_pool import PagePool
from pynanochat.errors import EngineError

PAGE = 16
ROOT = b""


class Sequence:
    """What the cache knows of one sequence."""

    def __init__(self, slot: int, groups: int):
        self.slot = slot
        """Its row in the tables."""
        self.length = 0
        """Tokens that are cached."""
        self.names: list[bytes] = []
        """Of its full pages: each a hash of all tokens up to the page's end."""
        self.pages: list[list[int]] = [[] for _ in range(groups)]
        """For each group its pages in order; -1 where it was given back."""


class _Group:
    """The layers with one window: storage, pages, and the tables of all sequences."""

    def __init__(self, window: int, layers: list[int], pool: PagePool, empty: torch.Tensor):
        self.window, self.pool = window, pool
        self.storage = {layer: (empty, empty) for layer in layers}
        """Keys and values (pages, page, G, D) of each layer: as many pages as have been needed so far."""
        self.tables = np.full((0, 0), -1, np.int64)  # (slots, pages of a sequence)

    @property
    def room(self) -> int:
        """Pages that there is storage for."""
        return next(iter(self.storage.values()))[0].size(0)

    def make_room(self) -> None:
        """Storage for every page that was given out: doubled where it is too small, up to the pool's size."""
        if self.pool.begun > self.room:
            self._grow(min(self.pool.size, max(self.pool.begun, 2 * self.room)))

    def take_all_room(self) -> int:
        """Storage for every page and for one more, which stays where it is; the number of that page."""
        if self.room <= self.pool.size:
            self._grow(self.pool.size + 1)
        return self.pool.size

    def _grow(self, pages):
        for layer, both in self.storage.items():
            grown = [x.new_zeros(pages, *x.shape[1:]) for x in both]
            for new, old in zip(grown, both, strict=True):
                new[: old.size(0)] = old
            self.storage[layer] = tuple(grown)

    def first_page(self, position: int, page: int) -> int:
        """The first page that a query at `position`, or a later one, sees."""
        return 0 if self.window < 0 else max(0, position - self.window) // page


class Layout:
    """The integers of one forward pass as NumPy arrays, int64: those of Pass, and the ids (N,) that the model reads. An
    id below 0 is one that only the device knows: its number in PagedCache.drawn."""

    def __init__(self, ids, previous, positions, starts, lengths, longest, tables, slots):
        self.ids, self.previous, self.positions = ids, previous, positions
        self.starts, self.lengths, self.longest = starts, lengths, longest
        self.tables, self.slots = tables, slots


class Pass:
    """One forward pass: what gpt.py expects of a cache."""

    def __init__(self, cache, positions, previous, starts, lengths, longest, tables, slots):
        self.cache = cache
        self.positions, self.previous = positions, previous  # (N,)
        self.starts, self.lengths, self.longest = starts, lengths, longest
        self.tables, self.slots = tables, slots  # of each group: (R, M) and (N,)

    def update(self, layer: int, k, v):
        """Put k and v (N, G, D) in their places; what ops.attention_paged takes between the queries and the window."""
        group = self.cache.group_of[layer]
        keys, values = self.cache.groups[group].storage[layer]
        for storage, new in ((keys, k), (values, v)):
            storage.view(-1, *storage.shape[2:]).index_copy_(0, self.slots[group], new)
        return keys, values, self.tables[group], self.starts, self.lengths, self.longest


class PagedCache:
    """Room for `tokens` tokens in the layers that see everything; a layer with a window has room for `windows` windows
    and for `burst` tokens of one pass more, or as much as the others if that is less."""

    def __init__(self, config, dtype, device, tokens: int, *, page: int = PAGE, windows: int = 64, burst: int = 512):
        self.device, self.page = torch.device(device), page
        self.drawn = Drawn(config.vocab_size, windows, self.device)
        self.groups: list[_Group] = []
        size = -(-tokens // page)
        empty = torch.zeros(0, page, config.n_kv_head, config.head_dim, dtype=dtype, device=device)
        windows_of = [config.window(layer) for layer in range(config.n_layer)]
        for window in dict.fromkeys(windows_of):
            seen = windows * (window // page + 2) + burst // page + 1
            pool = PagePool(size if window < 0 else min(size, seen))
            layers = [layer for layer, its in enumerate(windows_of) if its == window]
            self.groups.append(_Group(window, layers, pool, empty))
        self.group_of = [list(dict.fromkeys(windows_of)).index(window) for window in windows_of]
        self.sequences: set[Sequence] = set()
        self._slots: list[int] = []
        self._next_slot = 0

    @property
    def pages(self) -> int:
        """All pages, of all groups."""
        return sum(group.pool.size for group in self.groups)

    @property
    def used(self) -> int:
        """Pages that sequences hold."""
        return sum(group.pool.used for group in self.groups)

    @property
    def idle(self) -> int:
        """Pages that nobody holds, kept for what they hold."""
        return sum(group.pool.idle for group in self.groups)

    def holds(self, tokens: int, burst: int) -> bool:
        """Whether a sequence that grows to `tokens`, at most `burst` at a time, fits an otherwise empty cache."""
        most = [-(-tokens // self.page)] * len(self.groups)
        for i, group in enumerate(self.groups):
            if group.window >= 0:
                most[i] = min(most[i], (group.window + burst) // self.page + 2)
        return all(count <= group.pool.size for count, group in zip(most, self.groups, strict=True))

    def open(self, tokens, *, share: bool = True) -> Sequence:
        """A new sequence that already has what is cached of the beginning of `tokens`, short of the last one."""
        sequence = Sequence(self._slots.pop() if self._slots else self._next_slot, len(self.groups))
        self._next_slot = max(self._next_slot, sequence.slot + 1)
        self.sequences.add(sequence)
        if share:
            names = self._names(tokens)
            found = self._cached(names)
            sequence.names = names[:found]
            sequence.length = found * self.page
            for group, pages in zip(self.groups, sequence.pages, strict=True):
                first = min(group.first_page(sequence.length, self.page), found)
                pages += [-1] * first + [group.pool.find(name) for name in names[first:found]]
                for page in pages[first:]:
                    group.pool.share(page)
        self._fill_tables(sequence)
        return sequence

    def missing(self, sequence: Sequence, count: int) -> list[int]:
        """For each group the pages that `count` more tokens need."""
        needed = -(-(sequence.length + count) // self.page)
        return [max(0, needed - len(pages)) for pages in sequence.pages]

    def available(self, wanted: list[int]) -> bool:
        """Whether each group can give so many pages."""
        return all(group.pool.available >= count for group, count in zip(self.groups, wanted, strict=True))

    def reserve(self, sequence: Sequence, count: int) -> bool:
        """Pages for `count` more tokens of a sequence; False, and nothing has changed, where there are too few."""
        wanted = self.missing(sequence, count)
        if not any(wanted):
            return True
        if not self.available(wanted):
            return False
        for group, pages, more in zip(self.groups, sequence.pages, wanted, strict=True):
            pages += [group.pool.take() for _ in range(more)]
            group.make_room()
        self._fill_tables(sequence)
        return True

    def take_all_room(self) -> list[int]:
        """Give every page its storage for good, so that no address changes any more; and for each group the number of
        a page that no sequence ever has."""
        return [group.take_all_room() for group in self.groups]

    def plan(self, parts: list[tuple[Sequence, list[int], int]]) -> tuple[torch.Tensor, Pass]:
        """ids (N, 1) and the pass that runs, of each (sequence, its tokens, count), the next `count` tokens."""
        return self.on_device(self.layout(parts))

    def on_device(self, layout: Layout) -> tuple[torch.Tensor, Pass]:
        """ids (N, 1) and the pass that runs a layout."""
        x, groups = layout, len(self.groups)
        integers = [x.ids, x.positions, x.previous, x.starts, x.lengths, *x.tables, *x.slots]
        ids, positions, previous, starts, lengths, *rest = sent(integers, self.device)
        if (x.ids < 0).any():
            ids = self.drawn.of(ids)
        part = Pass(self, positions, previous, starts, lengths, x.longest, rest[:groups], rest[groups:])
        return ids[:, None], part

    def layout(self, parts: list[tuple[Sequence, list[int], int]]) -> Layout:
        """The integers of the pass that runs, of each (sequence, its tokens, count), the next `count` tokens."""
        ids, previous = array("q"), array("q")
        for sequence, tokens, count in parts:
            first = sequence.length
            if count == 1:
                ids.append(tokens[first])
                previous.append(tokens[first - 1] if first else -1)
            else:
                ids.extend(tokens[first : first + count])
                if not first:
                    previous.append(-1)
                previous.extend(tokens[max(first - 1, 0) : first + count - 1])
        firsts = np.array([sequence.length for sequence, _, _ in parts])
        counts = np.array([count for _, _, count in parts])
        starts = np.concatenate([[0], counts.cumsum()])
        positions = np.arange(len(ids)) + np.repeat(firsts - starts[:-1], counts)
        slot = np.array([sequence.slot for sequence, _, _ in parts])
        lengths, columns = firsts + counts, -(-int((firsts + counts).max()) // self.page)
        tables = [group.tables[slot, :columns] for group in self.groups]
        row, column = np.repeat(np.arange(len(parts)), counts), positions // self.page
        slots = [table[row, column] * self.page + positions % self.page for table in tables]
        ids, previous = (np.frombuffer(x, np.int64).copy() for x in (ids, previous))
        return Layout(ids, previous, positions, starts, lengths, int(counts.max()), tables, slots)

    def advance(self, sequence: Sequence, tokens, count: int) -> None:
        """A pass has run the next `count` of the sequence's `tokens`."""
        sequence.length += count
        full = sequence.length // self.page
        if len(sequence.names) < full:
            for i in range(len(sequence.names), full):
                before = sequence.names[-1] if i else ROOT
                sequence.names.append(_name(before, tokens[i * self.page : (i + 1) * self.page]))
                for group, pages in zip(self.groups, sequence.pages, strict=True):
                    group.pool.name(pages[i], sequence.names[-1])
        for group, pages in zip(self.groups, sequence.pages, strict=True):
            behind = group.first_page(sequence.length, self.page) - 1
            while behind >= 0 and pages[behind] >= 0:
                group.pool.give_back(pages[behind])
                pages[behind] = group.tables[sequence.slot, behind] = -1
                behind -= 1

    def fork(self, sequence: Sequence) -> Sequence | None:
        """One with the same tokens: full pages are shared, the last one is copied. None where memory is short."""
        part = sequence.length % self.page
        if part and not self.available([1] * len(self.groups)):
            return None
        full = sequence.length // self.page
        twin = self.open((), share=False)
        twin.length, twin.names = sequence.length, list(sequence.names)
        for group, pages, theirs in zip(self.groups, twin.pages, sequence.pages, strict=True):
            pages += theirs[:full]
            for page in pages:
                if page >= 0:
                    group.pool.share(page)
            if part:
                pages.append(group.pool.take())
                group.make_room()
                for both in group.storage.values():
                    for storage in both:
                        storage[pages[-1]] = storage[theirs[full]]
        self._fill_tables(twin)
        return twin

    def close(self, sequence: Sequence) -> None:
        """Give back all pages of a sequence, the last ones first, as those are the first to be worth nothing."""
        self.sequences.remove(sequence)
        for group, pages in zip(self.groups, sequence.pages, strict=True):
            for page in reversed(pages):
                if page >= 0:
                    group.pool.give_back(page)
            group.tables[sequence.slot, : len(pages)] = -1
        self._slots.append(sequence.slot)

    def check_integrity(self) -> None:
        """Raise EngineError where counts, tables, names and storage do not agree with each other."""
        slots = [sequence.slot for sequence in self.sequences]
        if sorted([*slots, *self._slots]) != list(range(self._next_slot)):
            raise EngineError("table rows are held twice, or by nobody")
        for i, group in enumerate(self.groups):
            group.pool.check(Counter(page for s in self.sequences for page in s.pages[i] if page >= 0))
            for sequence in self.sequences:
                self._check_sequence(group, sequence, sequence.pages[i])
            if any(x.size(0) < group.pool.begun for both in group.storage.values() for x in both):
                raise EngineError("pages were given out that have no storage")

    def _check_sequence(self, group, sequence, pages):
        held = len(pages) * self.page
        if not len(sequence.names) * self.page <= sequence.length <= held:
            raise EngineError(f"a sequence of {sequence.length} tokens has {len(pages)} pages of {self.page}")
        if any(page < 0 for page in pages[group.first_page(sequence.length, self.page) :]):
            raise EngineError("a page was given back that is still seen")
        row = group.tables[sequence.slot]
        if row[: len(pages)].tolist() != pages or (row[len(pages) :] >= 0).any():
            raise EngineError("a table does not name its sequence's pages")

    def _names(self, tokens) -> list[bytes]:
        """The names of the full pages of `tokens` that end before the last one."""
        names, before = [], ROOT
        for end in range(self.page, len(tokens), self.page):
            before = _name(before, tokens[end - self.page : end])
            names.append(before)
        return names

    def _cached(self, names: list[bytes]) -> int:
        """How many of the first pages need not be computed again."""
        found = len(names)
        for group in self.groups:
            if group.window < 0:
                found = next((i for i, name in enumerate(names[:found]) if group.pool.find(name) is None), found)
        while found and not all(
            group.pool.find(names[i]) is not None
            for group in self.groups
            for i in range(found - 1, group.first_page(found * self.page, self.page) - 1, -1)
        ):
            found -= 1
        return found

    def _fill_tables(self, sequence):
        for group, pages in zip(self.groups, sequence.pages, strict=True):
            rows, columns = group.tables.shape
            if sequence.slot >= rows or len(pages) > columns:
                shape = max(rows, 2 * sequence.slot + 1), max(columns, 2 * len(pages))
                tables = np.full(shape, -1, np.int64)
                tables[:rows, :columns] = group.tables
                group.tables = tables
            group.tables[sequence.slot, : len(pages)] = pages


def _name(before: bytes, tokens) -> bytes:
    return hashlib.blake2b(before + array("q", tokens).tobytes(), digest_size=16).digest()
