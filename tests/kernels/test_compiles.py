"""Every Triton kernel, as the ops launch it, compiles for sm_80 and sm_90, which needs no GPU; shared memory fits, and
nothing spills."""

import re
import subprocess

import pytest
import torch

triton = pytest.importorskip("triton")
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from pynanochat import kernels  # noqa: E402
from pynanochat.kernels import (  # noqa: E402
    adamw_step,
    attention,
    attention_paged,
    linear_fp8,
    linear_softcap_cross_entropy,
    muon_step,
    muon_step_around,
    relu2_mlp,
    relu2_mlp_fp8,
    rms_norm,
    rms_norm_residual,
    rotary_qk_norm,
    sample_tokens,
    smear,
    value_gate,
)
from pynanochat.ops.fp8 import E4M3, E5M2, Scales  # noqa: E402
from tests.kernels.launches import record  # noqa: E402

SHARED = {80: 99 * 1024, 90: 227 * 1024}  # bytes a block may have; those of sm_80 are for sm_86 and sm_89 too
SPILLED = {("3.6.", "dkdv_kernel"): 32}  # bytes a thread, by the version of Triton that comes with torch 2.11
BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
VECTORS = "ld.global.*v4"  # 16 bytes a load


def full(*shape, dtype=BF16):
    return torch.zeros(shape, dtype=dtype)


def rotary(dtype=BF16):
    q, k, table = full(1, 4, 6, 128, dtype=dtype), full(1, 4, 2, 128, dtype=dtype), full(4, 64, dtype=FP32)
    rotary_qk_norm.forward(q, k, table, table, 1.2, 1e-6)
    rotary_qk_norm.backward(q, k, q, k, table, table, 1.2, 1e-6)


def cross_entropy(dtype=BF16):
    x, weight, targets = full(128, 768, dtype=dtype), full(32768, 768, dtype=dtype), torch.zeros(128).long()
    linear_softcap_cross_entropy.losses(x, weight, targets, 15.0, -1)
    products, losses = full(128, 32768, dtype=dtype), full(128, dtype=FP32)
    linear_softcap_cross_entropy.rows(products, targets, None, losses, 15.0, -1)
    linear_softcap_cross_entropy.rows(products, targets, losses, losses, 15.0, -1)


def attended(size, dtype=BF16, groups=2, window=-1):
    q, k = full(1, 300, 4, size, dtype=dtype), full(1, 300, groups, size, dtype=dtype)
    out, lse = attention.forward(q, k, k, window)
    attention.backward(q, q, k, k, out, lse, window)


def paged(longest, heads=8, groups=8, size=128, dtype=BF16, rows=4, columns=256):
    q, pages = full(rows * longest, heads, size, dtype=dtype), full(4, 16, groups, size, dtype=dtype)
    tables, lengths = torch.zeros(rows, columns).long(), torch.full((rows,), 3000)
    starts = torch.arange(rows + 1) * longest
    attention_paged.forward(q, pages, pages, tables, starts, lengths, longest, -1)


def sampled():
    settings = [full(4, dtype=torch.float64), torch.zeros(4).long(), *[full(4, dtype=torch.float64)] * 3]
    sample_tokens.forward(full(4, 32768, dtype=FP32), *settings)


def norms(columns):
    x = full(64, columns)
    rms_norm.forward(x, 1e-6)
    rms_norm.backward(x, x, 1e-6)
    rms_norm_residual.forward(x, x, 1e-6)
    rms_norm_residual.backward(x, x, x, 1e-6)


def smeared():
    x, weight, scale = full(2, 64, 1536), full(1, 24, dtype=FP32), full(1, dtype=FP32)
    smear.forward(x, weight, scale, None)
    smear.backward(x, x, weight, scale, None)
    first = x[:, :1].contiguous()
    smear.forward(first, weight, scale, first)
    smear.backward(first, first, weight, scale, first)


def gated():
    v, x, ids = full(2, 64, 4, 128), full(2, 64, 1536), torch.zeros(2, 64).long()
    table, weight = full(32768, 512, dtype=FP32), full(4, 12, dtype=FP32)
    value_gate.forward(v, x, ids, table, weight)
    value_gate.backward(v, x, ids, table, weight)


def adamw(gradient):
    params = [full(768, 768, dtype=FP32), full(100, dtype=FP32)]
    adamw_step.step(full(7, dtype=FP32), params, [full(*p.shape, dtype=gradient) for p in params], params, params)


def muon(dtype, n, rows, columns):
    muon_step.iterate(full(n, rows, columns, dtype=dtype), [(3.4, -4.8, 2.0)] * 2)


def muon_around(rows, columns):
    matrices = [full(rows, columns, dtype=FP32) for _ in range(2)]
    momentum, row_scale = full(2, rows, columns, dtype=FP32), full(2, rows, 1, dtype=FP32)
    muon_step_around.momentum(momentum, matrices, 0.9)
    x = muon_step_around.nesterov(momentum, matrices, 0.9, row_scale, FP16)
    scale = muon_step_around.squares(x)
    muon_step_around.update(x, matrices, scale, 0.02, 0.01, True)


def relu2(dtype):
    x, w_fc, w_proj = full(4096, 768, dtype=dtype), full(3072, 768, dtype=dtype), full(768, 3072, dtype=dtype)
    h = full(4096, 3072, dtype=dtype)
    relu2_mlp.relu2(x, w_fc)
    relu2_mlp.slope(x, w_proj, h)


