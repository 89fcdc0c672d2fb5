"""CORE once more, slow and plain: one text at a time, whole logits, nothing shared, nothing of pynanochat.evals."""

import random

import torch


def texts_of(kind, data, index, shots, gap):
    """The prompts of an item, and for language modelling also the prompt without the continuation (first)."""
    rng = random.Random(1234 + index)
    numbers = rng.sample([i for i in range(len(data)) if i != index], shots)
    item, before = data[index], ""
    for shot in (data[i] for i in numbers):
        if kind == "multiple_choice":
            before += shot["query"] + gap + shot["choices"][shot["gold"]] + "\n\n"
        elif kind == "schema":
            before += shot["context_options"][shot["gold"]] + gap + shot["continuation"] + "\n\n"
        else:
            before += shot["context"].strip() + gap + shot["continuation"] + "\n\n"
    if kind == "multiple_choice":
        return [before + item["query"] + gap + choice for choice in item["choices"]]
    if kind == "schema":
        return [before + context + gap + item["continuation"] for context in item["context_options"]]
    plain = before + item["context"].strip() + gap
    return [plain.strip(), plain + item["continuation"]]


def predict(model, tokenizer, kind, data, index, shots, gap):
    """The number of the chosen option, or for language modelling whether the continuation is matched."""
    rows = [[tokenizer.bos_id, *tokenizer.encode(t)] for t in texts_of(kind, data, index, shots, gap)]
    if kind == "multiple_choice":
        start = 0
        while all(len(row) > start for row in rows) and len({row[start] for row in rows}) == 1:
            start += 1
        asked = [len(row) - start for row in rows]
    elif kind == "schema":
        same = 0
        while all(len(row) > same for row in rows) and len({row[-1 - same] for row in rows}) == 1:
            same += 1
        asked = [same for _ in rows]
    else:
        without, rows = rows[0], rows[1:]
        assert rows[0][: len(without)] == without
        asked = [len(rows[0]) - len(without)]
    losses = []
    too_many = [max(0, len(row) - 1 - model.config.sequence_len) for row in rows]
    if all(max(too_many) < len(row) - count for row, count in zip(rows, asked, strict=True)):
        too_many = [max(too_many)] * len(rows)  # the same for all, where no answer is lost
    for row, count, gone in zip(rows, asked, too_many, strict=True):
        for _ in range(gone):
            row = row[:1] + row[2:]  # <|bos|> stays, what follows it goes
        logits = model(torch.tensor([row[:-1]]))[0].double()
        count = min(count, len(row) - 1)
        if kind == "language_modeling":
            return all(int(logits[-k].argmax()) == row[-k] for k in range(1, count + 1))
        losses.append(-sum(logits[-k].log_softmax(0)[row[-k]].item() for k in range(1, count + 1)) / count)
    return losses.index(min(losses))
