"""Every Triton kernel compiles for sm_80 and sm_90, which needs no GPU; its shared memory fits and nothing spills."""

import re
import subprocess

import pytest
import torch

triton = pytest.importorskip("triton")
from triton.backends.compiler import GPUTarget  # noqa: E402

from pynanochat.kernels import linear_fp8, product, relu2_mlp  # noqa: E402
from pynanochat.kernels import linear_softcap_cross_entropy as cross_entropy  # noqa: E402
from pynanochat.kernels import muon_step as muon  # noqa: E402
from pynanochat.kernels import muon_step_around as around  # noqa: E402
from pynanochat.kernels import rotary_qk_norm as rotary  # noqa: E402

SHARED = {80: 163 * 1024, 90: 227 * 1024}  # bytes a block may have
POINTERS = {  # by argument; x, weight and the like are of the kernel's dtype
    **dict.fromkeys(("cos", "sin", "losses", "token_scale", "partial", "picked"), "*fp32"),
    "targets": "*i64",
    **dict.fromkeys(("scale", "eps", "softcap"), "fp32"),
}
OF_DTYPE = ("q", "grad_q", "out_q", "k", "grad_k", "out_k", "products", "x", "weight")
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

# the kernels with matrix products a·b
POINTERS |= dict.fromkeys(("shift", "linear", "square"), "fp32")
OF_DTYPE += ("a", "b", "h", "out", "eight", "eight_columns")
WHOLE = (
    "x0",
    "w0",
    "channels",
    "rows",
    "columns",
    "inner",
    "a0",
    "a1",
    "b0",
    "b1",
    "b2",
    "o0",
    "o1",
)  # times 16, mostly
BY_ROWS = {"a2": 1, "b2": 1, "o2": 1}
BY_COLUMNS = {"a2": 1, "b1": 1, "o2": 1}


NAMES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float8_e4m3fn: "fp8e4nv",
    torch.float8_e5m2: "fp8e5",
}


def product_entry(kernel, dtype, side, **constants):
    """An entry of KERNELS: the tiles that a product of side·side matrices of `dtype` would use."""
    tile = product.tiles(dtype, side, side)
    assert tile.pop("num_stages") == 3
    warps = tile.pop("num_warps")
    holds = "fma" if dtype == torch.float32 else "wgmma"
    return kernel, {**tile, **constants}, NAMES[dtype], warps, holds


