"""Tasks over byte tokens, and models rigged to know the answer."""

import random

import torch

from pynanochat.model import GPTConfig
from pynanochat.tasks.base import Task


def words(rng, most=12):
    return " ".join("".join(rng.choices("abcdefgh", k=rng.randint(1, 6))) for _ in range(rng.randint(1, most)))


class Letters(Task):
    """Multiple choice with questions of any length; `gold(index)` says which letter is right."""

    name, kind, baseline = "Letters", "choice", 0.25

    def __init__(self, count=40, seed=0, most=12, letters="ABCD"):
        rng = random.Random(seed)
        self.rows = [(words(rng, most), rng.choice(letters)) for _ in range(count)]
        self.letters = list(letters)

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        question, gold = self.rows[index]
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": gold}]
        return {"messages": messages, "letters": self.letters}


class Echo(Task):
    """The right answer to a question is the script that it is given; `graded` notes what was judged."""

    name, kind, baseline, max_tokens = "Echo", "generate", 0.0, 40

    def __init__(self, questions, wanted="yes"):
        self.questions, self.wanted, self.graded = questions, wanted, []

    def __len__(self):
        return len(self.questions)

    def __getitem__(self, index):
        parts = [{"type": "text", "text": "so "}, {"type": "python", "text": "1+1"}]
        parts += [{"type": "python_output", "text": "2"}, {"type": "text", "text": self.wanted}]
        question = {"role": "user", "content": self.questions[index]}
        return {"messages": [question, {"role": "assistant", "content": parts}]}

    def grade(self, conversation, answer):
        self.graded.append(answer)
        return answer == self.wanted


class Rigged:
    """Stands for a model: the logits of each position by a function of the tokens up to it, cached ones included."""

    def __init__(self, knows, context=256, vocab_size=265):
        self.knows = knows
        self.config = GPTConfig.from_depth(1, head_dim=16, vocab_size=vocab_size, sequence_len=context)
        self.compute_dtype = torch.float32
        self.lm_head = torch.nn.Linear(1, 1)

    def __call__(self, ids, targets=None, *, cache=None, last=False, at=None, reduction="mean"):
        rows, width = ids.shape
        if cache is not None:
            histories = self._cached(ids, cache)
        else:
            assert width <= self.config.sequence_len
            histories = [ids[row, : end + 1].tolist() for row in range(rows) for end in range(width)]
        if at is None:
            at = torch.arange(rows * width).view(rows, width)[:, -1:] if last else torch.arange(rows * width)
        logits = torch.stack([self.knows(histories[place]) for place in at.flatten().tolist()])
        return logits if targets is None else torch.nn.functional.cross_entropy(logits, targets, reduction=reduction)

    def _cached(self, ids, cache):
        """The tokens up to each one of the pass; they are kept where a model keeps its keys."""
        kept = ids[..., None].expand(-1, self.config.n_kv_head, self.config.head_dim).float()
        keys, _, tables, starts, _, _ = cache.update(0, kept, kept)
        assert int(cache.positions.max()) < self.config.sequence_len
        row_of = torch.searchsorted(starts, torch.arange(len(ids)), right=True) - 1
        return [
            keys[tables[row]].flatten(0, 1)[: position + 1, 0, 0].long().tolist()
            for row, position in zip(row_of.tolist(), cache.positions.tolist(), strict=True)
        ]
