"""The GPU backend of value_gate: `triton` (kernels/value_gate.py)."""

from pynanochat.ops.gpu import triton_twin

triton = triton_twin("value_gate", "forward", "backward")
