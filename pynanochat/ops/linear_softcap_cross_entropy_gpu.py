"""The GPU backends of linear_softcap_cross_entropy: torch's matrix products around one fused kernel, chunk by chunk.

The kernel (kernels/OP.py or csrc/cuda/OP.cu) turns a chunk's products x Wᵀ in place into the gradient of the loss. The
workspace holds one chunk's products, at most WORKSPACE bytes, whatever N and V are.
"""

import types

import torch

from pynanochat import _C
from pynanochat.ops.casts import cast
from pynanochat.ops.gpu import cuda_stream, triton_twin

WORKSPACE = 128 * 2**20  # bytes


def chunk_tokens(tokens: int, stride: int, itemsize: int) -> int:
    """How many rows of `stride` elements a chunk has: what fits WORKSPACE, in whole multiples of 128 where it can."""
    fit = max(1, WORKSPACE // (stride * itemsize))
    return min(max(tokens, 1), fit - fit % 128 if fit >= 128 else fit)


def _products(x, head):
    """For each chunk of tokens its slice and its products with the head (n, V), in a workspace that all share."""
    columns = head.size(0)
    whole = 16 // x.element_size()  # rows begin on 16 bytes, so that kernels may load vectors
    stride = -(-columns // whole) * whole
    count = chunk_tokens(x.size(0), stride, x.element_size())
    workspace = torch.empty(count, stride, dtype=x.dtype, device=x.device)
    for start in range(0, x.size(0), count):
        part = slice(start, min(start + count, x.size(0)))
        products = workspace[: part.stop - start, :columns]
        torch.mm(x[part], head.T, out=products)
        yield part, products


def chunked_losses(rows, x, weight, targets, vocab_size, softcap, ignore_index):
    """losses (N,) fp32. `rows(products, targets, token_scale or None, losses, softcap, ignore_index)` is the kernel."""
    losses = torch.empty(x.size(0), dtype=torch.float32, device=x.device)
    for part, products in _products(x, cast(weight, x.dtype)[:vocab_size]):
        rows(products, targets[part], None, losses[part], softcap, ignore_index)
    return losses


def chunked_losses_and_grads(rows, x, weight, targets, token_scale, vocab_size, softcap, ignore_index):
    """losses (N,) fp32 and the gradients of x and weight, of sum(token_scale · losses)."""
    head = cast(weight, x.dtype)[:vocab_size]
    token_scale = token_scale.to(torch.float32)
    losses = torch.empty(x.size(0), dtype=torch.float32, device=x.device)
    dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    dweight = torch.zeros(weight.shape, dtype=torch.float32, device=x.device)
    for part, products in _products(x, head):
        rows(products, targets[part], token_scale[part], losses[part], softcap, ignore_index)
        torch.mm(products, head, out=dx[part])
        dweight[:vocab_size] += products.T @ x[part]
    return losses, dx, dweight.to(weight.dtype)


_triton = triton_twin("linear_softcap_cross_entropy", "losses", "rows")


def losses_triton(x, weight, targets, vocab_size, softcap, ignore_index):
    return _triton.losses(x, cast(weight, x.dtype)[:vocab_size], targets, softcap, ignore_index)


def losses_and_grads_triton(*inputs):
    return chunked_losses_and_grads(_triton.rows, *inputs)


def rows_cuda(products, targets, token_scale, losses, softcap, ignore_index):
    with cuda_stream("linear_softcap_cross_entropy", products) as stream:
        _C.cuda_linear_softcap_cross_entropy(products, targets, token_scale, losses, softcap, ignore_index, stream)


def losses_cuda(*inputs):
    return chunked_losses(rows_cuda, *inputs)


def losses_and_grads_cuda(*inputs):
    return chunked_losses_and_grads(rows_cuda, *inputs)


triton = types.SimpleNamespace(losses=losses_triton, losses_and_grads=losses_and_grads_triton)
cuda = types.SimpleNamespace(losses=losses_cuda, losses_and_grads=losses_and_grads_cuda)
