"""Which pages are in use, by how many sequences, and what the others still hold.

A page is in one of three states: free; used by so many sequences; or idle: used by none, but what it holds has a name
(the hash of all tokens up to its end), so that a sequence with the same beginning may take it up again. Idle pages are
given away, the longest idle first, once no free one is left.
"""

from collections import Counter, OrderedDict

from pynanochat.errors import EngineError


class PagePool:
    """`size` pages, numbered from 0; numbers that were never used are given out last, so storage can grow with need."""

    def __init__(self, size: int):
        self.size = size
        self.begun = 0
        """Pages that have ever been given out are those below."""
        self._free: list[int] = []
        self._uses: dict[int, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._page_of: dict[bytes, int] = {}
        self._name_of: dict[int, bytes] = {}

    @property
    def used(self) -> int:
        return len(self._uses)

    @property
    def idle(self) -> int:
        return len(self._idle)

    @property
    def available(self) -> int:
        """Pages that `take` can still give."""
        return self.size - len(self._uses)

    def take(self) -> int:
        """A page for one user. Raises KeyError where none is available."""
        if self._free:
            page = self._free.pop()
        elif self.begun < self.size:
            page = self.begun
            self.begun += 1
        else:
            page, _ = self._idle.popitem(last=False)
            del self._page_of[self._name_of.pop(page)]
        self._uses[page] = 1
        return page

    def share(self, page: int) -> None:
        """One user more, of a page that is used or idle."""
        self._idle.pop(page, None)
        self._uses[page] = self._uses.get(page, 0) + 1

    def give_back(self, page: int) -> None:
        """One user less."""
        self._uses[page] -= 1
        if self._uses[page]:
            return
        del self._uses[page]
        if page in self._name_of:
            self._idle[page] = None
        else:
            self._free.append(page)

    def name(self, page: int, name: bytes) -> None:
        """Let `page`, which is full, be found by `name`, unless another page already is."""
        if name not in self._page_of and page not in self._name_of:
            self._page_of[name], self._name_of[page] = page, name

    def find(self, name: bytes) -> int | None:
        """The page of that name."""
        return self._page_of.get(name)

    def check(self, users: Counter) -> None:
        """Raise EngineError unless everything agrees with itself and with `users`: page -> sequences that hold it."""
        if self._uses != dict(users):
            wrong = sorted(p for p in {*self._uses, *users} if self._uses.get(p, 0) != users[p])
            raise EngineError(f"pages {wrong[:8]} are counted as used by others than the sequences that hold them")
        states = Counter([*self._free, *self._uses, *self._idle])
        if sorted(states) != list(range(self.begun)) or any(count > 1 for count in states.values()):
            raise EngineError(f"{self.begun} pages were given out: not each is either free, used or idle")
        if self._page_of != {name: page for page, name in self._name_of.items()}:
            raise EngineError("names and pages do not belong to each other")
        unnamed, free = set(self._idle) - set(self._name_of), set(self._free) & set(self._name_of)
        if unnamed or free or self.begun > self.size:
            raise EngineError(f"idle pages {sorted(unnamed)} have no name, or free ones {sorted(free)} have one")
