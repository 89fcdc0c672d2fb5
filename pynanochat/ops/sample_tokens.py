"""A token for each row of logits, drawn by the row's own settings and number; nothing waits for the device.

The rules: temperature, then top-k, top-p over what top-k left, min-p, each keeping or dropping tokens by a smallest
logit, so that equal tokens share their fate; then the inverse of the cumulative distribution at a number of the row's
own, in fp64 over the tokens in the order of their ids, so that no row beside it can move a boundary. The settings are
tensors, so a CUDA graph may hold the draw. A repetition penalty is applied to the logits before.

R rows, V vocabulary. Backends add up and take exponentials in ways that may differ in the last bit: only a number, a
top_p or a min_p that falls on a boundary to 15 digits can tell, or the number 0 where the first tokens have less than
exp(-700) of the most probable one's weight, which the CPU's takes for none.
"""

import torch

from pynanochat import _C
from pynanochat.ops.backends import implement, pick
from pynanochat.ops.gpu import triton_twin
from pynanochat.ops.register import define

# --- reference ---


def sample_tokens_reference(logits, temperature, top_k, top_p, min_p, number):
    vocabulary = logits.size(-1)
    best, token = logits.amax(dim=-1), logits.argmax(dim=-1)
    heat = torch.where(temperature == 0, 1.0, temperature)[:, None]
    weights = ((logits.double() - best.double()[:, None]) / heat).exp()  # in the order of ids
    values, order = logits.sort(dim=-1, descending=True)
    limited = ((top_k > 0) & (top_k < vocabulary))[:, None]
    kth = values.gather(1, (top_k - 1).clamp(0, vocabulary - 1)[:, None]).masked_fill(~limited, -torch.inf)
    ranked = weights.gather(1, order).masked_fill(values < kth, 0.0)
    mass = ranked.cumsum(dim=-1)
    whole = torch.where(limited, mass[:, -1:], weights.sum(dim=-1, keepdim=True))
    top_p, min_p = top_p[:, None], min_p[:, None]
    before = torch.nn.functional.pad(mass[:, :-1], (1, 0))  # of the more probable tokens
    keep = (values >= kth) & ((before < top_p * whole) | (top_p == 1)) & (ranked >= min_p)
    smallest = values.masked_fill(~keep, torch.inf).amin(dim=-1, keepdim=True)
    drawn = _draw(weights.masked_fill((logits < smallest) | (logits < kth), 0.0), number)
    token = torch.where(temperature == 0, token, drawn)
    return token.masked_fill(~best.isfinite(), vocabulary)


def _draw(weights, number):
    """The first place (R,) of weights (R, V) whose cumulative sum is beyond `number` of the whole."""
    mass = weights.cumsum(dim=-1)
    total = mass[:, -1:]
    at = torch.minimum(number[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(mass, at, right=True).squeeze(1)


# --- cpu ---


def sample_tokens_cpu(logits, temperature, top_k, top_p, min_p, number):
    tokens = top_k.new_empty(logits.size(0))
    dense = (x.contiguous() for x in (temperature, top_k, top_p, min_p, number))
    _C.sample_tokens(logits if logits.stride(1) == 1 else logits.contiguous(), *dense, tokens)
    return tokens


implement("sample_tokens", "reference", sample_tokens_reference)
implement("sample_tokens", "cpu", sample_tokens_cpu)
implement("sample_tokens", "triton", triton_twin("sample_tokens", "forward").forward)


# --- registration ---


def _run(logits, temperature, top_k, top_p, min_p, number):
    return pick("sample_tokens", logits)(logits, temperature, top_k, top_p, min_p, number)


_op = define(
    "sample_tokens(Tensor logits, Tensor temperature, Tensor top_k, Tensor top_p, Tensor min_p, Tensor number) "
    "-> Tensor",
    _run,
    lambda logits, temperature, top_k, top_p, min_p, number: top_k.new_empty(logits.size(0)),
)


def sample_tokens(logits, temperature, top_k, top_p, min_p, number):
    """logits (R, V) fp32 -> tokens (R,) int64; a row whose largest logit is not a finite number gets V.

        temperature (0 for the most probable token, the first of equals), top_p, min_p and number, in [0, 1), are (R,)
        float64; top_k (R,) int64, 0 for all tokens. Their values are not looked at: out of the ranges that
    pynanochat.engine.sampling.Sampling has, a row gets any token or V. Raises ValueError for other dtypes or shapes.
    """
    _check(logits, temperature, top_k, top_p, min_p, number)
    return (_op if torch.compiler.is_compiling() else _run)(logits, temperature, top_k, top_p, min_p, number)


def _check(logits, temperature, top_k, top_p, min_p, number):
    if logits.dim() != 2 or logits.dtype != torch.float32 or logits.size(1) == 0:
        raise ValueError(f"logits have shape {tuple(logits.shape)} and dtype {logits.dtype}; expected (R, V) float32")
    rows = logits.shape[:1]
    given = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "number": number}
    for name, x in given.items():
        dtype = torch.int64 if name == "top_k" else torch.float64
        if x.shape != rows or x.dtype != dtype or x.device != logits.device:
            raise ValueError(
                f"{name} has shape {tuple(x.shape)}, dtype {x.dtype} and is on {x.device}; "
                f"expected {tuple(rows)}, {dtype}, on {logits.device}"
            )
