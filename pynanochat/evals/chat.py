"""Evaluation of chat tasks: multiple choice by the letters' logits, questions by answers that the engine generates.

    score = evaluate(Engine.load("runs/toy"), task, max_examples=200)
    print(score.score, score.low, score.high)

A choice is put as a conversation, and after <|assistant_start|> the logits of its letters are compared, in one pass
over many prompts of about one length; where the choices are whole answers, their probabilities are. Other questions
are answered by the engine, with its tools, and the task grades the text. Under several ranks each takes a share of the
items, and all get the score.
"""

import functools
import random
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from pynanochat.engine.events import answer_events
from pynanochat.errors import DataError
from pynanochat.evals.core import row_losses
from pynanochat.evals.core_tasks import Item
from pynanochat.evals.ranks import gather_from, mine
from pynanochat.evals.score import EXAMPLES, Score, make_score, pass_at, reliability
from pynanochat.tokenizer import render_for_completion

ORDER_SEED = 1337
GRADERS = 4  # programs that may run at once
BATCH_TOKENS = {"cpu": 4096, "cuda": 65536}


def evaluate(
    engine, task, *, max_examples: int = 0, ranks=None, samples: int = 1, temperature: float = 0.0, rows: int = 64
) -> Score:
    """The score of the engine's model on `task` (kind "choice" or "generate").

    max_examples: the first so many items of a shuffled order, 0 for all. samples: answers for each question, at
    `temperature`; the item is right if one of them is. rows: sequences decoded, or prompts run, at once.
    Raises DataError for a task that has nothing to grade.
    """
    if task.kind not in ("choice", "generate"):
        raise DataError(f"{task.name}: a {task.kind} task has nothing to grade; leave it out of --tasks")
    started = time.perf_counter()
    order = chosen(task, max_examples)
    shown = set(random.Random(ORDER_SEED).sample(order, min(EXAMPLES, len(order))))
    if task.kind == "choice":
        work = functools.partial(_choices, engine, task, mine(order, ranks), shown, rows)
    else:
        work = functools.partial(_answers, engine, task, mine(order, ranks), shown, samples, temperature, rows)
    found = gather_from(work, ranks, engine.model.lm_head.weight.device)
    found.sort(key=lambda result: result["index"])
    return _score(task, found, samples, time.perf_counter() - started)


def chosen(task, max_examples: int) -> list[int]:
    """The items that are asked: the first `max_examples` of a shuffled order that is always the same, 0 for all."""
    order = list(range(len(task)))
    random.Random(ORDER_SEED).shuffle(order)
    return order[:max_examples] if max_examples > 0 else order


def _score(task, found: list[dict], samples: int, seconds: float) -> Score:
    correct = sum(result["right"] > 0 for result in found)
    score = make_score(task.name, correct, len(found), task.baseline, seconds=seconds)
    score.cut = sum(result["cut"] for result in found)
    score.examples = [result["example"] for result in found if "example" in result]
    score.reliability = reliability((r["probability"], r["right"] > 0) for r in found if "probability" in r)
    if samples > 1 and found:
        means = (sum(pass_at(k, samples, r["right"]) for r in found) / len(found) for k in range(1, samples + 1))
        score.pass_at = {str(k): mean for k, mean in enumerate(means, start=1)}
    return score


# --- multiple choice ---


def _choices(engine, task, indices, shown, rows) -> list[dict]:
    """A result for each item: {"index", "right", "cut", "probability"} and, where it is shown, "example"."""
    tokenizer = engine.tokenizer
    asked = {i: task[i] for i in indices}
    prompts = {i: _prompt(tokenizer, c, engine.context - _longest(tokenizer, c)) for i, c in asked.items()}
    whole = [i for i in indices if "choices" in asked[i]]
    scores = _whole_answers(engine, {i: prompts[i][0] for i in whole}, asked)
    scores |= _letters(engine, {i: prompts[i][0] for i in indices if i not in scores}, asked, rows)
    return [_choice(asked[i], i, scores[i], prompts[i][1], i in shown) for i in indices]


def _letters(engine, prompts: dict, asked: dict, rows: int) -> dict[int, torch.Tensor]:
    """The logits of each item's letters behind its prompt."""
    device = engine.model.lm_head.weight.device
    scores = {}
    for batch in _batches(prompts, rows, BATCH_TOKENS[device.type]):
        logits = _last_logits(engine.model, [prompts[i] for i in batch], device).float().cpu()
        for i, row in zip(batch, logits, strict=True):
            scores[i] = row[[_letter_id(engine.tokenizer, letter) for letter in asked[i]["letters"]]]
    return scores


def _whole_answers(engine, prompts: dict, asked: dict) -> dict[int, torch.Tensor]:
    """The log-probabilities of each item's choices, which are whole answers, behind its prompt."""
    items = []
    for i, prompt in prompts.items():
        rows = [np.array([*prompt, *ending], np.int32) for ending in _endings(engine.tokenizer, asked[i])]
        items.append(Item(rows, [len(prompt)] * len(rows), 0, 0))
    device = engine.model.lm_head.weight.device
    found = row_losses(engine.model, items, BATCH_TOKENS[device.type])
    return {i: -torch.tensor([float(one.sum()) for one in rows]) for i, rows in zip(prompts, found, strict=True)}


