"""What the scheduler runs in one pass, what it does not compute again, and how much it keeps."""

import torch

from pynanochat.engine import Engine
from pynanochat.engine.scheduler import Scheduler, cache_room
from tests.engine.fakes import small_model
from tests.engine.scheduling import FREE, TOKENIZER, drain, model_of, naive, prompt_of, request


class Watched:
    """A model that remembers how many tokens and how many sequences each pass had."""

    def __init__(self, model):
        self.model, self.config, self.compute_dtype, self.lm_head = model, model.config, torch.float32, model.lm_head
        self.passes = []

    def __call__(self, ids, *, cache, at):
        self.passes.append((len(ids), len(cache.lengths)))
        return self.model(ids, cache=cache, at=at)


def test_samples_share_one_prefill():
    model = Watched(model_of())
    scheduler = Scheduler(model, TOKENIZER)
    scheduler.submit(request(prompt_of(50), 4, FREE, samples=8))
    assert len(scheduler.step()) == 8
    drain(scheduler)
    assert model.passes == [(50, 1), (8, 8), (8, 8), (8, 8)]
    assert scheduler.stats()["prefix_hit_tokens"] == 7 * 50


def test_prompts_and_answers_run_in_one_pass():
    model = Watched(model_of())
    scheduler = Scheduler(model, TOKENIZER, chunk=32)
    scheduler.submit(request(prompt_of(10), 20))
    scheduler.step()
    scheduler.submit(request(prompt_of(70, seed=1), 20))
    scheduler.submit(request(prompt_of(9, seed=2), 20))
    for _ in range(4):
        scheduler.step()
    assert model.passes[1:] == [(1 + 32, 2), (1 + 32, 2), (1 + 6 + 9, 3), (3, 3)]


def test_a_beginning_that_came_before_is_not_computed_again():
    model = Watched(model_of("windows"))
    scheduler = Scheduler(model, TOKENIZER)
    scheduler.submit(request(prompt_of(200), 24))
    [answers] = drain(scheduler).values()
    longer = prompt_of(200) + tuple(answers[0]) + prompt_of(20, seed=3)
    model.passes.clear()
    ticket = scheduler.submit(request(longer, 6))
    assert drain(scheduler)[ticket][0] == naive(model_of("windows"), longer, 6)
    assert model.passes[0] == (len(longer) - 208, 1)  # 223 tokens were computed: 13 whole pages


def test_sixty_turns_reuse_what_was_said_before():
    """As long as nothing is dropped, a turn computes itself and less than a page more."""
    model = small_model(sequence_len=2048)
    engine = Engine(model, TOKENIZER, finished=True)
    messages, before = [], 0
    for turn in range(60):
        messages.append({"role": "user", "content": f"number {turn}"})
        answer = "".join(engine.chat(messages, max_tokens=8, temperature=0, tools=False))
        messages.append({"role": "assistant", "content": "x" * 8 if "\ufffd" in answer else answer})
        stats = engine._kept.stats()
        computed = stats["prompt_tokens"] - stats["prefix_hit_tokens"]
        assert computed - before <= 16 + 8 + 9 + 10, turn
        before = computed
    assert stats["prefix_hit_tokens"] > 0.9 * stats["prompt_tokens"] and stats["pages_used"] == 0
    engine._kept.check_integrity()


def test_memory_is_bounded_by_the_window():
    model = small_model(sequence_len=2048, window_pattern="S")
    scheduler = Scheduler(model, TOKENIZER, most_rows=1, chunk=64)
    scheduler.submit(request(prompt_of(1500), 100))
    windowed, whole = scheduler.cache.groups
    assert windowed.window == 512 and windowed.pool.size == 34 + 5 and whole.pool.size == 128
    most = 0
    while scheduler.busy:
        scheduler.step()
        most = max(most, windowed.pool.used)
    assert most <= 39 and windowed.room <= 39
    assert cache_room(model, 10**9) * 3 * 2 * 2 * 16 * 4 <= 1 << 30
