"""From logits to tokens: penalty, temperature, top-k, top-p, min-p, and random numbers that are the request's own.

    tokens = sample(logits, [Sampling(top_k=5), Sampling(0)], [uniform(seed, 0, position), 0.0])
    values, top_values, top_ids = logprobs(logits, tokens, 5)

The filters come in the order that the widespread engines have: repetition penalty, temperature, top-k, top-p over what
top-k left, min-p. All of them keep or drop tokens by a smallest logit, so equal tokens share their fate.

A token is the inverse of the cumulative distribution at one uniform number, and that number is a hash of (seed, sample,
position): no generator has a state, so a request draws the same numbers alone, in a batch, or taken up again. Beyond
the penalty all sums are in fp64 over the tokens in the order of their ids, so that neither the rows beside a row nor
the number of candidates looked at can move a boundary. On a GPU the draw is ops.sample_tokens, by the same rules.

R rows, V vocabulary, W candidates.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from pynanochat import ops
from pynanochat.engine.flight import Drawn, sent
from pynanochat.engine.sampling import Sampling

CANDIDATES = 256
"""Tokens that are looked at first where top-p or min-p is to choose among all of the vocabulary."""


def uniform(seed: int, sample: int, position: int) -> float:
    """The number in [0, 1) that draws the token at `position` of sample number `sample` of a request."""
    digest = hashlib.blake2b(b"%d/%d/%d" % (seed, sample, position), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) * 2.0**-53


def sample(
    logits,
    samplings: list[Sampling],
    numbers: list[float],
    histories: Sequence[Sequence[int]] | None = None,
    drawn: Drawn | None = None,
):
    """A token (R,) int64 for each row of logits (R, V) fp32, rows with their own settings and numbers in [0, 1).

    histories[row] holds the ids that the row's repetition penalty is for, those of its prompt and its answer so far;
    it is read only where the penalty is not 1. One below 0 is a number in `drawn`. A row whose logits are not numbers
    gets V, which is no token.
    """
    logits = _penalised(logits, samplings, histories, drawn)
    if logits.device.type == "cuda":
        return sample_unasked(logits, samplings, numbers)
    best, tokens = logits.max(dim=-1)
    vocabulary = logits.size(-1)
    chosen = [_filters(s, vocabulary) if s.temperature else None for s in samplings]
    settings = torch.tensor(
        [(s.temperature or 1.0, s.top_k if s.top_k < vocabulary else 0, s.top_p, s.min_p) for s in samplings],
        dtype=torch.float64,
    ).to(logits.device)
    numbers = torch.tensor(numbers, dtype=torch.float64).to(logits.device)
    for filtered in (False, True):
        rows = [row for row, filters in enumerate(chosen) if filters is filtered]
        if not rows:
            continue
        part = logits if len(rows) == len(chosen) else logits[rows]
        if filtered:
            window = max(samplings[row].top_k + 1 if samplings[row].top_k else CANDIDATES for row in rows)
            tokens[rows] = _draw_filtered(part, settings[rows], numbers[rows], min(window, vocabulary))
        else:
            tokens[rows] = draw(_weights(part, best[rows], settings[rows, 0]), numbers[rows])
    return tokens.masked_fill(~best.isfinite(), vocabulary)


def sample_unasked(logits, samplings: list[Sampling], numbers: list[float]):
    """What `sample` gives without a penalty, by the op that asks a GPU for nothing: the settings go there in one copy,
    and the host first waits where the tokens are read."""
    rows = len(samplings)
    aligned = rows + rows % 2  # kernels are compiled for addresses that divide by 16
    settings = torch.zeros(5, aligned, dtype=torch.float64, pin_memory=logits.device.type == "cuda")
    given = [(s.temperature, s.top_p, s.min_p, number) for s, number in zip(samplings, numbers, strict=True)]
    settings[:4, :rows] = torch.tensor(given, dtype=torch.float64).T
    settings[4, :rows] = torch.tensor([s.top_k for s in samplings]).view(torch.float64)  # whole numbers, bit by bit
    settings = settings.to(logits.device, non_blocking=True)[:, :rows]
    temperature, top_p, min_p, number, top_k = settings
    return ops.sample_tokens(logits, temperature, top_k.view(torch.int64), top_p, min_p, number)


def draw(weights, numbers):
    """For each row of weights (R, W), not necessarily normalised, the place (R,) at its number in [0, 1) of the
    cumulative sum."""
    mass = weights.double().cumsum(dim=-1)
    total = mass[:, -1:]
    at = numbers[:, None] * total
    at = torch.minimum(at, torch.nextafter(total, torch.zeros_like(total)))  # rounding must not reach past the last
    return torch.searchsorted(mass, at, right=True).squeeze(1)


def logprobs(logits, tokens, count: int):
    """The model's own log-probabilities: of tokens (R,), and of the `count` most probable the values (R, count) and
    ids (R, count), most probable first. Natural logarithms in fp64 of log_softmax(logits).

    With fewer than `count` tokens in the vocabulary there are as many as there are.
    """
    wide = logits.double()
    total = wide.logsumexp(dim=-1, keepdim=True)
    taken = wide.gather(1, tokens[:, None]) - total
    top, ids = logits.topk(min(count, logits.size(-1)), dim=-1)
    return taken.squeeze(1), top.double() - total, ids


def _filters(sampling, vocabulary):
    return 0 < sampling.top_k < vocabulary or sampling.top_p < 1 or sampling.min_p > 0


def _penalised(logits, samplings, histories, drawn):
    """Logits with each row's repetition penalty; the same tensor where there is none."""
    rows = [row for row, s in enumerate(samplings) if s.repetition_penalty != 1 and len(histories[row])]
    if not rows:
        return logits
    seen = [np.asarray(histories[row], dtype=np.int64) for row in rows]
    row, ids = sent([np.repeat(rows, [len(ids) for ids in seen]), np.concatenate(seen)], logits.device)
    at = row, ids if drawn is None else drawn.of(ids)
    penalties = [s.repetition_penalty for s in samplings]
    penalties = torch.tensor(penalties, dtype=logits.dtype, pin_memory=logits.device.type == "cuda")
    penalty = penalties.to(logits.device, non_blocking=True)[row]
    value = logits[at]
    # a token seen twice is written twice with one value: the penalty is for having been seen, not for how often
    return logits.index_put(at, torch.where(value > 0, value / penalty, value * penalty))


