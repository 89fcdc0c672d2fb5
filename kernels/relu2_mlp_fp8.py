"""Triton twin of the fused products of relu2_mlp_fp8: the kernel of relu2_mlp.py on 8-bit floats, in and out.

    relu2(x, w_fc, inverses, scale, dtype) -> h (N, M) = relu(x w_fcᵀ)² in `dtype`, and in 8 bits (N, M) and (M, N)
    slope(dy, w_proj_columns, h, inverses, scale) -> dz = (dy w_proj)·2√h in 8 bits, (N, M) and (M, N)

x and w_fc (M, C) in e4m3, dy in e5m2, w_proj by columns (M, C) in e4m3: dense along the inner dimension, as the tensor
cores take them. `inverses` are of the factors' scales. The epilogue multiplies by the result's scale, cuts, rounds once
and raises the scale's amax, so that the next products need no pass over (N, M). Sums are those of fp8 tensor cores,
somewhat fewer bits than fp32. Bound by products, at twice the rate of bf16: 2·N·C·M FLOPs each.

Interpreted on fp32 copies of the factors and with fp32 stores; as such compiled for sm_90 (8-bit floats need sm_89). It
has not run on a GPU yet.
"""

from pynanochat.kernels.relu2_mlp import launch


def relu2(x, w_fc, inverses, scale, dtype):
    return launch(x, w_fc.T, None, dtype, inverses, scale)


def slope(dy, w_proj_columns, h, inverses, scale):
    return launch(dy, w_proj_columns.T, h, h.dtype, inverses, scale, keep=False)[1:]
