"""The GPU backend of smear: `triton` (kernels/smear.py)."""

from pynanochat.ops.gpu import triton_twin

triton = triton_twin("smear", "forward", "backward")
