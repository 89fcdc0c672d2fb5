"""What the GPU backends of the ops share: whether they can run here, and the device and stream they run on.

implement("rms_norm", "triton", triton_twin("rms_norm", "forward", "backward"))

with cuda_stream("rms_norm", x) as stream:
    _C.cuda_rms_norm(x, out, stream)
"""

import contextlib
import functools
import importlib
import os
import types

import torch

from pynanochat.errors import BackendError
from pynanochat.kernels import tiles
from pynanochat.ops.backends import missing, results

_ELSE = "or unset PYNANOCHAT_BACKEND"


def triton_twin(op: str, *names: str) -> types.SimpleNamespace:
    """The functions `names` of pynanochat/kernels/OP.py, which is imported when one of them is first called."""
    return types.SimpleNamespace(**{name: _twin(op, name) for name in names})


def _twin(op: str, name: str):
    def run(tensor, *rest):
        with _triton_device(op, tensor):
            return getattr(_kernels(op), name)(tensor, *rest)

    return run


def _kernels(op: str):
    _recall_tiles()
    return importlib.import_module(f"pynanochat.kernels.{op}")


@functools.cache
def _recall_tiles() -> None:
    """Tell the kernels which tile sizes were measured to be the fastest (see bench/gpu_tune.py), once."""
    for result in results():
        tiles.remember(result["file"].get("device"), result["file"].get("tiles"))


def _triton_device(op: str, tensor):
    if missing("triton"):
        raise BackendError(f"{op}: the triton backend cannot run: {missing('triton')}; pip install triton, {_ELSE}")
    if tensor.device.type == "cuda":
        return torch.cuda.device(tensor.device)
    if os.environ.get("TRITON_INTERPRET") != "1":
        raise BackendError(
            f"{op}: the triton backend runs on GPUs and this tensor is on {tensor.device}; use --device cuda, "
            f"set TRITON_INTERPRET=1 to interpret it (slowly) on the CPU, {_ELSE}"
        )
    return contextlib.nullcontext()


@contextlib.contextmanager
def cuda_stream(op: str, tensor):
    """Makes the tensor's GPU current, yields its stream as an integer. Raises BackendError where CUDA cannot run."""
    if tensor.device.type != "cuda":
        raise BackendError(
            f"{op}: the cuda backend runs on GPUs and this tensor is on {tensor.device}; use --device cuda, {_ELSE}"
        )
    if missing("cuda"):
        raise BackendError(f"{op}: the cuda backend cannot run: {missing('cuda')}; mend that, {_ELSE}")
    with torch.cuda.device(tensor.device):
        yield torch.cuda.current_stream(tensor.device).cuda_stream
