"""The toy world as a source for the loader: see sources.py for what a source does. A cursor is a document's index."""

import hashlib
from collections.abc import Iterator

from pynanochat.data.toyworld import DEFAULT_ENTITIES, VERSION, ToyWorld
from pynanochat.errors import DataError, UsageError

DEFAULT_MEGABYTES = 20.0
VALIDATION_DOCUMENTS = 1000


class ToyWorldSource:
    """The toy world as a source: see sources.py. megabytes: how much training text makes an epoch."""

    def __init__(self, seed: int = 0, megabytes: float | None = None, entities: int | None = None):
        self.name = "toyworld"
        self.megabytes = DEFAULT_MEGABYTES if megabytes is None else megabytes
        if not 0 < self.megabytes <= 1e6:
            raise UsageError(f"--toyworld-megabytes {self.megabytes}: more than 0 and at most a million")
        self.world = ToyWorld(seed, DEFAULT_ENTITIES if entities is None else entities)
        sample = [len(text.encode()) for _, text in self.world.documents("train", 0, 400)]
        train = max(1, round(self.megabytes * 1e6 * len(sample) / sum(sample)))
        self.counts = {"train": train, "val": VALIDATION_DOCUMENTS}

    @property
    def prompts(self) -> list[str]:
        """Openings whose continuation shows what a model knows about this world and how it tells a story."""
        world = self.world
        one, two, three = world.people[0], world.people[len(world.people) // 2], world.people[-1]
        return [
            f"{one.name} lives in",
            f"{two.name}'s favorite food is",
            f"The {world.goods[0].name} costs",
            f"In {three.town.name} there lived",
            "Seven plus five is",
        ]

    def shards(self, split: str) -> list:
        """There are no files."""
        return []

    def hash(self) -> str:
        """A SHA-256 (hex) of what determines the text: version, seed, entities and the number of documents."""
        world = self.world
        return hashlib.sha256(f"toyworld {VERSION} {world.seed} {world.entities} {self.counts}".encode()).hexdigest()

    def texts(self, split: str) -> Iterator[str]:
        """Every document of the split once."""
        return (text for _, text in self.documents(split, epochs=1))

    def documents(
        self, split: str, rank: int = 0, world_size: int = 1, cursor: dict | None = None, epochs: int | None = None
    ) -> Iterator[tuple[dict, str]]:
        """(cursor, text) of this rank's documents; without end for `epochs=None`, else that many passes in all."""
        count = self.counts[split]
        if world_size > count:
            raise DataError(f"toyworld: {count} {split} documents for {world_size} ranks; raise --toyworld-megabytes")
        if cursor is not None and set(cursor) != {"epoch", "index"}:
            raise DataError(f"data cursor {cursor}: it is not one of the toy world; resume with the same --data")
        epoch, start = (cursor["epoch"], cursor["index"]) if cursor else (0, 0)
        while epochs is None or epoch < epochs:
            first = start + (rank - start) % world_size
            for index, text in self.world.documents(split, first, count, world_size):
                yield {"epoch": epoch, "index": index + 1}, text
            epoch, start = epoch + 1, 0