def relu2_fp8():
    x, w_fc, w_proj_columns = full(4096, 768, dtype=E4M3), full(3072, 768, dtype=E4M3), full(3072, 768, dtype=E4M3)
    inverses = (scale().inverse, scale().inverse)
    relu2_mlp_fp8.relu2(x, w_fc, inverses, scale(), BF16)
    relu2_mlp_fp8.slope(full(4096, 768, dtype=E5M2), w_proj_columns, full(4096, 3072), inverses, Scales([E5M2])[0])


def cast(dtype):
    linear_fp8.cast(full(1024, 768, dtype=dtype), scale())


def scale():
    return Scales([E4M3])[0]


ATTENTION = {"delta_kernel": "add", "": "wgmma"}
DECODE = {"attend_kernel": "cp.async", "combine_kernel": "ex2"}
PREFILL = {"attend_kernel": "wgmma", "combine_kernel": "ex2"}
CALLS = {  # the call, and what the PTX for sm_90 of its kernels must hold
    "rotary": (rotary, "sqrt"),
    "cross-entropy": (cross_entropy, {"losses_kernel": "wgmma", "rows_kernel": "ex2"}),
    "cross-entropy fp32": (lambda: cross_entropy(FP32), {"losses_kernel": "fma", "rows_kernel": "ex2"}),
    "attention": (lambda: attended(128), ATTENTION),
    "attention, head 64, window": (lambda: attended(64, window=100), ATTENTION),
    "attention fp32": (lambda: attended(128, FP32), "fma"),
    "paged decode": (lambda: paged(1), DECODE),
    "paged decode, group of 4": (lambda: paged(1, groups=2), DECODE),
    "paged decode, head 256": (lambda: paged(1, size=256), DECODE),
    "paged few queries": (lambda: paged(8, groups=1, columns=4), "wgmma"),
    "paged prefill": (lambda: paged(512), PREFILL),
    "paged prefill, group of 3": (lambda: paged(512, heads=12, groups=4), PREFILL),
    "paged prefill, head 64": (lambda: paged(512, size=64), PREFILL),
    "paged prefill, head 256": (lambda: paged(512, size=256), PREFILL),
    "paged fp32": (lambda: paged(1, dtype=FP32), {"attend_kernel": "fma", "combine_kernel": "ex2"}),
    "sample": (sampled, "fma.rn.f64"),
    "norms": (lambda: norms(1536), VECTORS),
    "wide norms": (lambda: norms(9216), VECTORS),
    "smear": (smeared, VECTORS),
    "value gate": (gated, {"table_chunk_kernel": "st.global.*v4", "": VECTORS}),
    "adamw": (lambda: adamw(FP32), VECTORS),
    "adamw, bf16 gradients": (lambda: adamw(BF16), VECTORS),
    "muon large": (lambda: muon(FP16, 1, 4096, 4096), "wgmma"),
    "muon wide": (lambda: muon(FP16, 12, 768, 3072), "wgmma"),
    "muon small": (lambda: muon(FP16, 1, 256, 256), "wgmma"),
    "muon fp32": (lambda: muon(FP32, 1, 256, 256), "fma"),
    "muon around, wide": (lambda: muon_around(768, 3072), VECTORS),
    "muon around, tall": (lambda: muon_around(3072, 768), VECTORS),
    "relu2": (lambda: relu2(BF16), "wgmma"),
    "relu2 fp32": (lambda: relu2(FP32), "fma"),
    "relu2 in fp8": (relu2_fp8, "wgmma"),
    "cast to fp8": (lambda: cast(BF16), "e4m3x2"),
    "cast fp32 to fp8": (lambda: cast(FP32), "e4m3x2"),
}
ON_HOPPER_ONLY = ("fp8",)


def compile_for(architecture, launch):
    aligned = {(launch.kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in launch.whole}
    source = ASTSource(launch.kernel, launch.signature, constexprs=launch.constants, attrs=aligned)
    return triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=launch.options)


@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("name", CALLS)
def test_compiles(name, architecture, tmp_path, monkeypatch):
    if architecture < 89 and name.endswith(ON_HOPPER_ONLY):
        pytest.skip("this card multiplies no fp8")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(kernels, "architecture", lambda device: architecture)
    call, holds = CALLS[name]
    launches = record(call, monkeypatch)
    assert launches
    for launch in {repr(launch): launch for launch in launches}.values():
        compiled = compile_for(architecture, launch)
        assert compiled.metadata.shared <= SHARED[architecture], launch
        if architecture == 90:
            kernel = launch.kernel.__name__
            wanted = holds if isinstance(holds, str) else holds.get(kernel) or holds[""]
            assert re.search(wanted, compiled.asm["ptx"]), kernel
        check_no_spills(compiled, tmp_path / "kernel.cubin", launch)


def check_no_spills(compiled, path, launch):
    path.write_bytes(compiled.asm["cubin"])
    command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", str(path)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    usage = run.stdout + run.stderr
    spilled = int(re.search(r"STACK:(\d+)", usage)[1])
    assert spilled <= SPILLED.get((triton.__version__[:4], launch.kernel.__name__), 0), (launch, usage)
    assert re.search(r"LOCAL:0\b", usage), (launch, usage)
