"""CORE: how well a base model continues text, over 22 tasks, centred so that guessing is 0.

    tasks = open_bundle(Path("data/core"))
    scores = [evaluate(model, tokenizer, task, max_examples=500) for task in tasks]
    print(core(scores).score)

Multiple choice: the option whose tokens have the lowest mean loss. Schema: the context behind which the shared end has
the lowest mean loss. Language modelling: right if every token of the continuation is the model's first choice.

The options of an item share nearly all of their prompt, so that part runs once, into a cache that they share; what
follows runs for every option of a batch of items, and the head sees the asked positions alone.

B rows, T tokens, N asked positions.
"""

import random
import time
from dataclasses import dataclass

import numpy as np
import torch

from pynanochat.engine.paged_cache import PAGE, PagedCache
from pynanochat.evals.core_tasks import COUNT, ORDER_SEED, CoreTask, Item, common, open_bundle
from pynanochat.evals.ranks import gather, mine
from pynanochat.evals.score import EXAMPLES, Score, make_score, mean_of, partial

__all__ = ["core", "evaluate", "open_bundle"]

BATCH_TOKENS = {"cpu": 8192, "cuda": 32768}
WINDOW = 512  # items tokenized at one time
WORTH_SHARING = 32  # tokens
CACHE_BATCHES = 2  # times BATCH_TOKENS that the cache may hold
HEAD_ROWS = 1024  # positions whose logits or losses are taken at one time
PROMPT_SHOWN = 400  # characters


def core(scores: list[Score]) -> Score:
    """The mean of the tasks' centred scores; of fewer than 22 its name says so."""
    return mean_of("CORE" if len(scores) == COUNT else partial("CORE", len(scores), COUNT), scores)


def evaluate(model, tokenizer, task: CoreTask, *, max_examples: int = 0, ranks=None, batch_tokens: int = 0) -> Score:
    """The score of a base model on one task.

    max_examples: the first so many rows of the task's order, 0 for all; shots are drawn from all rows either way.
    batch_tokens: tokens in one forward pass, 0 for what the device takes.
    """
    started = time.perf_counter()
    chosen = list(range(len(task.rows)))
    if max_examples > 0:
        chosen = chosen[:max_examples]
    shown = set(random.Random(ORDER_SEED).sample(chosen, min(EXAMPLES, len(chosen))))
    device = model.lm_head.weight.device
    budget = batch_tokens or BATCH_TOKENS[device.type]
    share = mine(chosen, ranks)
    found = []
    for first in range(0, len(share), WINDOW):
        part = share[first : first + WINDOW]
        items = [task.item(i, tokenizer, model.config.sequence_len) for i in part]
        answers = answer(model, items, task.kind, budget)
        for i, item, got in zip(part, items, answers, strict=True):
            found.append({"index": i, "right": int(got.right), "cut": item.cut})
            if i in shown:
                found[-1]["example"] = _example(task, i, item, got, tokenizer)
    found = sorted(gather(found, ranks, device), key=lambda result: result["index"])
    correct = sum(result["right"] for result in found)
    score = make_score(task.label, correct, len(found), task.baseline, seconds=time.perf_counter() - started)
    score.cut = sum(result["cut"] for result in found)
    score.examples = [result["example"] for result in found if "example" in result]
    return score


@dataclass
class Answer:
    """What the model made of an item."""

    right: bool
    row: int = 0
    """The row it chose."""
    tokens: list[int] | None = None
    """Of language modelling: its first choice at each place of the continuation, the right ones standing before."""


def answer(model, items: list[Item], kind: str, batch_tokens: int) -> list[Answer]:
    """An answer to each item."""
    if kind == "language_modeling":
        return _in_batches(model, items, batch_tokens, _first_choices)
    answers = []
    for item, rows in zip(items, row_losses(model, items, batch_tokens), strict=True):
        best = int(np.argmin([losses.mean() for losses in rows]))
        answers.append(Answer(best == item.gold, best))
    return answers


def row_losses(model, items: list[Item], batch_tokens: int) -> list[list[np.ndarray]]:
    """For each item and each of its rows the losses, in nats, of the tokens that are asked for."""
    return _in_batches(model, items, batch_tokens, _losses)


def _in_batches(model, items, batch_tokens, run) -> list:
    """What `run(model, items, shared)` makes of each item. Items of about the same length are run together, the longest
    first."""
    results = [None] * len(items)
    for batch, shared in _batches(items, batch_tokens):
        for i, one in zip(batch, run(model, [items[i] for i in batch], shared), strict=True):
            results[i] = one
    return results


