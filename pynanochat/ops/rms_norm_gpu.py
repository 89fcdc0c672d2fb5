"""The GPU backend of rms_norm: `triton` (kernels/rms_norm.py)."""

from pynanochat.ops.gpu import triton_twin

triton = triton_twin("rms_norm", "forward", "backward")
