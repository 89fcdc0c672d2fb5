"""The GPU backends of attention: `triton` (kernels/attention.py)."""

from pynanochat.ops.gpu import triton_twin

triton = triton_twin("attention", "forward", "backward")
