"""Evaluation: items a second of CORE's three types and of letter choices, against one item at a time.

    python -m pynanochat.bench.bench_evals [--depth 4] [--items 24] [--seconds 30]
    pytest bench/bench_evals.py --benchmark-enable

The peers do what the field's scripts do: the rows of one item, padded, in one forward pass whose logits are all kept.
"one by one" does it with our ops, "plain" with plain torch ops. First all three must give the same predictions.
"""

import argparse
import functools
import os
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pynanochat.bench.bench_engine import build
from pynanochat.bench.harness import interleave, race, report, speedup
from pynanochat.engine.engine import Engine
from pynanochat.evals import chat, core
from pynanochat.evals.core_tasks import Item
from pynanochat.tasks.base import Task
from pynanochat.tokenizer import SPECIAL_TOKENS, render_for_completion

# Rows, tokens before the options part, tokens of the part that is asked: as ten-shot prompts of the 22 tasks have them.
KINDS = {
    "multiple_choice": (4, (500, 900), (4, 30)),
    "schema": (2, (15, 40), (4, 15)),
    "language_modeling": (1, (300, 700), (1, 6)),
}
VOCAB = 8192


def some_items(kind: str, count: int) -> list[Item]:
    """Items of random tokens; every third language-modelling answer is never right, the others hardly ever."""
    rng = np.random.default_rng(len(kind))
    rows, before, asked = KINDS[kind]
    items = []
    for _ in range(count):
        shared = rng.integers(0, VOCAB, rng.integers(*before))
        ends = [rng.integers(0, VOCAB, rng.integers(*asked)) for _ in range(rows)]
        if kind == "schema":
            ends = [np.concatenate([rng.integers(0, VOCAB, 3), ends[0]]) for _ in range(rows)]
        whole = [np.concatenate([shared, end]).astype(np.int32) for end in ends]
        starts = [len(shared) + (3 if kind == "schema" else 0)] * rows
        items.append(Item(whole, starts, 0, 0))
    return items


@torch.inference_mode()
def one_by_one(model, items, kind, backend=""):
    """The predictions of the plain way: (row or None, first choices or None) of each item."""
    os.environ["PYNANOCHAT_BACKEND"] = backend
    found = []
    for item in items:
        width = max(map(len, item.rows))
        ids = torch.zeros(len(item.rows), width, dtype=torch.int64)
        for r, row in enumerate(item.rows):
            ids[r, : len(row)] = torch.from_numpy(row.astype(np.int64))
        logits = model(ids[:, :-1])
        losses = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(len(ids), -1)
        choices = logits.argmax(dim=-1)
        if kind == "language_modeling":
            found.append(choices[0, item.starts[0] - 1 : len(item.rows[0]) - 1].tolist())
        else:
            parts = zip(losses, item.starts, item.rows, strict=True)
            means = [loss[start - 1 : len(row) - 1].mean().item() for loss, start, row in parts]
            found.append(means.index(min(means)))
    os.environ["PYNANOCHAT_BACKEND"] = ""
    return found


def batched(model, items, kind):
    answers = core.answer(model, items, kind, core.BATCH_TOKENS["cpu"])
    return [a.tokens if kind == "language_modeling" else a.row for a in answers]


class Words:
    """A tokenizer of bytes."""

    special_tokens = {name: 256 + i for i, name in enumerate(SPECIAL_TOKENS)}  # noqa: RUF012
    bos_id = 256

    def encode(self, text):
        return list(text.encode())

    def special_id(self, name):
        return self.special_tokens[name]


class Choices(Task):
    name, kind, baseline = "choices", "choice", 0.25

    def __init__(self, count):
        rng = random.Random(0)
        self.questions = ["".join(rng.choices("abcdefgh ", k=rng.randint(80, 300))) for _ in range(count)]

    def __len__(self):
        return len(self.questions)

    def __getitem__(self, index):
        messages = [{"role": "user", "content": self.questions[index]}, {"role": "assistant", "content": "A"}]
        return {"messages": messages, "letters": ["A", "B", "C", "D"]}


@torch.inference_mode()
def letters_one_by_one(model, task, backend=""):
    """The letters of all questions, whole logits of one prompt at a time."""
    os.environ["PYNANOCHAT_BACKEND"] = backend
    found = []
    for i in range(len(task)):
        ids = torch.tensor([render_for_completion(Words(), task[i]["messages"][:-1])])
        found.append("ABCD"[int(model(ids)[0, -1, [65, 66, 67, 68]].argmax())])
    os.environ["PYNANOCHAT_BACKEND"] = ""
    return found


@functools.lru_cache(maxsize=4)
def contest(kind: str, count: int, depth: int = 4) -> dict:
    """engine -> all items once; first, the predictions must be equal."""
    model = build(depth, VOCAB)
    if kind == "choices":
        task = Choices(count)
        engine = Engine(model, Words())
        expected = letters_one_by_one(model, task)
        assert chat.evaluate(engine, task).correct == expected.count("A")
        assert letters_one_by_one(model, task, "reference") == expected
        return {
            "ours": lambda: chat.evaluate(engine, task),
            "one by one": lambda: letters_one_by_one(model, task),
            "plain": lambda: letters_one_by_one(model, task, "reference"),
        }
    items = some_items(kind, count)
    expected = one_by_one(model, items, kind)
    assert batched(model, items, kind) == expected, "batched predictions are not those of one item at a time"
    assert one_by_one(model, items, kind, "reference") == expected
    return {
        "ours": lambda: batched(model, items, kind),
        "one by one": lambda: one_by_one(model, items, kind),
        "plain": lambda: one_by_one(model, items, kind, "reference"),
    }


@pytest.mark.parametrize("engine", ("ours", "one by one", "plain"))
@pytest.mark.parametrize("kind", (*KINDS, "choices"))
def test_evals(benchmark, kind, engine):
    race(benchmark, contest, engine, kind, 4)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("--depth", type=int, default=4)
    p.add_argument("--items", type=int, default=24)
    p.add_argument("--seconds", type=float, default=30.0, help="for each line of the table")
    args = p.parse_args()
    rows = []
    for kind in (*KINDS, "choices"):
        times = interleave(contest(kind, args.items, args.depth), args.seconds, rounds=5)
        rows.append(
            {
                "kind": kind,
                "items/s": args.items / times["ours"][0],
                "times one by one": speedup(times, "ours", "one by one"),
                "times plain": speedup(times, "ours", "plain"),
            }
        )
    report(f"evals d{args.depth}", rows)


if __name__ == "__main__":
    main()
