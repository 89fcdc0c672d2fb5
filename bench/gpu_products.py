"""What gpu_ops measures of the ops that are bound by matrix products: muon_step, relu2_mlp, and both products in fp8.

The FLOPs are those of plain products, so that a form that needs fewer (symmetric products, the Gram form) or a faster
format (fp8) can pass the bound, the rate of plain bf16 products. Peers: plain torch in bf16, eager and compiled.
"""

import os

import torch

from pynanochat.bench import bench_muon_step as muon
from pynanochat.bench import bench_relu2_mlp as mlp
from pynanochat.ops.backends import implementations
from pynanochat.ops.fp8 import E4M3, E5M2, Scales
from pynanochat.ops.linear import linear_reference
from pynanochat.ops.linear_fp8 import linear_fp8
from pynanochat.ops.relu2_mlp_fp8 import relu2_mlp_fp8

MATRICES = {  # n, R, C
    "d12 square": (48, 768, 768),
    "d12 wide": (12, 768, 3072),
    "d24 square": (96, 1536, 1536),
    "d24 tall": (24, 6144, 1536),
}
LAYERS = {"d12": (65536, 768, 3072), "d24": (32768, 1536, 6144)}  # N, C, M


def muon_contest(case, kernels, device) -> dict:
    """A step of the 2026 recipe in bf16 on a stack of matrices."""
    params, grads, momentum, second = (t.to(device) for t in muon.case(case))
    lists = list(params.unbind()), list(grads.unbind())
    settings = {**muon.SETTINGS, "beta2": 0.9, "recipe": "2026", "ns_steps": 5, "ns_dtype": torch.bfloat16}
    plain = (params, grads, momentum, second, "2026", torch.bfloat16)
    compiled = torch.compile(muon.plain_step, dynamic=False)
    functions = {name: (lambda f=kernel: f(*lists, momentum, second, **settings)) for name, kernel in kernels.items()}
    return functions | {"eager": lambda: muon.plain_step(*plain), "compiled": lambda: compiled(*plain)}


def muon_flops(case) -> int:
    count, *sides = case
    small, large = min(sides), max(sides)
    return count * 5 * (4 * small**2 * large + 2 * small**3)


def layer(case, device):
    """x and the gradient of the result, of an MLP and its fp32 master weights."""
    return [t.to(device) for t in mlp.make(case, mlp.DTYPES["bf16, fp32 weight"])]


def plain(function, *inputs) -> dict:
    """Both passes of plain torch, eager and compiled."""
    compiled = torch.compile(function, dynamic=False)
    return {"eager": lambda: mlp.run(function, *inputs), "compiled": lambda: mlp.run(compiled, *inputs)}


def mlp_contest(case, kernels, device) -> dict:
    x, dy, w_fc, w_proj = layer(case, device)

    def both(kernel):
        _, h = kernel.forward(x, w_fc, w_proj)
        return kernel.backward(dy, x, h, w_fc, w_proj)

    functions = {name: (lambda k=kernel: both(k)) for name, kernel in kernels.items()}
    return functions | plain(implementations("relu2_mlp")["reference"], x, dy, w_fc, w_proj)


def forced(backend: str, function):
    """`function` under PYNANOCHAT_BACKEND, for ops that are more than one call of a backend."""

    def run():
        before = os.environ.get("PYNANOCHAT_BACKEND", "")
        os.environ["PYNANOCHAT_BACKEND"] = backend
        try:
            return function()
        finally:
            os.environ["PYNANOCHAT_BACKEND"] = before

    return run


def in_fp8(function, dtypes, kernels, inputs) -> dict:
    """Both passes of an op in fp8 and the update of its scales."""
    scales = Scales(dtypes, device=inputs[0].device)

    def ours():
        mlp.run(lambda *t: function(*t, scales[:]), *inputs)
        scales.update()

    return {name: forced(name, ours) for name in kernels}


def linear_fp8_contest(case, kernels, device) -> dict:
    """The widening projection of an MLP."""
    x, _, weight, _ = layer(case, device)
    inputs = x, torch.randn(len(x), len(weight), device=device).to(x.dtype), weight
    return in_fp8(linear_fp8, [E4M3, E4M3, E5M2], kernels, inputs) | plain(linear_reference, *inputs)


def mlp_fp8_contest(case, kernels, device) -> dict:
    inputs = layer(case, device)
    ours = in_fp8(relu2_mlp_fp8, [E4M3] * 4 + [E5M2] * 2, kernels, inputs)
    return ours | plain(implementations("relu2_mlp")["reference"], *inputs)


def mlp_flops(case) -> int:
    N, C, M = case
    return 12 * N * C * M


OPS = {  # op: contest, FLOPs, cases
    "muon_step": (muon_contest, muon_flops, MATRICES),
    "relu2_mlp": (mlp_contest, mlp_flops, LAYERS),
    "relu2_mlp_fp8": (mlp_fp8_contest, mlp_flops, LAYERS),
    "linear_fp8": (linear_fp8_contest, lambda case: mlp_flops(case) // 2, LAYERS),
}
