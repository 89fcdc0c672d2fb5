"""Every Triton kernel compiles for sm_80 and sm_90, which needs no GPU; its shared memory fits and nothing spills."""

import re
import subprocess

import pytest
import torch

triton = pytest.importorskip("triton")
from triton.backends.compiler import GPUTarget  # noqa: E402

from pynanochat.kernels import adamw_step, rms_norm, smear, value_gate  # noqa: E402
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


OF_DTYPE += ("residual", "total", "grad", "grad_total", "dx", "previous", "dprevious")
POINTERS |= dict.fromkeys(
    ("scales", "slopes", "shares", "table", "dtable", "gates", "heads_of", "tails_of", "gate_weight"), "*fp32"
)
POINTERS |= dict.fromkeys(("ids", "order", "words_sorted", "places"), "*i64")
POINTERS |= {"owner": "*i32", "rates": "*fp32"}
ADAMW = {"BLOCK": adamw_step.BLOCK, "GRADIENT": triton.language.bfloat16, "ALIGNED": True}
STRIDES = ("columns", "r0", "g0", "t0", "x1", "p0", "width", "g1", "v0", "v1")  # of rows that begin on 16 elements
NORM = {**rms_norm.tile(1536), "x1": 1, "r1": 1}
NORM_BACK = {**rms_norm.tile(1536), "g1": 1, "x1": 1, "t1": 1}
SMEAR = {**smear.tile(1536, 24), "x2": 1, "w1": 1, "p1": 1, "PREVIOUS": True}
GATE = {**value_gate.tile(4, 128, 12), "x1": 1, "t1": 1, "w1": 1}
CHUNKS = {"D": 128, "CHUNK": value_gate.CHUNK, "COLUMNS": value_gate.COLUMNS}
ZEROS = {"WIDTH": value_gate.ZEROS}
ENDS = {"CHUNK": value_gate.CHUNK, "COLUMNS": value_gate.COLUMNS}
WIDE = rms_norm.tile(9000)
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
    "norm": (rms_norm.forward_kernel, {**NORM, "RESIDUAL": False}, "bf16", 4, "ld.global.*v4"),
    "norm of a sum": (rms_norm.forward_kernel, {**NORM, "RESIDUAL": True}, "bf16", 4, "ld.global.*v4"),
    "wide norm of a sum": (rms_norm.forward_kernel, {**NORM, **WIDE, "RESIDUAL": True}, "bf16", 4, "ld.global.*v4"),
    "norm backward": (rms_norm.backward_kernel, {**NORM_BACK, "ADD": True}, "bf16", 4, "ld.global.*v4"),
    "wide norm backward": (rms_norm.backward_kernel, {**NORM_BACK, **WIDE, "ADD": True}, "bf16", 4, "ld.global.*v4"),
    "smear": (smear.forward_kernel, SMEAR, "bf16", 4, "ld.global.*v4"),
    "smear backward": (smear.backward_kernel, {**SMEAR, "g2": 1}, "bf16", 4, "ld.global.*v4"),
    "value gate": (value_gate.forward_kernel, {**GATE, "v2": 1}, "bf16", 4, "ld.global.*v4"),
    "value gate backward": (value_gate.gate_backward_kernel, {**GATE, "g2": 1, **ZEROS}, "bf16", 4, "ld.global.*v4"),
    "table chunks": (value_gate.table_chunk_kernel, {**CHUNKS, "g2": 1}, "bf16", 4, "st.global.*v4"),
    "table ends": (value_gate.table_end_kernel, ENDS, "bf16", 4, "ld.global.*v4"),
    "adamw": (adamw_step.step_kernel, ADAMW, "fp32", 4, "ld.global.*v4"),
}


def compile_for(architecture, kernel, constants, dtype, warps):
    constants = constants(architecture) if callable(constants) else dict(constants)
    warps, stages = constants.pop("num_warps", warps), constants.pop("num_stages", 3)
    kinds = {**POINTERS, **dict.fromkeys(OF_DTYPE, f"*{dtype}"), **dict.fromkeys(constants, "constexpr")}
    signature = {name: kinds.get(name, "i32") for name in kernel.arg_names}
    whole = [n for n, kind in signature.items() if kind.startswith("*") or n in (*WHOLE, *STRIDES)]
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
