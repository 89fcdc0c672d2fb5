"""The engine against the naive forward: the same greedy tokens, alone or batched, in both architectures."""

import functools

import pytest
import torch

from pynanochat.engine import Engine
from pynanochat.engine.paged_cache import PagedCache
from pynanochat.engine.requests import Request
from pynanochat.engine.sampling import Sampling
from pynanochat.engine.scheduler import Scheduler
from pynanochat.errors import CheckpointError, UsageError
from tests.engine.fakes import ByteTokenizer, Scripted, small_model
from tests.engine.scheduling import naive

both_ways = pytest.mark.usefixtures("ahead")
TOKENIZER = ByteTokenizer()
VARIANTS = {
    "2026": {},
    "2025": {"arch": "2025"},
    "2025 GQA": {"arch": "2025", "n_kv_head": 1},
    "2026 MHA": {"n_kv_head": 4},
    "no smear": {"smear": False},
    "windows": {"sequence_len": 512, "window_pattern": "S"},
}


def prompt_of(length, seed=0):
    return torch.randint(0, 256, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def ids_of(tokens):
    return [token.id for token in tokens]


@functools.cache
def variant(name):
    return small_model(**VARIANTS[name])


@both_ways
@pytest.mark.parametrize("name", VARIANTS)
def test_greedy_equals_the_naive_forward(name):
    model = variant(name)
    engine = Engine(model, TOKENIZER)
    lengths = (1, 2, 33, 60) if name != "windows" else (3, 127, 150, 300)
    prompts = [prompt_of(n, seed=n) for n in lengths]
    expected = [naive(model, prompt, 24) for prompt in prompts]
    assert len({tuple(e) for e in expected}) == len(prompts)  # the prompts matter
    settings = {"max_tokens": 24, "temperature": 0, "stop_tokens": (), "tools": False}
    for prompt, ids in zip(prompts, expected, strict=True):
        assert ids_of(engine.generate(prompt, **settings)) == ids
    together = engine.generate_batch(prompts, **settings)
    assert [answer.ids for [answer] in together] == expected
    few_rows = engine.generate_batch(prompts, samples=2, rows=3, **settings)
    assert [[answer.ids for answer in answers] for answers in few_rows] == [[ids, ids] for ids in expected]


def test_windows_of_that_test_do_cut():
    model = small_model(**VARIANTS["windows"])
    full = small_model(**VARIANTS["windows"] | {"window_pattern": "L"})
    full.load_state_dict(model.state_dict())
    ids = torch.tensor([prompt_of(200)])
    assert not torch.allclose(model(ids)[0, -1], full(ids)[0, -1], atol=1e-3)


@pytest.mark.parametrize("arch", ["2025", "2026"])
def test_cached_logits_are_those_of_the_whole_text(arch):
    model = small_model(arch=arch)
    ids = prompt_of(40)
    cache = PagedCache(model.config, torch.float32, "cpu", 64, page=8)
    sequence, parts = cache.open(ids), []
    with torch.inference_mode():
        whole = model(torch.tensor([ids]))
        for count in (17, 1, 1, 20, 1):
            assert cache.reserve(sequence, count)
            part, pass_ = cache.plan([(sequence, ids, count)])
            parts.append(model(part, cache=pass_))
            cache.advance(sequence, ids, count)
    torch.testing.assert_close(torch.cat(parts).transpose(0, 1), whole, rtol=0, atol=2e-5)
    assert sequence.length == 40


@both_ways
def test_a_seed_gives_the_same_text_whatever_else_is_in_the_batch():
    engine = Engine(small_model(), TOKENIZER)
    prompts = [prompt_of(n, seed=n) for n in (5, 30, 12, 44, 9)]
    settings = {"max_tokens": 30, "temperature": 1.0, "top_k": 0, "seed": 7}
    alone = [ids_of(engine.generate(prompt, **settings)) for prompt in prompts]
    assert alone == [ids_of(engine.generate(prompt, **settings)) for prompt in prompts]
    batched = engine.generate_batch(prompts, samples=3, rows=7, **settings)
    for prompt, ids, answers in zip(prompts, alone, batched, strict=True):
        first = answers[0].ids + ([answers[0].stop_id] if answers[0].finish == "stop" else [])
        assert first == ids, len(prompt)
        assert len({tuple(answer.ids) for answer in answers}) == 3
    other = ids_of(engine.generate(prompts[0], **settings | {"seed": 8}))
    assert other != alone[0]
    free = {"max_tokens": 30, "temperature": 1.0, "stop_tokens": ()}
    unseeded = {tuple(ids_of(engine.generate(prompts[0], **free))) for _ in range(2)}
    assert len(unseeded) == 2


def test_each_prompt_may_have_its_own_seed():
    engine = Engine(small_model(), TOKENIZER)
    prompts, settings = [prompt_of(9)] * 2 + [prompt_of(20)], {"max_tokens": 12, "temperature": 1.0, "top_k": 0}
    batched = engine.generate_batch(prompts, seed=[5, 6, 5], **settings)
    for prompt, seed, [answer] in zip(prompts, (5, 6, 5), batched, strict=True):
        alone = ids_of(engine.generate(prompt, seed=seed, **settings))
        assert alone[: len(answer.ids)] == answer.ids
    assert batched[0][0].ids != batched[1][0].ids
    with pytest.raises(UsageError, match="2 seeds for 3 prompts"):
        engine.generate_batch(prompts, seed=[5, 6], **settings)


@both_ways
def test_rows_end_one_by_one():
    """Samples that stop early leave the others untouched."""
    engine = Engine(small_model(), TOKENIZER)
    prompt, settings = prompt_of(10), {"samples": 6, "max_tokens": 40, "temperature": 1.5, "top_k": 0, "seed": 3}
    free = [[t for t in engine.generate(prompt, stop_tokens=(), **settings) if t.row == row] for row in range(6)]
    stop = set(range(0, 256, 20))
    stopped = list(engine.generate(prompt, stop_tokens=stop, **settings))
    ends = set()
    for row in range(6):
        got = [t for t in stopped if t.row == row]
        ids = ids_of(free[row])
        cut = next((i for i, token in enumerate(ids) if token in stop), None)
        assert ids_of(got) == (ids if cut is None else ids[: cut + 1])
        assert got[-1].finish == ("length" if cut is None else "stop")
        assert all(not t.finish for t in got[:-1])
        ends.add(len(got))
    assert len(ends) > 2


@both_ways
def test_the_context_is_never_exceeded():
    engine = Engine(small_model(), TOKENIZER)
    tokens = list(engine.generate(prompt_of(90), max_tokens=512, stop_tokens=()))
    assert len(tokens) == 96 - 90 and tokens[-1].finish == "length"
    assert len(list(engine.generate(prompt_of(95), stop_tokens=()))) == 1
    with pytest.raises(UsageError, match="96 tokens and the model's context is 96"):
        engine.generate(prompt_of(96))


@pytest.mark.parametrize(
    ("prompt", "settings", "message"),
    [
        ([], {}, "empty"),
        ([1, 265], {}, "265"),
        ([-1], {}, "-1"),
        ([1], {"max_tokens": 0}, "max_tokens=0"),
        ([1], {"samples": 0}, "samples=0"),
        ([1], {"temperature": -1}, "temperature=-1"),
        ([1], {"top_p": 0}, "top_p=0"),
        ([1], {"top_k": -1}, "top_k=-1"),
    ],
)
def test_bad_requests_are_refused_at_once(prompt, settings, message):
    with pytest.raises(UsageError, match=message):
        Engine(small_model(), TOKENIZER).generate(prompt, **settings)


def answer(text, **specials):
    """Token ids of a text in which {name} stands for <|name|>."""
    ids, special = [], TOKENIZER.special_tokens
    for part in text.replace("}", "{").split("{"):
        ids += [special[f"<|{part}|>"]] if f"<|{part}|>" in special else list(part.encode())
    return ids


def events_of(script, **settings):
    """The events of a model that answers with `script`; positions where a tool speaks are skipped by the model."""
    prompt = answer("{bos}{user_start}hi{user_end}{assistant_start}")
    model = Scripted(script, len(prompt))
    engine = Engine(model, TOKENIZER)
    return list(engine._events(prompt, [], {"temperature": 0} | settings)), model


def test_a_tool_call_is_answered_and_shown(ahead):
    call = answer("so {python_start}1,200*3{python_end}")
    output = answer("{output_start}3600{output_end}")
    script = call + [0] * len(output) + answer(" it is{assistant_end}")
    events, model = events_of(script)
    kinds = [(e.kind, e.text, e.forced) for e in events if e.kind != "text"]
    assert kinds == [("tool_call", "1,200*3", False), ("tool_output", "3600", True), ("end", "stop", False)]
    assert "".join(e.text for e in events if e.kind == "text") == "so  it is"
    told = output + answer(" it is{assistant_end}" if ahead else " it is")
    assert model.seen[-len(told) :] == told


@pytest.mark.parametrize("expression", ["1/0", "2**3", "__import__('os')", "", "\udcff"])
def test_a_failing_call_injects_nothing(expression):
    ids = list(expression.encode("utf-8", "surrogateescape"))
    special = TOKENIZER.special_tokens
    script = [special["<|python_start|>"], *ids, special["<|python_end|>"], *answer("ok{assistant_end}")]
    events, _ = events_of(script)
    assert [e.kind for e in events if e.kind != "text"] == ["tool_call", "end"]
    assert "".join(e.text for e in events if e.kind == "text") == "ok"


@both_ways
def test_a_model_that_makes_up_an_output_is_told_apart():
    events, _ = events_of(answer("{output_start}5{output_end}{python_end}x{assistant_end}"))
    assert [(e.kind, e.text, e.forced) for e in events] == [
        ("tool_output", "5", False),
        ("text", "x", False),
        ("end", "stop", False),
    ]


@both_ways
def test_tool_output_counts_as_forced_and_keeps_within_max_tokens():
    call = answer("{python_start}2*3{python_end}")
    script = call + [0] * 3 + answer("yes{assistant_end}")
    prompt = [256]
    [[got]] = Engine(Scripted(script, 1), TOKENIZER).generate_batch([prompt], temperature=0)
    assert got.ids == call + answer("{output_start}6{output_end}yes")
    assert got.forced == [False] * len(call) + [True] * 3 + [False] * 3
    assert got.finish == "stop" and got.stop_id == TOKENIZER.special_tokens["<|assistant_end|>"]
    for most in range(1, len(got.ids)):
        [[cut]] = Engine(Scripted(script, 1), TOKENIZER).generate_batch([prompt], temperature=0, max_tokens=most)
        assert cut.ids == got.ids[:most] and cut.finish == "length"


def test_text_never_holds_half_a_character():
    text = "na\u00efve \u4e16\u754c \U0001f469\u200d\U0001f680!"
    events, _ = events_of(answer(text + "{assistant_end}"))
    pieces = [e.text for e in events if e.kind == "text"]
    assert "".join(pieces) == text and all(pieces) and "\ufffd" not in "".join(pieces)
    events, _ = events_of([*b"a\xf0\x9f\x98", *answer("{assistant_end}")])
    assert "".join(e.text for e in events if e.kind == "text") == "a\ufffd"
    events, _ = events_of([*b"a\xf0\x9f\x98\x80"], max_tokens=3)
    assert [e.text for e in events] == ["a", "\ufffd", "length"]


@both_ways
def test_leaving_the_iterator_early_is_fine():
    engine = Engine(small_model(), TOKENIZER)
    tokens = engine.generate(prompt_of(4), max_tokens=50)
    next(tokens)
    tokens.close()
    assert len(engine.complete("ab", max_tokens=5, temperature=0, stop_tokens=(), tools=False).encode()) >= 1


def test_sequences_join_and_leave_at_any_time(ahead):
    """What the others do never changes a sequence: each gets the tokens it gets alone."""
    model = small_model()
    prompts = [prompt_of(n, seed=n) for n in (3, 20, 7, 41, 15)]
    alone = [
        ids_of(Engine(model, TOKENIZER).generate(p, max_tokens=25, temperature=0, stop_tokens=())) for p in prompts
    ]
    scheduler, steps, made = Scheduler(model, TOKENIZER), 0, {}
    tickets = []
    while steps < 60:
        if steps % 4 == 0 and steps // 4 < 5:
            request = Request(tuple(prompts[steps // 4]), 1, 25, Sampling(0), 0, frozenset(), tools=False)
            tickets.append(scheduler.submit(request))
        if steps == 11:
            scheduler.cancel(tickets[1])  # in the middle of its answer
        for ticket, token in scheduler.step():
            made.setdefault(ticket, []).append(token.id)
        steps += 1
    assert not scheduler.busy and scheduler.stats()["pages_used"] == 0
    for i, ticket in enumerate(tickets):
        assert made[ticket] == (alone[i][: 7 - ahead] if i == 1 else alone[i])


@both_ways
@pytest.mark.parametrize("settings", [{}, {"top_k": 0}, {"top_k": 0, "top_p": 0.5}])
def test_a_model_that_diverged(settings):
    model = small_model()
    with torch.no_grad():
        model.lm_head.weight[7] = float("nan")
    with pytest.raises(CheckpointError, match="diverged"):
        list(Engine(model, TOKENIZER).generate([1, 2], **settings))


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), [(1.0, 0, 1.0), (0.7, 12, 1.0), (1.0, 0, 0.6)])
def test_samples_follow_the_models_own_probabilities(temperature, top_k, top_p):
    """Chi-square of 3,000 first tokens against the probabilities that the naive forward gives, by the book."""
    model, prompt, draws = small_model(), prompt_of(9), 3000
    engine = Engine(model, TOKENIZER)
    settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": 11, "stop_tokens": ()}
    first = [t.id for t in engine.generate(prompt, samples=draws, max_tokens=1, **settings)]
    with torch.inference_mode():
        logits = model(torch.tensor([prompt]))[0, -1].double() / temperature
    order = logits.argsort(descending=True)
    p = logits[order].softmax(0)
    p[top_k or len(p) :] = 0
    p /= p.sum()
    p[p.cumsum(0) - p >= top_p] = 0
    p /= p.sum()
    counts = torch.bincount(torch.tensor(first), minlength=265)[order].double()
    assert not counts[p == 0].any()
    common = p * draws >= 5
    observed = torch.cat([counts[common], counts[~common].sum()[None]])
    expected = torch.cat([p[common], p[~common].sum()[None]]) * draws
    observed, expected = observed[expected > 0], expected[expected > 0]
    freedom = len(expected) - 1
    assert freedom >= 5
    assert ((observed - expected) ** 2 / expected).sum() < freedom + 4 * (2 * freedom) ** 0.5 + 6
