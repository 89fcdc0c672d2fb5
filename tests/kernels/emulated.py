"""The CUDA kernels on the CPU, through tests/cuda/emulator: the real launchers, bindings and Python around them.

`install(path)` loads the emulated extension and puts it behind the `cuda` backends, which then take CPU tensors.
"""

import contextlib
import importlib
import importlib.machinery
import importlib.util

# The ops that have a CUDA kernel in csrc/cuda, and their glue.
OPS = (
    "adamw_step", "attention", "attention_paged", "decode_step", "linear_softcap_cross_entropy", "muon_step",
    "rotary_qk_norm",
)  # fmt: skip
MULTIPROCESSORS = 20  # of the emulated GPU
GLUE = [importlib.import_module(f"pynanochat.ops.{op}_gpu") for op in OPS]


class OnGpu:
    """A CPU tensor that says it is on GPU 0, with what the bindings read of a tensor."""

    class device:
        index = 0

    is_cuda = True

    def __init__(self, tensor):
        self.tensor = tensor
        self.shape, self.dtype = tensor.shape, tensor.dtype
        self.stride, self.data_ptr = tensor.stride, tensor.data_ptr


def on_gpu(x):
    """A tensor, or each of a list of them, on the GPU; what is neither stays as it is."""
    if isinstance(x, list):
        return [on_gpu(each) for each in x]
    return OnGpu(x) if hasattr(x, "data_ptr") else x


class Extension:
    """The emulated extension, whose functions take CPU tensors."""

    def __init__(self, module):
        self.module = module

    def __getattr__(self, name):
        function = getattr(self.module, name)
        return lambda *inputs: function(*map(on_gpu, inputs))


def load(path):
    loader = importlib.machinery.ExtensionFileLoader("_C", str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("_C", loader))
    loader.exec_module(module)
    return Extension(module)


def install(path):
    extension = load(path)
    for glue in GLUE:
        glue._C = extension
        glue.cuda_stream = lambda op, tensor: contextlib.nullcontext(0)
        if hasattr(glue, "multiprocessors"):
            glue.multiprocessors = lambda device: MULTIPROCESSORS
