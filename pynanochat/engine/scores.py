"""Log-probabilities: of the tokens of a prompt as its pieces run, and of those that answers get.

A part is (an answer, so many of its tokens that a pass runs). R rows, V vocabulary.
"""

import torch

from pynanochat.engine.requests import Token
from pynanochat.engine.sampler import logprobs
from pynanochat.engine.tickets import Answer


def places_of(answer: Answer, count: int, end: int) -> range:
    """The places of the pass, of which this part ends before `end`, whose logits score tokens of the prompt."""
    ticket, first = answer.ticket, answer.cached.length
    if not ticket.scoring:
        return range(0)
    start = end - count - first  # the place of the prompt's first token
    return range(start + max(first, ticket.scored - 1), start + min(first + count, len(ticket.request.prompt) - 1))


def scored(parts: list[tuple[Answer, int]], places: list[range], logits) -> list[tuple[int, Token]]:
    """(ticket, Token) of prompts that this pass has scored; the first token of a prompt has no score."""
    made, done = [], 0
    for (answer, _), here in zip(parts, places, strict=True):
        ticket, prompt = answer.ticket, answer.ticket.request.prompt
        if ticket.scoring and not ticket.scored:
            made.append((ticket.number, Token(-1, prompt[0], False)))
            ticket.scored = 1
        if not len(here):
            continue
        ids = prompt[ticket.scored : ticket.scored + len(here)]
        found = _log_probabilities(logits[done : done + len(here)], ids, ticket.request.logprobs or 0)
        made += [(ticket.number, Token(-1, id, False, "", *score)) for id, score in zip(ids, found, strict=True)]
        done += len(here)
        ticket.scored += len(here)
    return made


def with_logprobs(answers: list[Answer], tokens: list[Token], logits) -> list[Token]:
    """The tokens, with log-probabilities where they were asked for."""
    wanted = [i for i, answer in enumerate(answers) if answer.ticket.request.logprobs is not None]
    if not wanted:
        return tokens
    count = max(answers[i].ticket.request.logprobs for i in wanted)
    scores = _log_probabilities(logits[wanted], [tokens[i].id for i in wanted], count)
    for i, (logprob, top) in zip(wanted, scores, strict=True):
        tokens[i] = tokens[i]._replace(logprob=logprob, top=top[: answers[i].ticket.request.logprobs])
    return tokens


def _log_probabilities(logits, ids, count):
    """For each row of logits (R, V) the log-probability of its id, and the `count` most probable (id, logprob)."""
    own, values, best = logprobs(logits, torch.tensor(ids, device=logits.device), count)
    tops = [tuple(zip(*row, strict=True)) for row in zip(best.tolist(), values.tolist(), strict=True)]
    return list(zip(own.tolist(), tops, strict=True))
