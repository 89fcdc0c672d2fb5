"""The scheduler: what it makes of a request never depends on how it gets there, and nothing leaks on the way."""

import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pynanochat.engine import Engine
from pynanochat.engine.requests import Request
from pynanochat.engine.scheduler import Scheduler
from pynanochat.errors import CheckpointError, EngineError, UsageError
from tests.engine.fakes import Scripted, small_model
from tests.engine.scheduling import FREE, GREEDY, MODELS, TOKENIZER, drain, model_of, naive, prompt_of, request

pytestmark = pytest.mark.usefixtures("ahead")

WAYS = {
    "whole prompts": {},
    "chunks of 7": {"chunk": 7},
    "chunks of 1": {"chunk": 1},
    "pages of 3": {"page": 3},
    "few rows": {"most_rows": 2},
    "short memory": {"cache_tokens": 96, "page": 4, "chunk": 20},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", MODELS)
def test_greedy_equals_the_naive_forward(name, way):
    model, lengths = model_of(name), (1, 33, 60, 60, 75)
    if name == "windows":
        lengths = (3, 127, 150, 290)
    fields = dict(WAYS[way])
    if name == "windows" and "cache_tokens" in fields:
        fields["cache_tokens"] = 320
    prompts = [prompt_of(n, seed=n) for n in lengths]
    prompts.append(prompts[-1][:50] + prompt_of(5, seed=1))  # begins like another
    scheduler = Scheduler(model, TOKENIZER, **fields)
    tickets = [scheduler.submit(request(p, samples=2)) for p in prompts]
    made = drain(scheduler)
    for ticket, prompt in zip(tickets, prompts, strict=True):
        expected = naive(model, prompt, 16)
        assert made[ticket] == {0: expected, 1: expected}
    stats = scheduler.stats()
    assert stats["pages_used"] == stats["running"] == stats["queued"] == 0
    assert (stats["preemptions"] > 0) == (way == "short memory")
    assert stats["prefix_hit_tokens"] > 0 and stats["made_tokens"] == 2 * 16 * len(prompts)
    scheduler.check_integrity()


def test_draws_are_the_same_alone_in_company_and_after_preemption():
    model = model_of()
    wanted = [request(prompt_of(20 + n, seed=n), 40, FREE, seed=n, samples=3) for n in range(5)]
    alone = []
    for one in wanted:
        scheduler = Scheduler(model, TOKENIZER)
        scheduler.submit(one)
        [answers] = drain(scheduler).values()
        alone.append(answers)
    scheduler = Scheduler(model, TOKENIZER, cache_tokens=160, page=4, chunk=16)
    tickets = [scheduler.submit(one) for one in wanted]
    made = drain(scheduler)
    assert [made[ticket] for ticket in tickets] == alone and scheduler.stats()["preemptions"] > 3
    assert len({tuple(ids) for answers in alone for ids in answers.values()}) == 15


@functools.cache
def expected(number):
    """The answers to request `number` of those that random schedules submit, when it runs alone."""
    scheduler = Scheduler(model_of(), TOKENIZER)
    scheduler.submit(random_request(number))
    return drain(scheduler).popitem()[1]


def random_request(number):
    prompt = prompt_of(24)[: 6 * number] + prompt_of(1 + 7 * (number % 5), seed=number)
    return request(prompt, 5 + number, FREE if number % 2 else GREEDY, samples=1 + number % 3, seed=number)


actions = st.lists(
    st.tuples(
        st.sampled_from(("submit", "submit", "cancel", "end", "hold", "release", "step", "step")),
        st.integers(0, 7),
        st.integers(0, 2),
    ),
    max_size=40,
)


@given(actions, st.sampled_from((64, 80, 400)), st.sampled_from((3, 16)), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_any_schedule(actions, cache_tokens, chunk, rows):
    scheduler = Scheduler(model_of(), TOKENIZER, cache_tokens=cache_tokens, page=4, chunk=chunk, most_rows=rows)
    live, made, cancelled, ended = {}, {}, set(), set()

    def note(pairs):
        for ticket, token in pairs:
            assert ticket not in cancelled and (ticket, token.row) not in ended
            made.setdefault(ticket, {}).setdefault(token.row, []).append(token.id)

    for what, n, row in actions:
        ticket = list(live)[n % len(live)] if live else -1
        if what == "submit":
            live[scheduler.submit(random_request(n))] = n
        elif what == "step":
            note(scheduler.step())
        elif what == "end":
            scheduler.end(ticket, row)
            ended.add((ticket, row))
        else:
            getattr(scheduler, what)(ticket)
            if what == "cancel":
                cancelled.add(ticket)
        scheduler.check_integrity()
        stats = scheduler.stats()
        assert stats["running"] <= rows and stats["pages_used"] <= stats["pages"]
    for ticket in live:
        scheduler.release(ticket)
    steps = 0
    while scheduler.busy:
        note(scheduler.step())
        scheduler.check_integrity()
        steps += 1
        assert steps < 2000
    assert scheduler.stats()["pages_used"] == 0
    for ticket, number in live.items():
        assert scheduler.done(ticket)
        for row, ids in expected(number).items():
            got = made.get(ticket, {}).get(row, [])
            cut = ticket in cancelled or (ticket, row) in ended
            assert got == (ids[: len(got)] if cut else ids)


@pytest.mark.parametrize("row", [0, 1, 3])
@pytest.mark.parametrize("when", range(0, 12, 2))
def test_ending_one_answer_gives_its_pages_back_and_leaves_the_others_alone(when, row):
    wanted = request(prompt_of(40, seed=1), 12, FREE, samples=4, seed=6, prompt_logprobs=True)
    scheduler = Scheduler(model_of(), TOKENIZER)
    ticket = scheduler.submit(wanted)
    alone = drain(scheduler)[ticket]
    scheduler = Scheduler(model_of(), TOKENIZER, chunk=16, page=4, most_rows=3)
    ticket, made = scheduler.submit(wanted), {}
    for _ in range(when):
        for _, token in scheduler.step():
            made.setdefault(ticket, {}).setdefault(token.row, []).append(token.id)
    before = scheduler.stats()
    scheduler.end(ticket, row)
    scheduler.end(ticket, row)
    scheduler.end(ticket, 99)
    scheduler.end(99, row)
    scheduler.check_integrity()
    now = scheduler.stats()
    assert now["running"] + now["queued"] == before["running"] + before["queued"] - 1
    assert now["pages_used"] < before["pages_used"] or now["running"] == before["running"]
    cut = made.get(ticket, {}).get(row, [])
    drain(scheduler, made)
    assert made[ticket] == {r: ids for r, ids in (alone | {row: cut}).items() if ids}
    assert cut == alone[row][: len(cut)] and scheduler.stats()["pages_used"] == 0 and scheduler.done(ticket)


def test_the_last_answer_that_is_ended_ends_the_request():
    scheduler = Scheduler(model_of(), TOKENIZER)
    ticket = scheduler.submit(request(prompt_of(20), samples=2))
    scheduler.step()
    for row in (0, 1):
        assert not scheduler.done(ticket)
        scheduler.end(ticket, row)
    assert scheduler.done(ticket) and not scheduler.busy and scheduler.stats()["pages_used"] == 0
    scheduler.check_integrity()


@pytest.mark.parametrize("when", range(0, 12, 2))
def test_cancelling_gives_all_pages_back_at_once(when):
    scheduler = Scheduler(model_of(), TOKENIZER, chunk=16, most_rows=3)
    keep = scheduler.submit(request(prompt_of(30), 30))
    drop = scheduler.submit(request(prompt_of(40, seed=1), 30, samples=4))
    before = scheduler.stats()["pages_used"]
    for _ in range(when):
        scheduler.step()
    scheduler.cancel(drop)
    scheduler.cancel(drop)
    scheduler.cancel(99)
    assert scheduler.done(drop) and not scheduler.done(keep)
    held = sum(len(pages) for answer in scheduler._running for pages in answer.cached.pages)
    assert scheduler.stats()["pages_used"] == held >= before
    scheduler.check_integrity()
    assert set(drain(scheduler)) <= {keep}
    assert scheduler.stats()["pages_used"] == 0


def test_first_come_first_served():
    """Equal requests end in the order in which they came, and none waits for a later one."""
    scheduler = Scheduler(model_of(), TOKENIZER, most_rows=2, chunk=8)
    tickets = [scheduler.submit(request(prompt_of(20, seed=n), 6)) for n in range(7)]
    ends = []
    while scheduler.busy:
        ends += [ticket for ticket, token in scheduler.step() if token.finish]
    assert ends == tickets


def test_a_long_prompt_neither_stops_the_others_nor_is_overtaken(ahead):
    scheduler = Scheduler(model_of(), TOKENIZER, most_rows=3, chunk=8)
    talking = scheduler.submit(request(prompt_of(5), 60))
    scheduler.step()
    long = scheduler.submit(request(prompt_of(80, seed=1), 4))
    later = [scheduler.submit(request(prompt_of(5, seed=n), 4)) for n in (2, 3)]
    firsts = {}
    for step in range(30):
        tokens = scheduler.step()
        assert talking in dict(tokens)  # a token in every step
        for ticket, _ in tokens:
            firsts.setdefault(ticket, step)
    assert firsts[long] == 9 + ahead and all(firsts[ticket] > firsts[long] for ticket in later)


def test_a_large_request_is_not_starved_by_small_ones():
    scheduler = Scheduler(model_of(), TOKENIZER, cache_tokens=96, page=4)
    for n in range(4):
        scheduler.submit(request(prompt_of(10, seed=n), 8 + n))
    scheduler.step()
    large = scheduler.submit(request(prompt_of(80, seed=9), 10))
    for n in range(30):
        scheduler.submit(request(prompt_of(10, seed=20 + n), 10))
    order = []
    while scheduler.busy:
        order += [ticket for ticket, token in scheduler.step() if token.finish]
    assert order.index(large) == 4


def test_a_held_request_makes_nothing_and_gives_way():
    model = model_of()
    scheduler = Scheduler(model, TOKENIZER, cache_tokens=96, page=4, most_rows=2)
    held = [scheduler.submit(request(prompt_of(30, seed=n), 20)) for n in range(2)]
    made = {}
    for _ in range(3):
        for ticket, token in scheduler.step():
            made.setdefault(ticket, {}).setdefault(token.row, []).append(token.id)
    for ticket in held:
        scheduler.hold(ticket)
    assert not scheduler.busy and scheduler.step() == []
    other = scheduler.submit(request(prompt_of(60, seed=5), 20))  # needs their pages and a row
    others = drain(scheduler)
    assert list(others) == [other] and others[other][0] == naive(model, prompt_of(60, seed=5), 20)
    for ticket in held:
        scheduler.release(ticket)
    made = drain(scheduler, made)
    assert [made[ticket][0] for ticket in held] == [naive(model, prompt_of(30, seed=n), 20) for n in range(2)]


def test_held_before_it_ran():
    scheduler = Scheduler(model_of(), TOKENIZER)
    first, second = (scheduler.submit(request(prompt_of(9, seed=n), 3)) for n in range(2))
    scheduler.hold(first)
    assert list(drain(scheduler)) == [second]
    assert scheduler.stats()["queued"] == scheduler.stats()["held"] == 1
    scheduler.release(first)
    assert list(drain(scheduler)) == [first]


def test_a_tool_speaks_through_preemption():
    special = TOKENIZER.special_tokens
    call = [special["<|python_start|>"], *b"12*3", special["<|python_end|>"]]
    output = [special["<|output_start|>"], *b"36", special["<|output_end|>"]]
    end = special["<|assistant_end|>"]
    model = Scripted(call + [0] * len(output) + [*b"yes", end], 4)
    scheduler = Scheduler(model, TOKENIZER, cache_tokens=28, page=4, chunk=4)
    tickets = [scheduler.submit(Request((256, 1, 2, 3 + n), sampling=GREEDY, max_tokens=20)) for n in range(3)]
    tokens = {ticket: [] for ticket in tickets}
    while scheduler.busy:
        for ticket, token in scheduler.step():
            tokens[ticket].append(token)
    assert scheduler.stats()["preemptions"]
    for ticket in tickets:
        assert [t.id for t in tokens[ticket]] == [*call, *output, *b"yes", end]
        assert [t.forced for t in tokens[ticket]] == [False] * 6 + [True] * 4 + [False] * 4
        assert tokens[ticket][-1].finish == "stop"


def test_what_can_never_fit_is_refused():
    scheduler = Scheduler(model_of(), TOKENIZER, cache_tokens=48, page=4)
    with pytest.raises(UsageError, match="may take 60 tokens and the cache holds 48"):
        scheduler.submit(request(prompt_of(50), 10))
    scheduler.submit(request(prompt_of(40), 8))
    drain(scheduler)
    for bad in ({"logprobs": 21}, {"logprobs": -1}):
        with pytest.raises(UsageError, match="logprobs"):
            scheduler.submit(request([1], **bad))


def test_a_model_that_diverged_leaves_the_books_in_order(ahead):
    model = small_model()
    scheduler = Scheduler(model, TOKENIZER)
    tickets = [scheduler.submit(request(prompt_of(9, seed=n), samples=2)) for n in range(3)]
    scheduler.step()
    with torch.no_grad():
        model.lm_head.weight[7] = float("nan")
    with pytest.raises(CheckpointError, match="diverged"):
        for _ in range(1 + ahead):
            scheduler.step()
    scheduler.check_integrity()
    assert all(scheduler.done(ticket) for ticket in tickets) and scheduler.stats()["pages_used"] == 0


def test_iterators_of_one_engine_take_turns():
    engine, other = Engine(model_of(), TOKENIZER, finished=True), Engine(model_of(), TOKENIZER)
    settings = {"max_tokens": 12, "temperature": 0, "stop_tokens": ()}
    prompts = [prompt_of(12, seed=n) for n in range(3)]
    first, second, third = (engine.generate(prompt, **settings) for prompt in prompts)
    got = [next(first).id for _ in range(3)] + [next(second).id]
    third.close()
    second.close()
    got += [token.id for token in first]
    alone = [token.id for token in other.generate(prompts[0], **settings)]
    assert got[:3] + got[4:] == alone and engine._kept.stats()["pages_used"] == 0


def test_the_checker_sees_a_lost_answer():
    scheduler = Scheduler(model_of(), TOKENIZER)
    scheduler.submit(request(prompt_of(9)))
    scheduler.step()
    lost = scheduler._running.pop()
    with pytest.raises(EngineError, match="other sequences"):
        scheduler.check_integrity()
    scheduler._running.append(lost)
    scheduler._waiting.append(lost)
    with pytest.raises(EngineError):
        scheduler.check_integrity()
