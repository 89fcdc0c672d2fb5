"""Which implementation of an op runs: `reference`, `cpu`, `triton` or `cuda`.

Every op file registers what it has with `implement(op, backend, function)`; the op's public function calls
`pick(op, tensor, arguments)`. The order of preference is

    CPU tensors    cpu, reference
    CUDA tensors   cuda, triton, reference, where cuda and triton count only once verified on this architecture, and
                   only for calls that they take

A GPU backend that is made for some calls only says so by `implement(..., takes=function)`: takes(*arguments) of a call
is True or False, and the next in order does the others. What the arguments are, the op's file defines.
`PYNANOCHAT_BACKEND=NAME` forces one for every op that has it; other ops, and calls that it does not take, use their
reference. "Verified" means that a results file in bench/results (written by `pynanochat bench gpu`) lists op and
backend as passed on this architecture with the code that is installed, and none lists them as failed. A forced backend
that cannot run here (no GPU, not built) is a BackendError at the call, never a silent other one.
"""

import functools
import importlib.resources
import importlib.util
import json
import os

import torch

from pynanochat import _C
from pynanochat.errors import BackendError
from pynanochat.ops.fingerprints import fingerprint

BACKENDS = ("reference", "cpu", "triton", "cuda")

_implementations: dict[str, dict[str, object]] = {}
_takes: dict[tuple[str, str], object] = {}


def implement(op: str, backend: str, implementation, takes=None) -> None:
    """Register `implementation` (a function, or a namespace of functions) of `op` for `backend`, and what calls a GPU
    backend `takes` if not all."""
    assert backend in BACKENDS, backend
    _implementations.setdefault(op, {})[backend] = implementation
    if takes is not None:
        _takes[op, backend] = takes


def implementations(op: str) -> dict[str, object]:
    """Every registered implementation of `op`, by backend."""
    return _implementations[op]


def ops() -> list[str]:
    """The names of all registered ops."""
    return sorted(_implementations)


def forced() -> str | None:
    """The backend that PYNANOCHAT_BACKEND asks for. Raises BackendError where it names none."""
    name = os.environ.get("PYNANOCHAT_BACKEND") or None
    if name is not None and name not in BACKENDS:
        raise BackendError(f"PYNANOCHAT_BACKEND={name}: not a backend; use one of {', '.join(BACKENDS)} or unset it")
    return name


@functools.cache
def verified(architecture: str) -> frozenset[tuple[str, str]]:
    """The (op, backend) pairs that passed on GPU `architecture` ("sm_90") and failed on none of its cards, from
    bench/results/*.json."""
    passed = (result["verified"] for result in results() if result["architecture"] == architecture)
    return frozenset().union(*passed) - failed(architecture)


def failed(architecture: str) -> frozenset[tuple[str, str]]:
    """The (op, backend) pairs that failed on a card of GPU `architecture`."""
    return frozenset().union(*(r["failed"] for r in results() if r["architecture"] == architecture))


def results() -> list[dict]:
    """What the newest results file of each device says: {"architecture", "verified", "failed", "stale", "file"}, sets
    of (op, backend) and its whole content. What has changed since the file was written is stale: it counts as neither.
    """
    newest = {}
    for result in sorted(result_files(), key=lambda result: str(result["file"].get("date") or "")):
        newest[str(result["file"].get("device"))] = result
    return list(newest.values())


def result_files() -> list[dict]:
    found = []
    try:
        folder = importlib.resources.files("pynanochat.bench") / "results"
        files = sorted((f for f in folder.iterdir() if f.name.endswith(".json")), key=lambda f: f.name)
    except (ModuleNotFoundError, FileNotFoundError):
        return []
    for file in files:
        try:
            result = json.loads(file.read_text(encoding="utf-8"))
            found.append({"architecture": result["architecture"], **current(result), "file": result})
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue  # a damaged file verifies nothing
    return found


def current(result: dict) -> dict[str, set]:
    """The pairs of a results file that are "verified", "failed", or verified once and now "stale"."""
    pairs = {"verified": set(), "failed": set(), "stale": set()}
    for key in ("verified", "failed"):
        for entry in result.get(key, []):
            pair = entry["op"], entry["backend"]
            if entry.get("code") == fingerprint(*pair):
                pairs[key].add(pair)
            elif key == "verified":
                pairs["stale"].add(pair)
    return pairs


@functools.cache
def missing(backend: str) -> str:
    """What this installation lacks to run `backend` on a GPU that torch sees; "" where it lacks nothing."""
    if backend == "triton" and importlib.util.find_spec("triton") is None:
        return "the triton package is not installed"
    return "" if backend != "cuda" else _C.cuda_available()[1]


@functools.cache
def architecture(device_index: int) -> str:
    """The compute capability of a GPU, as "sm_90"."""
    major, minor = torch.cuda.get_device_capability(device_index)
    return f"sm_{major}{minor}"


@torch.compiler.assume_constant_result  # else torch.compile would trace the reading of files, and break the graph
def _passed(op: str, backend: str, device_index: int) -> bool:
    return (op, backend) in verified(architecture(device_index)) and not missing(backend)


def takes(op: str, backend: str, arguments) -> bool:
    """Whether `backend` of `op` is for a call with `arguments`; None, where there is no call yet, counts as taken."""
    asked = _takes.get((op, backend))
    return asked is None or arguments is None or asked(*arguments)


def choose(op: str, tensor, arguments=None) -> str:
    """The backend of `op` for a call with `arguments`, one of whose tensors is `tensor`: by its device, and the
    reference for float64, which no kernel takes."""
    have = _implementations[op]
    device = tensor.device
    if tensor.dtype == torch.float64:
        return "reference"
    wanted = forced()
    if wanted is not None:
        fits = wanted in have and (device.type != "cuda" or takes(op, wanted, arguments))
        return wanted if fits else "reference"
    if device.type == "cuda":
        for backend in ("cuda", "triton"):
            if backend in have and _passed(op, backend, device.index or 0) and takes(op, backend, arguments):
                return backend
        return "reference"
    return "cpu" if device.type == "cpu" and "cpu" in have else "reference"


def pick(op: str, tensor, arguments=None):
    """The implementation of `op` for a call, as `choose` says."""
    return _implementations[op][choose(op, tensor, arguments)]
