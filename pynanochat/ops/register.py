"""Registration of ops with torch.library, for torch.compile and opcheck; eager calls go around it.

An op file declares an operator once, backend-free: its kernel asks `pick` which implementation runs.

    op = define("rms_norm(Tensor x, float eps) -> Tensor", run, fake)
    differentiate("rms_norm", setup_context, backward)

`run` computes with real tensors; `fake` makes empty outputs of the right shape. The dispatcher costs about 6 µs a
call and register_autograd 25 µs, so a public function calls `op` only while torch.compile traces
(`torch.compiler.is_compiling()`) and otherwise an autograd.Function of its own.
"""

import torch

_library = torch.library.Library("pynanochat", "DEF")


def define(schema: str, run, fake):
    """Declare `schema` in the namespace pynanochat for CPU and CUDA; returns the operator."""
    name = schema.split("(")[0]
    _library.define(schema)
    for device in ("CPU", "CUDA"):
        _library.impl(name, run, device)
    torch.library.register_fake(f"pynanochat::{name}", fake, lib=_library)
    return getattr(torch.ops.pynanochat, name).default


def differentiate(name: str, setup_context, backward) -> None:
    """Give the operator `name` its gradient, as torch.library.register_autograd takes it."""
    torch.library.register_autograd(f"pynanochat::{name}", backward, setup_context=setup_context, lib=_library)
