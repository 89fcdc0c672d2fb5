"""From logits to tokens: penalty, temperature, top-k, top-p, min-p, and random numbers that are the request's own.

    tokens = sample(logits, [Sampling(top_k=5), Sampling(0)], [uniform(seed, 0, position), 0.0])
    values, top_values, top_ids = logprobs(logits, tokens, 5)

The filters come in the order that the widespread engines have: repetition penalty, temperature, top-k, top-p over what
top-k left, min-p: all but the penalty are ops.sample_tokens, which has their rules.

A token is the inverse of the cumulative distribution at one uniform number, and that number is a hash of (seed, sample,
position): no generator has a state, so a request draws the same numbers alone, in a batch, or taken up again.

R rows, V vocabulary.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from pynanochat import ops
from pynanochat.engine.flight import Drawn, sent
from pynanochat.engine.sampling import Sampling


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
    columns = [[s.temperature for s in samplings], [s.top_p for s in samplings], [s.min_p for s in samplings], numbers]
    bits = [np.array(column, np.float64).view(np.int64) for column in columns]
    top_k = np.array([min(s.top_k, logits.size(-1)) for s in samplings], np.int64)
    *bits, top_k = sent([*bits, top_k], logits.device)
    temperature, top_p, min_p, number = (column.view(torch.float64) for column in bits)
    return ops.sample_tokens(logits, temperature, top_k, top_p, min_p, number)


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
