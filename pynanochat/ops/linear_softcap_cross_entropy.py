"""The output head and its loss in one op: logits = cap·tanh(x Wᵀ / cap), loss = cross-entropy(logits, targets).

N tokens, C channels, V rows of the head. All logits are never held at once: tokens go in chunks, and where a gradient
is wanted it is taken while a chunk's logits are at hand. x may be bf16 while the weight is an fp32 master copy:
products are in x's dtype, sums and the softmax in fp32, and the weight's gradient has the weight's dtype.

A backend is a namespace of two functions:
    losses(x, weight, targets, vocab_size, softcap, ignore_index) -> losses (N,) fp32
    losses_and_grads(x, weight, targets, token_scale, vocab_size, softcap, ignore_index)
        -> losses (N,), dx (N, C) in x's dtype, dweight (V, C) in weight's dtype: of sum(token_scale · losses)
Ignored tokens have loss 0 and gradient 0. Rows of the head from vocab_size on are padding: no logits, gradient 0.
"""

import types

import torch

from pynanochat import _C
from pynanochat.errors import UsageError
from pynanochat.ops import linear_softcap_cross_entropy_gpu
from pynanochat.ops.backends import implement, pick
from pynanochat.ops.casts import cast
from pynanochat.ops.register import define, differentiate

CHUNK = 1024  # tokens


def _chunk_losses(x, weight, targets, softcap, ignore_index):
    """losses (n,), softmax probabilities (n, V) and the tanh of one chunk, in fp32 or wider."""
    wide = torch.promote_types(x.dtype, torch.float32)
    squashed = torch.tanh((x @ weight.T).to(wide) / softcap)
    logits = squashed * softcap
    kept = targets != ignore_index
    lse = logits.logsumexp(dim=-1)
    picked = logits.gather(1, targets.clamp_min(0)[:, None]).squeeze(1)
    return torch.where(kept, lse - picked, 0.0), (logits - lse[:, None]).exp_(), squashed, kept


def losses_reference(x, weight, targets, vocab_size, softcap, ignore_index):
    weight = cast(weight, x.dtype)[:vocab_size]
    parts = zip(x.split(CHUNK), targets.split(CHUNK), strict=True)
    return torch.cat([_chunk_losses(xc, weight, tc, softcap, ignore_index)[0] for xc, tc in parts])


def losses_and_grads_reference(x, weight, targets, token_scale, vocab_size, softcap, ignore_index):
    wide = torch.promote_types(x.dtype, torch.float32)
    head = cast(weight, x.dtype)[:vocab_size]
    losses, dx = [], torch.empty_like(x)
    dweight = torch.zeros(weight.shape, dtype=torch.promote_types(weight.dtype, wide), device=x.device)
    for start in range(0, max(1, x.size(0)), CHUNK):
        part = slice(start, start + CHUNK)
        loss, dlogits, squashed, kept = _chunk_losses(x[part], head, targets[part], softcap, ignore_index)
        losses.append(loss)
        dlogits[torch.arange(loss.size(0), device=x.device), targets[part].clamp_min(0)] -= 1
        dlogits *= (token_scale[part].to(wide) * kept)[:, None] * (1 - squashed * squashed)
        dlogits = dlogits.to(x.dtype)
        dx[part] = dlogits @ head
        dweight[:vocab_size] += dlogits.T @ x[part]
    return torch.cat(losses), dx, dweight.to(weight.dtype)


implement(
    "linear_softcap_cross_entropy",
    "reference",
    types.SimpleNamespace(losses=losses_reference, losses_and_grads=losses_and_grads_reference),
)


# --- cpu ---


def _dense(x):
    return x if x.stride(-1) == 1 else x.contiguous()


def losses_cpu(x, weight, targets, vocab_size, softcap, ignore_index):
    losses = torch.empty(x.size(0), dtype=torch.float32)
    _C.linear_softcap_cross_entropy_losses(
        _dense(x), _dense(weight), targets, vocab_size, softcap, ignore_index, losses
    )
    return losses


def losses_and_grads_cpu(x, weight, targets, token_scale, vocab_size, softcap, ignore_index):
    losses, dx = torch.empty(x.size(0), dtype=torch.float32), torch.empty(x.shape, dtype=x.dtype)
    dweight = torch.empty(weight.shape, dtype=torch.float32)
    dweight[vocab_size if x.size(0) else 0 :] = 0
    _C.linear_softcap_cross_entropy_losses_and_grads(
        _dense(x),
        _dense(weight),
        targets,
        token_scale.float(),
        vocab_size,
        softcap,
        ignore_index,
        losses,
        dx,
        dweight[:vocab_size],
    )
    return losses, dx, dweight.to(weight.dtype)


