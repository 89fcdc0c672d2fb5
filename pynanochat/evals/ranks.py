"""Sharing the items of an evaluation among ranks, and bringing the results together."""

import json

import torch

from pynanochat.errors import PynanochatError


def mine(indices: list, ranks) -> list:
    """The part of `indices` that this rank does."""
    return indices[ranks.rank :: ranks.world_size] if ranks else indices


def gather(found: list, ranks, device) -> list:
    """The JSON-able `found` of all ranks, one list on every rank; in the order of the ranks."""
    if ranks is None or ranks.world_size == 1:
        return found
    import torch.distributed as dist

    written = torch.tensor(list(json.dumps(found).encode()), dtype=torch.uint8, device=device)
    sizes = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(ranks.world_size)]
    dist.all_gather(sizes, torch.tensor([len(written)], device=device))
    longest = max(int(size) for size in sizes)
    padded = torch.zeros(longest, dtype=torch.uint8, device=device)
    padded[: len(written)] = written
    parts = [torch.zeros_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    lists = (json.loads(bytes(p[: int(n)].tolist())) for p, n in zip(parts, sizes, strict=True))
    return [result for one in lists for result in one]


def gather_from(work, ranks, device) -> list:
    """`gather` of what `work()` gives. What it raises on one rank is raised on all: none waits for that one in vain."""
    found, problem = [], None
    try:
        found = work()
    except PynanochatError as error:
        problem = error
    said = gather([str(problem)] if problem else [], ranks, device)
    if said:
        raise problem or PynanochatError(said[0])
    return gather(found, ranks, device)
