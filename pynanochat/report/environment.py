"""What a run runs on: `describe_environment()` is a flat dict for RUN/environment.json."""

import importlib.metadata
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

from pynanochat import __version__
from pynanochat.runtime import cpu_name, cpu_threads

LIBRARIES = ("torch", "numpy", "triton", "safetensors", "pyarrow")


def describe_environment() -> dict:
    """CPU, cores, memory in GiB, GPUs, versions, and the commit of a source checkout; JSON-able."""
    facts = {
        "cpu": cpu_name(),
        "cores": cpu_threads(),
        "memory_gib": _memory_gib(),
        **_gpus(),
        "platform": platform.platform(terse=True),
        "python": platform.python_version(),
        "pynanochat": __version__,
        **{name: version for name in LIBRARIES if (version := _version(name))},
        **_commit(Path(__file__).parents[2]),
        "command": command_line(),
    }
    return {name: value for name, value in facts.items() if value is not None}


def command_line(words: list[str] | None = None) -> str:
    """The command that started this process, as one types it: without the paths of the interpreter and the script."""
    first, *rest = words or sys.orig_argv
    if rest and os.path.basename(rest[0]) == "pynanochat":
        return shlex.join(["pynanochat", *rest[1:]])
    return shlex.join([os.path.basename(first), *rest])


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None


def _gpus() -> dict:
    """The GPUs that torch sees, with their memory and the CUDA version torch was built for."""
    try:
        import torch
    except ImportError:
        return {}
    if not torch.cuda.is_available():
        return {"gpus": "none"}
    cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    kinds = [f"{card.name}, {card.total_memory / 2**30:.0f} GiB" for card in cards]
    counted = ", ".join(f"{kinds.count(kind)} x {kind}" for kind in dict.fromkeys(kinds))
    return {"gpus": counted, "cuda": torch.version.cuda}


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit(checkout: Path) -> dict:
    """The commit of `checkout`, marked where files differ from it; empty for an installed package."""
    if not (checkout / ".git").exists():
        return {}
    try:
        git = lambda *words: subprocess.run(  # noqa: E731
            ["git", "-C", str(checkout), *words], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
        return {"commit": git("rev-parse", "HEAD") + (" (changed)" if git("status", "--porcelain", "-uno") else "")}
    except (OSError, subprocess.SubprocessError):
        return {}
