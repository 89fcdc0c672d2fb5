"""Benchmark of decoding as the engine does it, for bench/gpu_steps.py: whole steps of the scheduler, sampling included.

A step ahead, as it is the default once verified, and waiting for each step's tokens before the next is launched; with
graphs where they are verified. Each row answers a prompt of its own, which fills a quarter of the context.
"""

from pynanochat.bench import gpu_timing as timing
from pynanochat.bench.bench_engine import Tokenizer
from pynanochat.engine.requests import Request
from pynanochat.engine.scheduler import Scheduler

ROUNDS = 3  # of at most 200 steps each way, so that the context is not full before the last


def speak(model, rows: int) -> list[dict]:
    """A row for each way of stepping with `rows` answers."""
    scheduler = talking(model, rows)

    def step(ahead):
        scheduler.ahead = ahead
        scheduler.step()

    ways = {"ahead": lambda: step(True), "waiting": lambda: step(False)}
    times = timing.interleave(ways, rounds=ROUNDS)
    assert scheduler.stats()["running"] == rows, "the context was too short"
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


def talking(model, rows: int) -> Scheduler:
    """A scheduler in which every step is a token for each of so many answers, until the context is full."""
    length = model.config.sequence_len
    scheduler = Scheduler(model, Tokenizer(), cache_tokens=rows * (length + 64), most_rows=rows)
    for row in range(rows):
        prompt = (row, *[1] * (length // 4 - 1))
        scheduler.submit(Request(prompt, max_tokens=length, seed=row, stop_tokens=frozenset(), tools=False))
    while len(scheduler.step()) < rows:
        pass
    return scheduler