def _endings(tokenizer, conversation) -> list[list[int]]:
    """The tokens of each whole answer, the one that ends it included."""
    end = tokenizer.special_id("<|assistant_end|>")
    return [[*tokenizer.encode(answer), end] for answer in conversation["choices"]]


def _longest(tokenizer, conversation) -> int:
    """The tokens that must have room behind the prompt."""
    return max(map(len, _endings(tokenizer, conversation))) if "choices" in conversation else 0


def _choice(conversation, index, scores, cut, shown) -> dict:
    letters = conversation.get("letters") or conversation["choices"]
    probabilities = scores.softmax(dim=0)
    best = int(probabilities.argmax())
    reference = conversation["messages"][-1]["content"]
    right = letters[best] == reference
    result = {"index": index, "right": int(right), "cut": cut, "probability": float(probabilities[best])}
    if shown:
        result["example"] = {
            "prompt": _text_of_prompt(conversation),
            "answer": letters[best],
            "reference": reference,
            "correct": right,
            "letters_probabilities": dict(zip(letters, probabilities.tolist(), strict=True)),
        }
    return result


def _letter_id(tokenizer, letter: str) -> int:
    ids = tokenizer.encode(letter)
    if len(ids) != 1:
        raise DataError(f"the choice {letter!r} is {len(ids)} tokens; choices must be named by letters of one token")
    return ids[0]


def _batches(prompts: dict, rows: int, tokens: int):
    """Lists of indices: the longest prompts first, prompts of about the same length together."""
    batch: list[int] = []
    for i in sorted(prompts, key=lambda i: (-len(prompts[i]), i)):
        if batch and (len(batch) == rows or (len(batch) + 1) * len(prompts[batch[0]]) > tokens):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


@torch.inference_mode()
def _last_logits(model, prompts, device):
    """The logits (B, V) behind each prompt. Padding stands on the right, where no prompt sees it."""
    width = max(map(len, prompts))
    ids = torch.tensor([[*prompt, *[0] * (width - len(prompt))] for prompt in prompts], device=device)
    at = torch.tensor([row * width + len(prompt) - 1 for row, prompt in enumerate(prompts)], device=device)
    return model(ids, at=at)


# --- generated answers ---


def _answers(engine, task, indices, shown, samples, temperature, rows) -> list[dict]:
    """A result for each item: {"index", "right", "cut"} and, where it is shown, "example"."""
    tokenizer = engine.tokenizer
    room = engine.context - min(task.max_tokens, engine.context // 4)
    prompts = [_prompt(tokenizer, task[i], room) for i in indices]
    generated = engine.generate_batch(
        [ids for ids, _ in prompts],
        samples=samples,
        max_tokens=task.max_tokens,
        temperature=temperature,
        seed=[ORDER_SEED + i for i in indices],
        rows=rows,
    )

    def result(at: int) -> dict:
        conversation = task[indices[at]]
        answers = [_read(tokenizer, one) for one in generated[at]]
        marks = [task.grade(conversation, said) for said, _ in answers]
        found = {"index": indices[at], "right": sum(marks), "cut": prompts[at][1]}
        if indices[at] in shown:
            found["example"] = {
                "prompt": _text_of_prompt(conversation),
                "answer": answers[0][1],
                "reference": _text_of(conversation["messages"][-1]["content"]),
                "correct": bool(marks[0]),
            }
        return found

    with ThreadPoolExecutor(GRADERS) as pool:
        return list(pool.map(result, range(len(indices))))


def _read(tokenizer, generated) -> tuple[str, str]:
    """What was said without tool calls and outputs, which is graded, and all of it as a reader sees it."""
    events = answer_events(tokenizer, generated.ids, generated.forced)
    said = "".join(event.text for event in events if event.kind == "text")
    return said, _shown((event.kind, event.text) for event in events)


# --- both ---


def _prompt(tokenizer, conversation, most: int) -> tuple[list[int], int]:
    """The ids of the question, at most `most`, and 1 if its beginning had to go; <|bos|><|user_start|> stay."""
    ids = render_for_completion(tokenizer, conversation["messages"][:-1])
    if len(ids) <= most:
        return ids, 0
    return [*ids[:2], *ids[len(ids) - (most - 2) :]], 1


def _text_of_prompt(conversation) -> str:
    return "\n\n".join(_text_of(message["content"]) for message in conversation["messages"][:-1])


def _text_of(content) -> str:
    if isinstance(content, str):
        return content
    kinds = {"text": "text", "python": "tool_call", "python_output": "tool_output"}
    return _shown((kinds[part["type"]], part["text"]) for part in content)


def _shown(parts) -> str:
    """(kind, text) parts as one text, with calls of the tool as <<expression=result>>."""
    text, called = [], False
    for kind, piece in parts:
        if called:
            text.append(f"={piece}>>" if kind == "tool_output" else ">>")
        elif kind == "tool_output":
            text.append(f"<<={piece}>>")
        called = kind == "tool_call"
        if kind == "tool_call":
            text.append(f"<<{piece}")
        elif kind == "text":
            text.append(piece)
    return "".join([*text, ">>"] if called else text)
