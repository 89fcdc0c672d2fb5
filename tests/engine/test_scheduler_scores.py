"""Log-probabilities of answers and of prompts, however the prompt was cut."""

import math

import pytest
import torch

from pynanochat.engine.scheduler import Scheduler
from tests.engine.scheduling import FREE, TOKENIZER, drain, model_of, prompt_of, request

pytestmark = pytest.mark.usefixtures("ahead")


def by_the_book(model, ids):
    with torch.inference_mode():
        return model(torch.tensor([ids]))[0].double().log_softmax(-1)


@pytest.mark.parametrize("chunk", (7, 100))
def test_log_probabilities(chunk):
    model, prompt = model_of(), prompt_of(30)
    scheduler = Scheduler(model, TOKENIZER, chunk=chunk)
    drain_first = scheduler.submit(request(prompt, 3))  # whose pages must not hide the prompt's logits
    drain(scheduler)
    asked = request(prompt, 5, FREE, samples=2, seed=3, logprobs=4, prompt_logprobs=True)
    ticket, plain = scheduler.submit(asked), scheduler.submit(request(prompt_of(5), 9))
    tokens = {ticket: [], plain: []}
    while scheduler.busy:
        for number, token in scheduler.step():
            tokens[number].append(token)
    assert drain_first not in tokens and all(t.logprob is None and t.top == () for t in tokens[plain])
    spoken = [t for t in tokens[ticket] if t.row == -1]
    assert spoken == tokens[ticket][:30] and [t.id for t in spoken] == list(prompt)
    assert spoken[0].logprob is None and spoken[0].top == ()
    exact = by_the_book(model, list(prompt))
    for i, token in enumerate(spoken[1:]):
        assert_score(token, exact[i], 4)
    for row in range(2):
        said = [t for t in tokens[ticket] if t.row == row]
        exact = by_the_book(model, list(prompt) + [t.id for t in said])
        for i, token in enumerate(said):
            assert_score(token, exact[29 + i], 4)


def assert_score(token, exact, count):
    assert math.isclose(token.logprob, exact[token.id], abs_tol=1e-4)
    values, ids = exact.topk(count)
    assert [id for id, _ in token.top] == ids.tolist()
    assert all(math.isclose(a, b, abs_tol=1e-4) for (_, a), b in zip(token.top, values.tolist(), strict=True))


def test_scores_of_a_prompt_survive_preemption():
    model = model_of()
    scheduler = Scheduler(model, TOKENIZER, cache_tokens=96, page=4, chunk=8)
    ticket = scheduler.submit(request(prompt_of(50, seed=1), 4, prompt_logprobs=True, logprobs=0))
    tokens = [token for _ in range(3) for _, token in scheduler.step()]
    assert len(tokens) == 25
    scheduler.hold(ticket)
    scheduler.submit(request(prompt_of(80), 4))
    drain(scheduler)
    scheduler.release(ticket)
    while scheduler.busy:
        tokens += [token for number, token in scheduler.step() if number == ticket]
    assert scheduler.stats()["preemptions"]
    exact = by_the_book(model, list(prompt_of(50, seed=1)))
    assert [t.id for t in tokens if t.row == -1] == list(prompt_of(50, seed=1))
    for i, token in enumerate(tokens[1:50]):
        assert math.isclose(token.logprob, exact[i, token.id], abs_tol=1e-4)
