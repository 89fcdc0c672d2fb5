"""Triton twin of rms_norm_residual: a residual sum and its norm in one pass, with the kernels of rms_norm.

    forward(x, residual, eps) -> total, normed
    backward(dtotal, dnormed, total, eps) -> the gradient of x, which is that of residual too

All (..., C), any strides -> contiguous, in x's dtype. The norm is of the sum as it is stored. Bound by memory: forward
reads two and writes two arrays, where a sum and then a norm read three and write two; backward reads three, writes one.
Interpreted and compiled so far; it has not run on a GPU yet.
"""

from pynanochat.kernels.rms_norm import launch_backward, launch_forward


def forward(x, residual, eps):
    """x + residual, and its norm over the last dimension."""
    return launch_forward(x, residual, eps)


def backward(dtotal, dnormed, total, eps):
    """The gradient of both inputs from those of both results."""
    return launch_backward(dnormed, total, dtotal, eps)
