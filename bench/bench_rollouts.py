"""Rollouts: answers a second of the batched engine, against the same engine asked for one answer after the other.

    python -m pynanochat.bench.bench_rollouts [--depth 4] [--questions 4] [--samples 16] [--tokens 48] [--rows 16 64]
    pytest bench/bench_rollouts.py --benchmark-enable

First every greedy answer of the batch must be the answer that its question gets alone, and so must the first sampled
one. Then rows of the batch are varied: a step reads every weight once, however many answers it serves, until the
products are bound by arithmetic. Prompts have different lengths; the samples of one share its prefill.
"""

import argparse
import functools

import pytest
import torch

from pynanochat.bench.bench_engine import Tokenizer, build
from pynanochat.bench.harness import interleave, race, report, speedup
from pynanochat.engine import Engine

VOCABULARY = 2048


def prompts(count: int) -> list[list[int]]:
    """Prompts of 24 to 96 tokens."""
    generator = torch.Generator().manual_seed(count)
    lengths = torch.randint(24, 97, (count,), generator=generator).tolist()
    return [torch.randint(0, VOCABULARY, (n,), generator=generator).tolist() for n in lengths]


def settings(tokens: int, temperature: float = 1.0) -> dict:
    return {"max_tokens": tokens, "temperature": temperature, "stop_tokens": (), "tools": False}


def one_by_one(engine, asked, samples, tokens, temperature=1.0) -> list[list[list[int]]]:
    return [
        [
            [t.id for t in engine.generate(p, seed=i * samples + s, **settings(tokens, temperature))]
            for s in range(samples)
        ]
        for i, p in enumerate(asked)
    ]


def batched(engine, asked, samples, tokens, rows, temperature=1.0) -> list[list[list[int]]]:
    seeds = [i * samples for i in range(len(asked))]
    made = engine.generate_batch(asked, samples=samples, seed=seeds, rows=rows, **settings(tokens, temperature))
    return [[answer.ids for answer in answers] for answers in made]


def prove(engine, asked, samples, tokens, rows) -> None:
    """Raise AssertionError unless the batch gives every answer that is asked for, and those that each gets alone."""
    alone = one_by_one(engine, asked, 1, tokens, temperature=0.0)
    greedy = batched(engine, asked, samples, tokens, rows, temperature=0.0)
    assert greedy == [one * samples for one in alone], "greedy answers differ from those of each question alone"
    sampled = batched(engine, asked, samples, tokens, rows)
    assert [len(answers) for answers in sampled] == [samples] * len(asked)
    for i, (prompt, answers) in enumerate(zip(asked, sampled, strict=True)):
        first = [t.id for t in engine.generate(prompt, seed=i * samples, **settings(tokens))]
        assert answers[0] == first, "a sampled answer differs from the one that its seed gives alone"


@functools.lru_cache(maxsize=4)
def contest(depth: int, questions: int, samples: int, tokens: int, rows: int) -> dict:
    """engine -> a call that makes all answers."""
    engine, asked = Engine(build(depth, vocab_size=VOCABULARY), Tokenizer()), prompts(questions)
    prove(engine, asked, samples, tokens, rows)
    return {
        "batched": lambda: batched(engine, asked, samples, tokens, rows),
        "one by one": lambda: one_by_one(engine, asked, samples, tokens),
    }


@pytest.mark.parametrize("engine", ("batched", "one by one"))
def test_rollouts(benchmark, engine):
    race(benchmark, contest, engine, 2, 2, 4, 6, 8)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("--depth", type=int, default=4)
    p.add_argument("--questions", type=int, default=4)
    p.add_argument("--samples", type=int, default=16, help="answers to each question")
    p.add_argument("--tokens", type=int, default=48, help="of each answer")
    p.add_argument("--rows", type=int, nargs="+", default=[16, 64], help="answers decoded at once")
    p.add_argument("--seconds", type=float, default=20.0, help="for each line of the table")
    args = p.parse_args()
    answers, table = args.questions * args.samples, []
    for rows in args.rows:
        times = interleave(
            contest(args.depth, args.questions, args.samples, args.tokens, rows), seconds=args.seconds, rounds=7
        )
        table.append(
            {
                "case": f"{args.questions} x {args.samples} answers of {args.tokens} tokens, {rows} rows",
                "answers/s": answers / times["batched"][0],
                "tokens/s": answers * args.tokens / times["batched"][0],
                "times one by one": speedup(times, "batched", "one by one"),
            }
        )
    report(f"rollouts d{args.depth}", table)


if __name__ == "__main__":
    main()
