"""The GPU backend of rms_norm_residual: `triton` (kernels/rms_norm_residual.py)."""

from pynanochat.ops.gpu import triton_twin

triton = triton_twin("rms_norm_residual", "forward", "backward")
