"""Which tile sizes a kernel runs with: its first candidate, or the one that was measured fastest on this GPU.

    tile = choose("attention.forward bf16 128", candidates, device)

A kernel's file lists a few candidates for each of its few cases; the first is what runs where none was measured.
`pynanochat bench tune` (bench/gpu_tune.py) runs them all on a GPU and writes the fastest of each case into
bench/results/DEVICE.json; ops/gpu.py brings that here by `remember` before the first kernel runs. Nothing is measured
while a model runs, so that a kernel's sums have the same order from its first call to its last.
"""

import contextlib
import functools
from collections.abc import Iterator

import torch

_measured: dict[str, dict[str, dict]] = {}  # the name of a GPU -> case -> its fastest candidate
_tried: dict[str, dict] = {}  # case -> the candidate that is to run now
_met: dict[str, list[dict]] | None = None  # case -> candidates, of what ran while somebody watches


def choose(case: str, candidates: list[dict], device) -> dict:
    """One of `candidates`: what is tried now, what was measured on this GPU if it is still among them, or the first."""
    if _met is not None:
        _met[case] = candidates
    fastest = _tried.get(case) or _measured.get(_name(device), {}).get(case)
    return fastest if fastest in candidates else candidates[0]


def remember(device, fastest) -> None:
    """Use the `fastest` candidates, by case, on GPUs of this name from now on. What a damaged file says is ignored."""
    if isinstance(device, str) and isinstance(fastest, dict):
        _measured[device] = fastest


@contextlib.contextmanager
def watched() -> Iterator[dict[str, list[dict]]]:
    """The cases that run inside, with their candidates."""
    global _met
    _met = {}
    try:
        yield _met
    finally:
        _met = None


@contextlib.contextmanager
def trying(case: str, candidate: dict) -> Iterator[None]:
    """Inside, `case` runs with `candidate`."""
    _tried[case] = candidate
    try:
        yield
    finally:
        del _tried[case]


@functools.cache
def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def short(dtype: torch.dtype) -> str:
    """A dtype as a case names it: float32, bfloat16, float8_e4m3fn."""
    return str(dtype).removeprefix("torch.")