implement(
    "linear_softcap_cross_entropy",
    "cpu",
    types.SimpleNamespace(losses=losses_cpu, losses_and_grads=losses_and_grads_cpu),
)
implement("linear_softcap_cross_entropy", "triton", linear_softcap_cross_entropy_gpu.triton)
implement("linear_softcap_cross_entropy", "cuda", linear_softcap_cross_entropy_gpu.cuda)


# --- registration ---


def _run_losses(x, *inputs):
    return pick("linear_softcap_cross_entropy", x).losses(x, *inputs)


def _run_losses_and_grads(x, *inputs):
    return pick("linear_softcap_cross_entropy", x).losses_and_grads(x, *inputs)


def _fake_losses(x, weight, targets, *settings):
    return x.new_empty(x.size(0), dtype=torch.promote_types(x.dtype, torch.float32))


_losses_op = define(
    "linear_softcap_cross_entropy_losses(Tensor x, Tensor weight, Tensor targets, SymInt vocab_size, float softcap, "
    "int ignore_index) -> Tensor",
    _run_losses,
    _fake_losses,
)
_losses_and_grads_op = define(
    "linear_softcap_cross_entropy_losses_and_grads(Tensor x, Tensor weight, Tensor targets, Tensor token_scale, "
    "SymInt vocab_size, float softcap, int ignore_index) -> (Tensor, Tensor, Tensor)",
    _run_losses_and_grads,
    lambda x, weight, *inputs: (_fake_losses(x, weight, None), x.new_empty(x.shape), weight.new_empty(weight.shape)),
)


def _losses(*inputs):
    return (_losses_op if torch.compiler.is_compiling() else _run_losses)(*inputs)


def _losses_and_grads(*inputs):
    return (_losses_and_grads_op if torch.compiler.is_compiling() else _run_losses_and_grads)(*inputs)


class _Reduced(torch.autograd.Function):
    """sum(token_scale · losses) whose gradient is taken in the forward pass."""

    @staticmethod
    def forward(ctx, x, weight, targets, token_scale, settings):
        losses, dx, dweight = _losses_and_grads(x, weight, targets, token_scale, *settings)
        ctx.save_for_backward(dx, dweight)
        return (losses * token_scale).sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        dx, dweight = ctx.saved_tensors
        return dx * grad.to(dx.dtype), dweight * grad.to(dweight.dtype), None, None, None


def _setup_context(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:3])
    ctx.settings = inputs[3:]


class _PerToken(torch.autograd.Function):
    """losses (N,); the backward pass computes the logits again, a chunk at a time."""

    @staticmethod
    def forward(ctx, *inputs):
        _setup_context(ctx, inputs, None)
        return _run_losses(*inputs)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return *_run_losses_and_grads(*ctx.saved_tensors, grad, *ctx.settings)[1:], *[None] * 4


differentiate(
    "linear_softcap_cross_entropy_losses",
    _setup_context,
    lambda ctx, grad: (*_losses_and_grads_op(*ctx.saved_tensors, grad, *ctx.settings)[1:], *[None] * 4),
)


def linear_softcap_cross_entropy(
    x, weight, targets, *, softcap: float = 15.0, ignore_index: int = -1, reduction: str = "mean", vocab_size=None
):
    """Cross-entropy in nats of cap·tanh(x Wᵀ / cap) against targets.

    x (N, C); weight (V, C); targets (N,) int64 in [0, vocab_size) or ignore_index. `vocab_size` (default V) leaves
    padding rows out. reduction: "mean" over the tokens not ignored (0 if all are), "sum", or "none" -> (N,) fp32.
    """
    if reduction not in ("mean", "sum", "none"):
        raise UsageError(f"reduction={reduction!r}: use 'mean', 'sum' or 'none'")
    settings = (weight.size(0) if vocab_size is None else vocab_size, softcap, ignore_index)
    if reduction == "none":
        return (_losses_op if torch.compiler.is_compiling() else _PerToken.apply)(x, weight, targets, *settings)
    kept = (targets != ignore_index).sum() if reduction == "mean" else torch.ones((), device=x.device)
    wide = torch.promote_types(x.dtype, torch.float32)
    token_scale = (1.0 / kept.clamp_min(1).to(wide)).expand(x.size(0))
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return _Reduced.apply(x, weight, targets, token_scale, settings)
    return (_losses(x, weight, targets, *settings) * token_scale).sum()
