"""One step ahead: the same answers as of a scheduler that waits, and nobody waits for a step that was just launched."""

import random

import numpy as np
import pytest
import torch

from pynanochat.engine import scheduler, tool_state
from pynanochat.engine.flight import ALIGNED, Drawn, Flight, packed, sent
from pynanochat.engine.graphs import WARM, DecodeGraphs
from pynanochat.engine.requests import Request
from pynanochat.engine.sampling import Sampling
from pynanochat.engine.scheduler import Scheduler
from pynanochat.ops import backends
from tests.engine.fakes import ByteTokenizer, small_model
from tests.engine.scheduling import FREE, GREEDY, TOKENIZER, model_of, prompt_of, request
from tests.engine.test_graphs import FakeGraph, NothingAsked

OP = "decode_ahead"
SPECIAL = ByteTokenizer.special_tokens
STOPS = frozenset((SPECIAL["<|assistant_end|>"], *b"xyz"))
SAMPLINGS = (
    GREEDY,
    FREE,
    Sampling(0.9, 20),
    Sampling(1.2, 0, 0.8),
    Sampling(1.0, 0, 1.0, 0.05),
    Sampling(0.7, 0, 1, 0, 1.3),
)


class Lenient(ByteTokenizer):
    """Reads what is between the specials."""

    def decode_bytes(self, ids):
        return bytes(id for id in ids if id < 256)


class Talkative:
    """A model with a taste for its tool and for the end."""

    def __init__(self, seed=0):
        self.model = small_model(seed)
        self.config, self.compute_dtype, self.lm_head = self.model.config, torch.float32, self.model.lm_head
        self.taste = torch.zeros(self.config.vocab_size)
        self.taste[[SPECIAL["<|python_start|>"], SPECIAL["<|python_end|>"]]] = 6.0
        self.taste[list(STOPS)] = 2.5

    def __call__(self, ids, *, cache, at):
        return self.model(ids, cache=cache, at=at) / 2 + self.taste


def talk(number):
    """Request `number` of a session, of any kind there is."""
    draw = random.Random(number)
    shared = prompt_of(24)[: 6 * draw.randrange(4)]
    scores = {"logprobs": draw.randrange(3), "prompt_logprobs": draw.random() < 0.5} if draw.random() < 0.15 else {}
    return Request(
        (256, *shared, *prompt_of(1 + draw.randrange(25), seed=number)),
        samples=draw.choice((1, 1, 2, 3)),
        max_tokens=draw.randrange(1, 30),
        sampling=draw.choice(SAMPLINGS),
        seed=number,
        stop_tokens=STOPS if draw.random() < 0.8 else frozenset(),
        tools=draw.random() < 0.8,
        **scores,
    )


def plain(token):
    """Without the log-probabilities, whose last digits depend on what else is in a pass."""
    return token._replace(logprob=token.logprob is None, top=len(token.top))


def session(model, ahead, seed, room):
    """What all answers of a session got, (ticket, row) -> tokens, and which of them were cut off: requests come, are
    held, released, cancelled and cut off as the seed says, while steps go on."""
    draw = random.Random(seed)
    scheduler = Scheduler(model, Lenient(), page=4, ahead=ahead, **room)
    made, cut, live = {}, set(), []

    def step():
        for ticket, token in scheduler.step():
            assert (ticket, token.row) not in cut and (ticket, None) not in cut
            made.setdefault((ticket, token.row), []).append(plain(token))
        scheduler.check_integrity()

    for number in range(24):
        live.append(scheduler.submit(talk(1000 * seed + number)))
        for _ in range(draw.randrange(4)):
            step()
        what, ticket, row = (
            draw.choice(("hold", "hold", "release", "cancel", "end", "")),
            draw.choice(live),
            draw.randrange(3),
        )
        if what in ("cancel", "end"):
            cut.add((ticket, row if what == "end" else None))
        if what == "end":
            scheduler.end(ticket, row)
        elif what:
            getattr(scheduler, what)(ticket)
        scheduler.check_integrity()
    for ticket in live:
        scheduler.release(ticket)
    steps = 0
    while scheduler.busy:
        step()
        steps += 1
        assert steps < 3000, "no end"
    stats = scheduler.stats()
    assert all(scheduler.done(ticket) for ticket in live) and stats["pages_used"] == stats["running"] == 0
    return made, cut, stats


