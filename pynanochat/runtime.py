"""Where a run computes: device, compute dtype, ranks, seeds, memory in use.

Nothing here imports torch at module level; the first call that needs it does.
"""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from pynanochat.errors import UsageError


@dataclass(frozen=True)
class Ranks:
    """This process among the processes of a run, as torchrun tells it; one process is the special case (0, 0, 1)."""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1

    @property
    def first(self) -> bool:
        """True on the rank that writes files and prints."""
        return self.rank == 0

    @classmethod
    def from_environment(cls) -> "Ranks":
        get = lambda name, default: int(os.environ.get(name, default))  # noqa: E731
        return cls(get("RANK", 0), get("LOCAL_RANK", 0), get("WORLD_SIZE", 1))


def pick_device(name: str = "auto", ranks: Ranks | None = None):
    """The torch.device for `--device NAME`: auto, cpu, cuda or cuda:N. Raises UsageError where it is not there."""
    import torch

    ranks = ranks or Ranks.from_environment()
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda") and not name.startswith("cuda:"):
        raise UsageError(f"--device {name}: not a device; use auto, cpu, cuda or cuda:N")
    if name.startswith("cuda"):
        if not torch.cuda.is_available():
            raise UsageError(f"--device {name}: torch sees no CUDA GPU here; use --device cpu")
        index = int(name[5:]) if ":" in name else ranks.local_rank
        if index >= torch.cuda.device_count():
            raise UsageError(f"--device cuda:{index}: this machine has {torch.cuda.device_count()} GPUs")
        return torch.device("cuda", index)
    return torch.device(name)


def cpu_flags() -> frozenset[str]:
    """The instruction-set flags that the kernel reports for this CPU (empty where it does not say)."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("flags", "Features")):
                return frozenset(line.split(":", 1)[1].split())
    except OSError:
        pass
    return frozenset()


def cpu_name() -> str:
    """The CPU's marketing name, or its architecture."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def pick_compute_dtype(device, name: str = "auto"):
    """The dtype of matrix products for `--dtype NAME` on `device`: bf16 where the hardware multiplies it, else fp32."""
    import torch

    named = {"fp32": torch.float32, "bf16": torch.bfloat16}
    if name in named:
        return named[name]
    if name != "auto":
        raise UsageError(f"--dtype {name}: not a compute dtype; use auto, bf16 or fp32")
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float32
    return torch.bfloat16 if cpu_flags() & {"avx512_bf16", "amx_bf16", "bf16"} else torch.float32


def wants_compiling(name: str, device) -> bool:
    """Whether `--compile NAME` means torch.compile on `device`: auto is on for a GPU that Triton makes code for.

    Raises UsageError for another name. A run's settings of before `auto` say true or false.
    """
    name = {True: "on", False: "off"}.get(name, name)
    if name not in ("auto", "on", "off"):
        raise UsageError(f"--compile {name}: use auto, on or off")
    if name != "auto":
        return name == "on"
    import importlib.util

    import torch

    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return False
    return torch.cuda.get_device_capability(device) >= (7, 0)


def init_distributed(ranks: Ranks, device) -> None:
    """Join, once, the process group that torchrun describes (nccl on GPUs, gloo on CPUs); nothing for one process."""
    if ranks.world_size == 1:
        return
    import torch
    import torch.distributed as dist

    if dist.is_initialized():
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")


def barrier(ranks: Ranks) -> None:
    """Wait until every rank is here."""
    if ranks.world_size > 1:
        import torch.distributed as dist

        dist.barrier()


def seed_everything(seed: int, deterministic: bool = False) -> None:
    """Seed torch on every device; every other random choice owns a generator made from the run's seed.

    deterministic: from now on take those forms of all operations that give the same bits each time, where there are
    any; on a CPU they do so anyway. Must come before the first product on a GPU.
    """
    import torch

    torch.manual_seed(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without which cuBLAS does not promise it
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # all of it is written before it is read


def keep_freed_memory() -> None:
    """Let the C allocator keep what is freed instead of giving it back to the kernel.

    A training step on a CPU allocates the same large blocks again and again; without this each comes as fresh pages
    that the kernel must fault in and clear, which took half of the step's time where it was measured. Only glibc has
    the switch; elsewhere nothing changes.
    """
    import ctypes

    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of <malloc.h>
    try:
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 1 << 30)
        libc.mallopt(trim_threshold, (1 << 31) - 1)
    except (OSError, AttributeError):
        pass


def cpu_threads() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> int:
    """Bytes of main memory that are free for use."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def device_memory(device) -> int:
    """Bytes of `device` that this process may use: those that are free, and on a GPU what it already has."""
    if device.type != "cuda":
        return free_memory()
    import torch

    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)


# Dense bf16 peak of one GPU in FLOP/s, by a part of its name (vendors' data sheets).
GPU_PEAKS = {"H200": 989e12, "H100": 989e12, "B200": 2250e12, "A100": 312e12, "L40S": 362e12, "4090": 165e12}


def peak_flops(device, dtype) -> float:
    """FLOP/s to count utilisation against: the data sheet's for a known GPU in bf16, else the measured GEMM rate."""
    import torch

    if device.type == "cuda" and dtype == torch.bfloat16:
        name = torch.cuda.get_device_name(device)
        for part, peak in GPU_PEAKS.items():
            if part in name:
                return peak
    return gemm_rate(device, dtype)


def gemm_rate(device, dtype, size: int = 1024, seconds: float = 0.3) -> float:
    """FLOP/s of torch's own square matrix product in `dtype`, the best of repeated runs."""
    import time

    import torch

    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        wait()
        started = time.perf_counter()
        a @ b
        wait()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


def current_memory(device) -> int:
    """Bytes in use: on the GPU what torch has allocated, else this process's resident size."""
    import resource

    import torch

    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()
    except OSError:
        return peak_memory(device)


def peak_memory(device) -> int:
    """The most bytes that were in use."""
    import resource

    import torch

    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
