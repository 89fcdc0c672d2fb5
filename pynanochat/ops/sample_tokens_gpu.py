"""The GPU backend of sample_tokens: `triton` (kernels/sample_tokens.py)."""

from pynanochat.ops.gpu import triton_twin

triton = triton_twin("sample_tokens", "forward").forward