def _batches(items: list[Item], budget: int):
    """(indices, shared): items with as many rows each, whose first `shared` tokens are to be run once an item."""
    sizes = [(len(item.rows), _shared(item), max(map(len, item.rows))) for item in items]
    asked = [sum(len(row) - start for row, start in zip(i.rows, i.starts, strict=True)) for i in items]
    batch: list[int] = []
    widest = places = 0
    for i in sorted(range(len(items)), key=lambda i: (*(-n for n in sizes[i]), i)):
        rows, shared, longest = sizes[i]
        widest, places = max(widest, longest), places + asked[i]
        if batch:
            count, (rows_of_all, most, _) = len(batch) + 1, sizes[batch[0]]
            held = count * rows * widest
            run = count * (shared + rows * (widest - shared))
            alike = (
                rows == rows_of_all and most - shared <= max(WORTH_SHARING, most // 4) and (shared > 0) == (most > 0)
            )
            if not alike or run > budget or held > CACHE_BATCHES * budget or places > HEAD_ROWS:
                yield batch, sizes[batch[-1]][1]
                batch, widest, places = [], longest, asked[i]
        batch.append(i)
    if batch:
        yield batch, sizes[batch[-1]][1]


def _shared(item: Item) -> int:
    """Tokens with which all rows begin, short of the last one before an answer; 0 where it is too few to matter."""
    if len(item.rows) == 1:
        return 0
    shared = min(common(item.rows), min(item.starts) - 1)
    return shared if shared >= WORTH_SHARING else 0


@torch.inference_mode()
def _losses(model, items: list[Item], shared: int) -> list[list[np.ndarray]]:
    device = model.lm_head.weight.device
    if shared:
        losses, ends = _losses_behind(model, items, shared, device)
    else:
        ids, at, targets, ends = _tensors(items)
        losses = model(ids.to(device), targets.to(device), at=at.to(device), reduction="none")
    parts = iter(np.split(losses.float().cpu().numpy(), ends))
    return [[next(parts) for _ in item.rows] for item in items]


@torch.inference_mode()
def _first_choices(model, items: list[Item], shared: int) -> list[Answer]:
    """Of language modelling, whose items have one row and share nothing."""
    device = model.lm_head.weight.device
    ids, at, targets, ends = _tensors(items)
    first = model(ids.to(device), at=at.to(device)).argmax(dim=-1).cpu().numpy()
    parts = zip(np.split(first, ends), np.split(targets.numpy(), ends), strict=True)
    return [Answer(bool((mine == right).all()), 0, mine.tolist()) for mine, right in parts]


def _tensors(items: list[Item]):
    """ids (B, T) of all rows without their last tokens, padded on the right, where nothing sees it; the places (N,)
    before each token of the answers, row by row, those tokens (N,), and where to split them by rows."""
    rows = [row for item in items for row in item.rows]
    starts = [start for item in items for start in item.starts]
    width = max(map(len, rows)) - 1
    ids = np.zeros((len(rows), width), np.int64)
    at = []
    for r, (row, start) in enumerate(zip(rows, starts, strict=True)):
        ids[r, : len(row) - 1] = row[:-1]
        at.append(r * width + np.arange(start - 1, len(row) - 1))
    targets = np.concatenate([row[start:] for row, start in zip(rows, starts, strict=True)]).astype(np.int64)
    ends = np.cumsum([len(places) for places in at])[:-1]
    return torch.from_numpy(ids), torch.from_numpy(np.concatenate(at)), torch.from_numpy(targets), ends


def _losses_behind(model, items: list[Item], shared: int, device):
    """Losses (N,) of all answers and where to split them by rows; each item's first `shared` tokens run once."""
    room = sum(shared + PAGE + sum(len(row) - shared + 2 * PAGE for row in item.rows) for item in items)
    cache = PagedCache(model.config, model.compute_dtype, device, room, burst=room)
    once = [(cache.open((), share=False), item.rows[0].tolist(), shared) for item in items]
    _run(model, cache, once, [0], None)
    parts, at, targets, before = [], [], [], 0
    for (sequence, _, _), item in zip(once, items, strict=True):
        for row, start in zip(item.rows, item.starts, strict=True):
            parts.append((cache.fork(sequence), row.tolist(), len(row) - 1 - shared))
            at.append(np.arange(before + start - 1 - shared, before + len(row) - 1 - shared))
            targets.append(row[start:])
            before += len(row) - 1 - shared
    losses = _run(model, cache, parts, np.concatenate(at), np.concatenate(targets))
    return losses, np.cumsum([len(places) for places in at])[:-1]


def _run(model, cache, parts, at, targets):
    """One forward pass over the next tokens of `parts`: logits, or losses of targets, at the places asked for."""
    for sequence, _, count in parts:
        assert cache.reserve(sequence, count)
    ids, pass_ = cache.plan(parts)
    at = torch.as_tensor(at, dtype=torch.int64).to(ids.device)
    targets = None if targets is None else torch.as_tensor(targets, dtype=torch.int64).to(ids.device)
    found = model(ids, targets, cache=pass_, at=at, reduction="none")
    for sequence, tokens, count in parts:
        cache.advance(sequence, tokens, count)
    return found


def _example(task: CoreTask, index: int, item: Item, got: Answer, tokenizer) -> dict:
    row, prompt = task.rows[index], task.prompts(index)[0]
    if task.kind == "language_modeling":
        said, reference = tokenizer.decode_bytes(got.tokens).decode(errors="replace"), row["continuation"]
    else:
        options = row["choices" if task.kind == "multiple_choice" else "context_options"]
        said, reference = options[got.row], options[item.gold]
        if task.kind == "schema":
            prompt = f"...{task.delimiter}{row['continuation']}"
        else:
            prompt = prompt[: len(prompt) - len(row["choices"][0])]
    return {"prompt": prompt[-PROMPT_SHOWN:], "answer": said, "reference": reference, "correct": got.right}
