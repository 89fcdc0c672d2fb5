"""Every Triton kernel compiles for sm_80 and sm_90, which needs no GPU; its shared memory fits and nothing spills."""

import re
import subprocess

import pytest
import torch

triton = pytest.importorskip("triton")
from triton.backends.compiler import GPUTarget  # noqa: E402

from pynanochat.kernels import attention  # noqa: E402
from pynanochat.kernels import linear_softcap_cross_entropy as cross_entropy  # noqa: E402
from pynanochat.kernels import rotary_qk_norm as rotary  # noqa: E402

SHARED = {80: 163 * 1024, 90: 227 * 1024}  # bytes a block may have
POINTERS = {  # by argument; x, weight and the like are of the kernel's dtype
    **dict.fromkeys(("cos", "sin", "losses", "token_scale", "partial", "picked"), "*fp32"),
    **dict.fromkeys(("lse", "delta"), "*fp32"),
    "targets": "*i64",
    **dict.fromkeys(("scale", "eps", "softcap", "factor"), "fp32"),
}
OF_DTYPE = ("q", "grad_q", "out_q", "k", "grad_k", "out_k", "products", "x", "weight")
OF_DTYPE += ("v", "out", "dout", "dq", "dk", "dv")  # attention
STRIDES = ("_batch", "_row", "_head")
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
ROTARY = {"D": 128, "PAIRS": 64, "HEADS": rotary.HEADS_AT_ONCE}
ROWS = {"BLOCK": cross_entropy.ROW_BLOCK}
DENSE = {"x1": 1, "w1": 1}
KERNELS = {  # name: kernel, constants, dtype, warps, what its PTX for sm_90 must hold
    "rotary forward": (rotary.rotate_norm_kernel, {**ROTARY, "BACKWARD": False}, "bf16", 4, "sqrt"),
    "rotary backward": (rotary.rotate_norm_kernel, {**ROTARY, "BACKWARD": True}, "bf16", 4, "sqrt"),
    "rows with gradient": (cross_entropy.rows_kernel, {**ROWS, "GRADIENT": True}, "bf16", 8, "ex2"),
    "rows": (cross_entropy.rows_kernel, {**ROWS, "GRADIENT": False}, "bf16", 8, "ex2"),
    "losses": (cross_entropy.losses_kernel, {**cross_entropy.tiles(torch.bfloat16), **DENSE}, "bf16", 8, "wgmma"),
    "losses fp32": (cross_entropy.losses_kernel, {**cross_entropy.tiles(torch.float32), **DENSE}, "fp32", 8, "fma"),
}


def add_attention(kernel, holds, D, dtype):
    """attention's `kernel`_kernel with channels side by side and groups of any size."""
    program = getattr(attention, f"{kernel}_kernel")
    dense = {name: 1 for name in program.arg_names if name.endswith("_channel")}
    constants = lambda architecture: {**attention.tiles(kernel, D, DTYPES[dtype], architecture), **dense}  # noqa: E731
    KERNELS[f"attention {kernel} {D} {dtype}"] = (program, constants, dtype, None, holds)


for kernel in ("forward", "dkdv", "dq"):
    for D in (64, 128):
        add_attention(kernel, "wgmma", D, "bf16")
    add_attention(kernel, "fma", 128, "fp32")
ROW_SUMS = {"QUERIES": 64, "D": 128, "HEAD": 128, "dout_channel": 1, "out_channel": 1}
KERNELS["attention delta"] = (attention.delta_kernel, ROW_SUMS, "bf16", 4, "add")


def compile_for(architecture, kernel, constants, dtype, warps):
    constants = constants(architecture) if callable(constants) else constants
    options = {name: constants[name] for name in ("num_warps", "num_stages") if name in constants}
    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    kinds = {**POINTERS, **dict.fromkeys(OF_DTYPE, f"*{dtype}"), **dict.fromkeys(constants, "constexpr")}
    signature = {name: kinds.get(name, "i32") for name in kernel.arg_names}
    multiples = ("x0", "w0", "channels")
    whole = [n for n, kind in signature.items() if kind[0] == "*" or n in multiples or n.endswith(STRIDES)]
    aligned = {(kernel.arg_names.index(n),): [["tt.divisibility", 16]] for n in whole}  # as a launch would find it
    source = triton.compiler.ASTSource(kernel, signature, constexprs=constants, attrs=aligned)
    options = {"num_warps": warps, "num_stages": 3} | options
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)


@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("name", KERNELS)
def test_compiles(name, architecture, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    *what, holds = KERNELS[name]
    compiled = compile_for(architecture, *what)
    assert compiled.metadata.shared <= SHARED[architecture]
    assert architecture == 80 or re.search(holds, compiled.asm["ptx"])
    cubin = tmp_path / "kernel.cubin"
    cubin.write_bytes(compiled.asm["cubin"])
    tool = triton.knobs.nvidia.cuobjdump.path
    run = subprocess.run([tool, "-res-usage", str(cubin)], capture_output=True, text=True, check=True)
    usage = run.stdout + run.stderr
    assert re.search(r"STACK:0\b", usage) and re.search(r"LOCAL:0\b", usage), usage