def _weights(values, largest, temperature):
    """exp((values - largest) / temperature) in fp64: probabilities (R, W) up to a factor, at most 1."""
    return ((values.double() - largest.double()[:, None]) / temperature[:, None]).exp()


def _draw_filtered(logits, settings, numbers, window):
    """A token (R,) for rows with filters, found among the `window` most probable ones where they suffice."""
    temperature, top_k, top_p, min_p = settings.unbind(dim=1)
    values, ids = logits.topk(window, dim=-1)
    weights = _weights(values, values[:, 0], temperature)
    kth = values.gather(1, (top_k.long() - 1).clamp(min=0)[:, None]).masked_fill(top_k[:, None] == 0, -torch.inf)
    weights = weights.masked_fill(values < kth, 0.0)
    mass = weights.cumsum(dim=-1)
    whole, rows = mass[:, -1].clone(), (top_k == 0) & (top_p < 1)
    whole[rows] = _weights(logits[rows], values[rows, 0], temperature[rows]).sum(dim=-1)
    before = torch.nn.functional.pad(mass[:, :-1], (1, 0))  # of the more probable tokens
    keep = (values >= kth) & ((before < (top_p * whole)[:, None]) | (top_p[:, None] == 1)) & (weights >= min_p[:, None])
    smallest = values.masked_fill(~keep, torch.inf).amin(dim=-1, keepdim=True)
    weights = weights.masked_fill(values < smallest, 0.0)
    ids, order = ids.sort(dim=-1)
    place = draw(weights.gather(1, order), numbers).clamp(max=window - 1)  # where logits are not numbers it is beyond
    tokens = ids.gather(1, place[:, None]).squeeze(1)
    if window < logits.size(-1):
        last = values[:, -1:]  # what equals it may go on out of sight
        short = ((smallest <= last) | ((kth <= last) & (top_k[:, None] > 0))).squeeze(1)
        if short.any():
            tokens[short] = _draw_filtered(logits[short], settings[short], numbers[short], logits.size(-1))
    return tokens
