"""What tests of the scheduler ask of it: small models, prompts, requests, and what comes of them."""

import functools

import torch

from pynanochat.engine.requests import Request
from pynanochat.engine.sampling import Sampling
from tests.engine.fakes import ByteTokenizer, small_model

TOKENIZER = ByteTokenizer()
GREEDY, FREE = Sampling(0), Sampling(1.0, 0)
MODELS = {"2026": {}, "2025": {"arch": "2025"}, "windows": {"sequence_len": 512, "window_pattern": "S"}}


@functools.cache
def model_of(name="2026"):
    return small_model(**MODELS[name])


def prompt_of(length, seed=0):
    return tuple(torch.randint(0, 256, (length,), generator=torch.Generator().manual_seed(seed)).tolist())


def request(prompt, max_tokens=16, sampling=GREEDY, **fields):
    return Request(tuple(prompt), max_tokens=max_tokens, sampling=sampling, stop_tokens=frozenset(), **fields)


def naive(model, prompt, count):
    """The greedy tokens of a model whose weights do not change, by running the whole text for every one."""
    return list(_naive(model, tuple(prompt), count))


@functools.cache
def _naive(model, prompt, count):
    ids = list(prompt)
    with torch.inference_mode():
        for _ in range(count):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


def drain(scheduler, made=None, steps=5000):
    """ticket -> row -> ids of all that is under way."""
    made = {} if made is None else made
    while scheduler.busy:
        steps -= 1
        assert steps, "no end"
        for ticket, token in scheduler.step():
            made.setdefault(ticket, {}).setdefault(token.row, []).append(token.id)
    return made
