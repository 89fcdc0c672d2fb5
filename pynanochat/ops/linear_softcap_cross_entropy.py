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

from pynanochat.errors import UsageError
from pynanochat.ops.backends import implement, pick

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
    weight = weight[:vocab_size].to(x.dtype)
    parts = zip(x.split(CHUNK), targets.split(CHUNK), strict=True)
    return torch.cat([_chunk_losses(xc, weight, tc, softcap, ignore_index)[0] for xc, tc in parts])


def losses_and_grads_reference(x, weight, targets, token_scale, vocab_size, softcap, ignore_index):
    wide = torch.promote_types(x.dtype, torch.float32)
    head = weight[:vocab_size].to(x.dtype)
    losses, dx = [], torch.empty_like(x)
    dweight = torch.zeros(weight.shape, dtype=torch.promote_types(weight.dtype, wide), device=x.device)
    for start in range(0, x.size(0), CHUNK):
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


class _Reduced(torch.autograd.Function):
    """sum(token_scale · losses) whose gradient is taken in the forward pass."""

    @staticmethod
    def forward(ctx, x, weight, targets, token_scale, settings):
        backend = pick("linear_softcap_cross_entropy", x)
        if not any(ctx.needs_input_grad):
            return (backend.losses(x, weight, targets, *settings) * token_scale).sum()
        losses, dx, dweight = backend.losses_and_grads(x, weight, targets, token_scale, *settings)
        ctx.save_for_backward(dx, dweight)
        return (losses * token_scale).sum()

    @staticmethod
    def backward(ctx, grad):
        dx, dweight = ctx.saved_tensors
        return dx * grad.to(dx.dtype), dweight * grad.to(dweight.dtype), None, None, None


class _PerToken(torch.autograd.Function):
    """losses (N,); the backward pass computes the logits again, a chunk at a time."""

    @staticmethod
    def forward(ctx, x, weight, targets, settings):
        ctx.save_for_backward(x, weight, targets)
        ctx.settings = settings
        return pick("linear_softcap_cross_entropy", x).losses(x, weight, targets, *settings)

    @staticmethod
    def backward(ctx, grad):
        x, weight, targets = ctx.saved_tensors
        backend = pick("linear_softcap_cross_entropy", x)
        _, dx, dweight = backend.losses_and_grads(x, weight, targets, grad, *ctx.settings)
        return dx, dweight, None, None


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
        return _PerToken.apply(x, weight, targets, settings)
    kept = (targets != ignore_index).sum() if reduction == "mean" else torch.ones((), device=x.device)
    wide = torch.promote_types(x.dtype, torch.float32)
    token_scale = (1.0 / kept.clamp_min(1).to(wide)).expand(x.size(0))
    return _Reduced.apply(x, weight, targets, token_scale, settings)