ROOMS = {
    "room": {"cache_tokens": 2000, "most_rows": 8},
    "few pages": {"cache_tokens": 112, "chunk": 12, "most_rows": 6},
    "few rows": {"cache_tokens": 400, "chunk": 7, "most_rows": 2},
}


@pytest.mark.parametrize(("seed", "room"), [(1, "room"), (1, "few pages"), (2, "few pages"), (2, "few rows")])
def test_a_session_says_the_same_as_one_that_waits(monkeypatch, seed, room):
    monkeypatch.setattr(tool_state, "calculate", lambda expression: str(len(expression)))  # whatever the model calls
    model = Talkative(seed)
    waiting, cut_there, _ = session(model, False, seed, ROOMS[room])
    made, cut, stats = session(model, True, seed, ROOMS[room])
    assert cut == cut_there and (stats["preemptions"] > 0 or room != "few pages")
    for (ticket, row), tokens in (waiting | made).items():
        theirs, ours = waiting.get((ticket, row), []), made.get((ticket, row), [])
        if (ticket, row) in cut or (ticket, None) in cut:  # when it was cut off, one may have been further
            most = min(len(theirs), len(ours))
            theirs, ours = theirs[:most], ours[:most]
        assert ours == theirs, (ticket, row, tokens)
    tokens = [token for answer in waiting.values() for token in answer]
    assert sum(token.forced for token in tokens) > 15 and sum(token.finish == "stop" for token in tokens) > 5


class Table:
    """A model that knows only the last token, on two threads of time: nothing in it asks for a number."""

    def __init__(self):
        self.model = model_of()
        self.config, self.compute_dtype, self.lm_head = self.model.config, torch.float32, self.model.lm_head
        self.table = torch.randn(265, 265, generator=torch.Generator().manual_seed(1))

    def __call__(self, ids, *, cache, at=None):
        return self.table[ids] if at is None else self.table[ids].flatten(0, 1)[at]


@pytest.fixture
def log(monkeypatch):
    """What happens to steps, in order: ("launch" or "read", number). That nothing else waits is watched: outside of
    Flight.read no number of a tensor comes to the host, and sampling is as on a GPU."""
    model_of()  # which asks while it is made
    log, flying, reading = [], [], []
    read = Flight.read

    def launched(*args):
        flying.append(Flight(*args))
        log.append(("launch", len(flying) - 1))
        return flying[-1]

    def watched(flight):
        log.append(("read", flying.index(flight)))
        reading.append(flight)
        try:
            return read(flight)
        finally:
            reading.pop()

    def refused(name, plain):
        def ask(*args, **kwargs):
            assert reading, f"{name} waits for what was launched"
            return plain(*args, **kwargs)

        return ask

    monkeypatch.setattr(scheduler, "Flight", launched)
    monkeypatch.setattr(Flight, "read", watched)
    for name in ("tolist", "item", "cpu", "__bool__", "__int__", "__float__", "__index__"):
        monkeypatch.setattr(torch.Tensor, name, refused(name, getattr(torch.Tensor, name)))
    with NothingAsked():
        yield log


