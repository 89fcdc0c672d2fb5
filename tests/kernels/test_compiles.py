"""Every Triton kernel compiles for sm_80 and sm_90, which needs no GPU; its shared memory fits and nothing spills."""

import re
import subprocess

import pytest
import torch

triton = pytest.importorskip("triton")
from triton.backends.compiler import GPUTarget  # noqa: E402

from pynanochat.kernels import attention_paged as paged  # noqa: E402
from pynanochat.kernels import linear_softcap_cross_entropy as cross_entropy  # noqa: E402
from pynanochat.kernels import rotary_qk_norm as rotary  # noqa: E402
from pynanochat.kernels import sample_tokens as sampling  # noqa: E402

WHOLE = ("x0", "w0", "channels", "q0", "q1", "k0", "k1", "k2", "v0", "v1", "v2")  # multiples of 16
SHARED = {80: 163 * 1024, 90: 227 * 1024}  # bytes a block may have
POINTERS = {  # by argument; x, weight and the like are of the kernel's dtype
    **dict.fromkeys(("cos", "sin", "losses", "token_scale", "partial", "picked"), "*fp32"),
    "targets": "*i64",
    **dict.fromkeys(("lse", "logits"), "*fp32"),
    **dict.fromkeys(("tables", "starts", "lengths", "top_k", "drawn"), "*i64"),
    **dict.fromkeys(("weights", "temperature", "top_p", "min_p", "number"), "*fp64"),
    **dict.fromkeys(("scale", "eps", "softcap"), "fp32"),
}
OF_DTYPE = ("v", "out", "q", "grad_q", "out_q", "k", "grad_k", "out_k", "products", "x", "weight")
ROTARY = {"D": 128, "PAIRS": 64, "HEADS": rotary.HEADS_AT_ONCE}
ROWS = {"BLOCK": cross_entropy.ROW_BLOCK}
DENSE = {"x1": 1, "w1": 1}
PAGED = {"SHARE": 1, "D": 128, "DIM": 128, "PAGE": 16, "UNSEEN": paged.UNSEEN, "PRECISION": "tf32"}
PAGED |= {"q2": 1, "k3": 1, "v3": 1}


def paged_tiles(pairs, dim=128, dtype=torch.bfloat16, **constants):
    """Constants of attend_kernel on an architecture."""
    return lambda architecture: {
        **PAGED, "SPLIT": True, "D": dim, "DIM": dim, **constants, **paged.tiles(dtype, dim, pairs, architecture >= 90)
    }  # fmt: skip


KERNELS = {  # name: kernel, constants, dtype, warps, what its PTX for sm_90 must hold
    "rotary forward": (rotary.rotate_norm_kernel, {**ROTARY, "BACKWARD": False}, "bf16", 4, "sqrt"),
    "rotary backward": (rotary.rotate_norm_kernel, {**ROTARY, "BACKWARD": True}, "bf16", 4, "sqrt"),
    "rows with gradient": (cross_entropy.rows_kernel, {**ROWS, "GRADIENT": True}, "bf16", 8, "ex2"),
    "rows": (cross_entropy.rows_kernel, {**ROWS, "GRADIENT": False}, "bf16", 8, "ex2"),
    "losses": (cross_entropy.losses_kernel, {**cross_entropy.tiles(torch.bfloat16), **DENSE}, "bf16", 8, "wgmma"),
    "paged decode": (paged.attend_kernel, paged_tiles(1), "bf16", 4, "cp.async"),
    "paged decode, group of 4": (paged.attend_kernel, paged_tiles(4, SHARE=4), "bf16", 4, "cp.async"),
    "paged decode, head 256": (paged.attend_kernel, paged_tiles(1, 256), "bf16", 4, "cp.async"),
    "paged few queries": (paged.attend_kernel, paged_tiles(64), "bf16", 4, "wgmma"),
    "paged prefill": (paged.attend_kernel, paged_tiles(512, SPLIT=False), "bf16", 8, "wgmma"),
    "paged prefill, group of 3": (paged.attend_kernel, paged_tiles(512, SHARE=3), "bf16", 8, "wgmma"),
    "paged prefill, head 64": (paged.attend_kernel, paged_tiles(512, 64, SPLIT=False), "bf16", 8, "wgmma"),
    "paged prefill, head 256": (paged.attend_kernel, paged_tiles(512, 256), "bf16", 8, "wgmma"),
    "paged fp32": (paged.attend_kernel, paged_tiles(1, 128, torch.float32, PRECISION="ieee"), "fp32", 8, "fma"),
    "paged combine": (
        paged.combine_kernel,
        {"D": 128, "DIM": 128, "SPLITS": 64, "UNSEEN": paged.UNSEEN},
        "bf16",
        4,
        "ex2",
    ),
    "sample": (sampling.sample_kernel, {"BLOCK": sampling.BLOCK, "stride": 1}, "fp32", 16, "fma.rn.f64"),
    "losses fp32": (cross_entropy.losses_kernel, {**cross_entropy.tiles(torch.float32), **DENSE}, "fp32", 8, "fma"),
}


def compile_for(architecture, kernel, constants, dtype, warps):
    constants = constants(architecture) if callable(constants) else dict(constants)
    warps, stages = constants.pop("num_warps", warps), constants.pop("num_stages", 3)
    kinds = {**POINTERS, **dict.fromkeys(OF_DTYPE, f"*{dtype}"), **dict.fromkeys(constants, "constexpr")}
    signature = {name: kinds.get(name, "i32") for name in kernel.arg_names}
    whole = [n for n, kind in signature.items() if kind.startswith("*") or n in WHOLE]
    aligned = {(kernel.arg_names.index(n),): [["tt.divisibility", 16]] for n in whole}  # as a launch would find it
    source = triton.compiler.ASTSource(kernel, signature, constexprs=constants, attrs=aligned)
    options = {"num_warps": warps, "num_stages": stages}
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