MUON = {
    "product": {"SYMMETRIC": False, "POLYNOMIAL": False, **BY_ROWS},
    "symmetric": {"SYMMETRIC": True, "POLYNOMIAL": False, **BY_COLUMNS},
    "polynomial": {"SYMMETRIC": True, "POLYNOMIAL": True, **BY_ROWS},
}
KERNELS |= {
    f"muon {name} {dtype} {side}": product_entry(muon.product_kernel, dtype, side, GROUP=product.GROUP, **constants)
    for name, constants in MUON.items()
    for dtype, side in ((torch.float16, 4096), (torch.float16, 256), (torch.float32, 256))
}
POINTERS |= {"limit": "fp32", **dict.fromkeys(("eight_scale", "eight_amax"), "*fp32")}
RELU2 = {"SCALED": False, "KEEP": True, "EIGHT": False, "h2": 1, "GROUP": product.GROUP}
IN_8 = {**RELU2, "SCALED": True, "EIGHT": True}
POINTERS |= dict.fromkeys(("a_inverse", "b_inverse"), "*fp32")
KERNELS |= {
    f"relu2 {name} {dtype}": product_entry(relu2_mlp.relu2_kernel, dtype, 4096, **constants)
    for dtype in (torch.bfloat16, torch.float32)
    for name, constants in (
        ("forward", {**RELU2, "SLOPE": False, **BY_COLUMNS}),
        ("slope", {**RELU2, "SLOPE": True, **BY_ROWS}),
    )
}
KERNELS |= {
    "relu2 forward in fp8": product_entry(
        relu2_mlp.relu2_kernel, torch.float8_e4m3fn, 4096, **IN_8, SLOPE=False, **BY_COLUMNS
    ),
    "relu2 slope in fp8": product_entry(
        relu2_mlp.relu2_kernel, torch.float8_e5m2, 4096, **{**IN_8, "KEEP": False}, SLOPE=True, **BY_COLUMNS
    ),
}
CAST = {"SIDE": linear_fp8.SIDE, "x1": 1}
POINTERS |= dict.fromkeys(("by_rows", "by_columns"), "*fp8e4nv")
KERNELS |= {f"cast to fp8 {dtype}": (linear_fp8.cast_kernel, CAST, dtype, 4, "e4m3x2") for dtype in ("bf16", "fp32")}
# what muon_step does around them
POINTERS |= dict.fromkeys(("buffer", "grad_like", "param_like", "norms", "scale_by", "sums"), "*fp32")
POINTERS |= {"grads": "*i64", "params": "*i64", **dict.fromkeys(("mu", "lr", "decay"), "fp32")}
WHOLE += ("m0", "m1", "g1", "p1", "x1", "s0", "x_line", "x_along", "lines", "length")
TILE = {"ROWS": around.ROWS, "COLUMNS": around.COLUMNS}
BY_ROW = {"LINES": around.ROWS, "ALONG": around.COLUMNS, "x_along": 1}
BY_COLUMN = {"LINES": around.LINES, "ALONG": around.ALONG, "x_line": 1}
KERNELS |= {
    f"muon {name}": (kernel, {**constants, "ALIGNED": True}, "fp16", 4, "ld.global.*v4")
    for name, kernel, constants in (
        ("momentum", around.momentum_kernel, {**TILE, "FIRST": True, "m2": 1, "g2": 1}),
        ("nesterov", around.momentum_kernel, {**TILE, "FIRST": False, "m2": 1, "g2": 1}),
        ("update", around.update_kernel, {**TILE, "CAUTIOUS": True, "x2": 1, "p2": 1, "s2": 0}),
    )
}
KERNELS |= {
    "muon squares of rows": (around.squares_kernel, BY_ROW, "fp16", 4, "ld.global.*v4"),
    "muon squares of columns": (around.squares_kernel, BY_COLUMN, "fp16", 4, "ld.global.*v4"),
}


def compile_for(architecture, kernel, constants, dtype, warps):
    kinds = {**POINTERS, **dict.fromkeys(OF_DTYPE, f"*{dtype}"), **dict.fromkeys(constants, "constexpr")}
    if constants.get("EIGHT"):  # an activation's factors are e4m3; a gradient is e5m2, its other factor e4m3
        kinds |= {"b": "*fp8e4nv", "h": "*bf16", "out": "*bf16", "eight": f"*{dtype}", "eight_columns": f"*{dtype}"}
    signature = {name: kinds.get(name, "i32") for name in kernel.arg_names}
    whole = [n for n, kind in signature.items() if kind.startswith("*") or (n in WHOLE and kind == "i32")]
    aligned = {(kernel.arg_names.index(n),): [["tt.divisibility", 16]] for n in whole}  # as a launch would find it
    source = triton.compiler.ASTSource(kernel, signature, constexprs=constants, attrs=aligned)
    options = {"num_warps": warps, "num_stages": 3}
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)


@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("name", KERNELS)
def test_compiles(name, architecture, tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    *what, holds = KERNELS[name]
    if architecture < 89 and "fp8" in name:
        pytest.skip("sm_80 has no fp8")
    compiled = compile_for(architecture, *what)
    assert compiled.metadata.shared <= SHARED[architecture]
    assert architecture == 80 or re.search(holds, compiled.asm["ptx"])
    cubin = tmp_path / "kernel.cubin"
    cubin.write_bytes(compiled.asm["cubin"])
    tool = triton.knobs.nvidia.cuobjdump.path
    run = subprocess.run([tool, "-res-usage", str(cubin)], capture_output=True, text=True, check=True)
    usage = run.stdout + run.stderr
    assert re.search(r"STACK:0\b", usage) and re.search(r"LOCAL:0\b", usage), usage
