"""Benchmark of decoding as the engine does it, for bench/gpu_steps.py: whole steps of the scheduler, sampling included.

A step ahead, as it is the default on a GPU, and waiting for each step's tokens before the next is launched; with graphs
where they are verified. Each row answers a prompt of its own, which fills a quarter of the context.
"""

from pynanochat.bench import gpu_timing as timing
from pynanochat.bench.bench_engine import Tokenizer
from pynanochat.engine.requests import Request
from pynanochat.engine.scheduler import Scheduler

ROUNDS = 5


def speak(model, rows: int) -> list[dict]:
    """A row for each way of stepping with `rows` answers."""
    schedulers = {"ahead": talking(model, rows, True), "waiting": talking(model, rows, False)}
    times = timing.interleave({name: scheduler.step for name, scheduler in schedulers.items()}, rounds=ROUNDS)
    assert all(scheduler.stats()["running"] == rows for scheduler in schedulers.values()), "the context was too short"
    return [
        {
            "op": "decode_tokens",
            "case": f"{rows} rows",
            "backend": name,
            "ms": seconds * 1e3,
            "tokens_per_second": rows / seconds,
            "times_waiting": times["waiting"] / seconds,
        }
        for name, seconds in times.items()
    ]


def talking(model, rows: int, ahead: bool) -> Scheduler:
    """A scheduler in which every step is a token for each of so many answers, until the context is full."""
    config = model.config
    scheduler = Scheduler(
        model, Tokenizer(), cache_tokens=rows * (config.sequence_len + 64), most_rows=rows, ahead=ahead
    )
    for row in range(rows):
        prompt = (row, *[1] * (config.sequence_len // 4 - 1))
        request = Request(prompt, max_tokens=config.sequence_len, seed=row, stop_tokens=frozenset(), tools=False)
        scheduler.submit(request)
    while len(scheduler.step()) < rows:
        pass
    return scheduler