@pytest.mark.parametrize("graphs", [False, True])
def test_no_step_waits_for_the_one_that_was_just_launched(log, graphs):
    """Each is read when the next is launched, whoever joins or leaves, with and without graphs."""
    scheduler = Scheduler(Table(), TOKENIZER, ahead=True, most_rows=4)
    if graphs:
        scheduler.graphs = DecodeGraphs(scheduler.model, scheduler.cache, 4, FakeGraph)
    for number, sampling in enumerate(SAMPLINGS):
        scheduler.submit(request(range(number, 9), 3 * WARM + number, sampling, seed=number))
    made = 0
    while scheduler.busy:
        made += len(scheduler.step())
        if scheduler.busy:
            last, before = log[-1], log[-2]
            assert last[0] == "read" and before == ("launch", last[1] + 1)
    assert made == sum(3 * WARM + number for number in range(len(SAMPLINGS)))
    assert [what for what in log if what[0] == "read"] == [("read", i) for i in range(len(log) // 2)]
    assert not graphs or sum(graph.replays for graph in FakeGraph.made) > WARM


def test_the_watch_sees_who_waits(log):
    scheduler = Scheduler(Table(), TOKENIZER, ahead=True)
    scheduler.submit(request(range(9), 3, logprobs=0))
    with pytest.raises(AssertionError, match="waits for what was launched"):
        scheduler.step()


def test_where_scores_are_asked_for_each_step_is_read_before_the_next(monkeypatch):
    scheduler = Scheduler(model_of(), TOKENIZER, ahead=True)
    scheduler.submit(request(prompt_of(9), 12))
    scheduler.step()
    assert len(scheduler._flights) == 1
    scored = scheduler.submit(request(prompt_of(5), 3, logprobs=2))
    got = []
    while not scheduler.done(scored):
        got += [token for ticket, token in scheduler.step() if ticket == scored]
        assert len(scheduler._flights) <= (not got)
    assert len(got) == 3 and all(len(token.top) == 2 for token in got)
    scheduler.step()
    assert len(scheduler._flights) == 1


def test_nothing_runs_beyond_the_last_token():
    """Where the end is known beforehand: no pass is launched for a token that nobody wants."""
    scheduler = Scheduler(model_of(), TOKENIZER, ahead=True, cache_tokens=96, page=4)
    ticket = scheduler.submit(request(prompt_of(90), 50))
    lengths = []
    while scheduler.busy:
        scheduler.step()
        lengths += [answer.cached.length for answer in scheduler._running]
    assert scheduler.done(ticket) and max(lengths) == 95 and not scheduler._flights


def test_nobody_leaves_for_a_token_that_is_not_known():
    """The first answer needs a page just when the second is about to end."""
    scheduler = Scheduler(model_of(), TOKENIZER, ahead=True, cache_tokens=24, page=4)
    for number, most in enumerate((9, 5)):
        scheduler.submit(request(prompt_of(8, seed=number), most))
    full = False
    while scheduler.busy:
        scheduler.step()
        full |= not any(group.pool.available for group in scheduler.cache.groups)
    assert full and scheduler.stats()["preemptions"] == 0 and scheduler.stats()["made_tokens"] == 14


def test_a_held_answer_takes_its_token_when_it_is_released():
    scheduler, alone = Scheduler(model_of(), TOKENIZER, ahead=True), Scheduler(model_of(), TOKENIZER, ahead=False)
    for one in (scheduler, alone):
        one.submit(request(prompt_of(20), 9, FREE, seed=3))
    wanted = [token.id for _ in range(9) for _, token in alone.step()]
    got = [token.id for _, token in scheduler.step()]
    scheduler.hold(0)
    assert not scheduler.busy and scheduler.step() == []
    scheduler.submit(request(prompt_of(5), 4))
    while scheduler.busy:
        assert all(ticket == 1 for ticket, _ in scheduler.step())
        scheduler.check_integrity()
    scheduler.release(0)
    while scheduler.busy:
        got += [token.id for _, token in scheduler.step()]
    assert got == wanted


def test_drawn_tokens_by_number():
    drawn = Drawn(50, 4, torch.device("cpu"))
    place = drawn.table.data_ptr()
    assert drawn.of(torch.tensor([0, 7, 49])).tolist() == [0, 7, 49]
    drawn.put(torch.tensor([3, 50, 9]))
    assert drawn.of(torch.tensor([-3, 5, -2, -1])).tolist() == [3, 5, 49, 9]
    drawn.put(torch.tensor([8]))
    assert drawn.of(torch.tensor([-1, -2])).tolist() == [8, 49] and drawn.table.data_ptr() == place


def test_what_is_sent_keeps_its_shape_and_is_aligned():
    arrays = [np.arange(3), np.arange(10).reshape(2, 5)[:, ::2], np.arange(0), np.arange(8)]
    for x, array in zip(sent(arrays, torch.device("cpu")), arrays, strict=True):
        assert x.tolist() == array.tolist()
    whole, places = packed(arrays)
    for place, array in zip(places, arrays, strict=True):
        assert place.start % ALIGNED == 0 and whole[place].reshape(array.shape).tolist() == array.tolist()


def test_it_goes_ahead_on_a_gpu_where_that_is_verified(monkeypatch):
    verified = set()
    monkeypatch.setattr(scheduler.backends, "architecture", lambda index: "sm_90")
    monkeypatch.setattr(scheduler.backends, "verified", lambda architecture: verified)
    assert not scheduler.runs_beside_the_host(torch.device("cuda", 0))
    verified.add((OP, "cuda"))
    assert scheduler.runs_beside_the_host(torch.device("cuda", 0))
    assert not scheduler.runs_beside_the_host(torch.device("cpu"))


@pytest.mark.gpu
@pytest.mark.parametrize("seed", range(2))
def test_on_a_gpu_it_says_the_same_as_one_that_waits(record_property, seed):
    """With graphs where they are verified, and without."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    record_property("op", OP)
    record_property("backend", "cuda")
    model = small_model(seed, sequence_len=256).to("cuda")
    answers = []
    for ahead in (False, True):
        scheduler = Scheduler(model, TOKENIZER, ahead=ahead, cache_tokens=4096, most_rows=6)
        assert Scheduler(model, TOKENIZER, cache_tokens=256).ahead
        for number in range(8):
            sampling = SAMPLINGS[number % len(SAMPLINGS)]
            scheduler.submit(
                request(prompt_of(9, seed=number), 5 * WARM, sampling, seed=number, samples=1 + number % 2)
            )
        answers.append({})
        while scheduler.busy:
            for ticket, token in scheduler.step():
                answers[-1].setdefault((ticket, token.row), []).append(token.id)
            scheduler.check_integrity()
    assert answers[0] == answers[1]


@pytest.mark.gpu
@pytest.mark.parametrize("graphs", [False, True])
def test_on_a_gpu_nothing_waits_but_for_the_tokens(record_property, monkeypatch, graphs):
    """torch itself watches: it refuses copies and questions that wait for the GPU, but not the wait for an event."""
    if not torch.cuda.is_available() or backends.missing("triton"):
        pytest.skip(backends.missing("triton") or "no GPU here")
    record_property("op", OP)
    record_property("backend", "cuda")
    monkeypatch.setenv("PYNANOCHAT_BACKEND", "triton")
    model = small_model(sequence_len=256).to("cuda")
    scheduler = Scheduler(model, TOKENIZER, cache_tokens=4096, most_rows=4)
    scheduler.graphs = DecodeGraphs(model, scheduler.cache, 4) if graphs else None
    for number, sampling in enumerate(SAMPLINGS[-4:]):
        scheduler.submit(request(prompt_of(9, seed=number), 200, sampling, seed=number))
    for _ in range(2 * WARM):  # kernels are compiled and graphs captured, which waits
        scheduler.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        assert [len(scheduler.step()) for _ in range(40)] == [4] * 40
    finally:
        torch.cuda.set_sync_debug_mode("default")
    scheduler.check_integrity()
