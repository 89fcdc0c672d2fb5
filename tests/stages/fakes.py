"""A run small enough for a test: the real tokenizer and base model of a tiny toy world, and a made-up mixture."""

import hashlib
import json
import random

from pynanochat.stages import pretrain, tokenizer
from pynanochat.stages.commands import open_run

SMALL = {
    "preset": "toy", "device": "cpu", "dtype": "fp32", "toyworld_megabytes": 0.2, "vocab_size": 320, "depth": 2,
    "head_dim": 16, "sequence_len": 64, "batch_tokens": 256, "device_rows": 2, "steps": 4, "eval_tokens": 512, 
    "eval_every": 4, "sample_every": 0, "save_every": 4, "buffer_documents": 50,
}  # fmt: skip
LATER = {
    "eval_tokens": 1024, "eval_every": 3, "sample_every": 0, "save_every": 2, "buffer_conversations": 8, "steps": 0,
    "lr_scale": 0.5,
}  # fmt: skip


class Talk:
    """`count` small conversations, some with a call of the tool; item `i` is the same every time."""

    def __init__(self, count, seed=0):
        self.count, self.seed = count, seed

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if not 0 <= index < self.count:
            raise IndexError(index)
        rng = random.Random(self.seed * 1000 + index)
        a, b = rng.randrange(30), rng.randrange(30)
        parts = [{"type": "python", "text": f"{a}+{b}"}, {"type": "python_output", "text": str(a + b)}]
        answer = [*parts, {"type": "text", "text": f"It is {a + b}."}] if index % 3 else f"It is {a + b}."
        messages = [{"role": "user", "content": f"{a} plus {b}?"}, {"role": "assistant", "content": answer}]
        return {"messages": messages * rng.randint(1, 2)}

    def hash(self):
        return hashlib.sha256(json.dumps([self[i] for i in range(len(self))]).encode()).hexdigest()


def make_run(folder, **flags):
    """A run whose mixtures are Talk; settings of midtrain and sft are LATER's."""
    later = {f"{stage}_{k}": v for stage in ("midtrain", "sft") for k, v in LATER.items()}
    run = open_run({**SMALL, **later, "run": str(folder), **flags}, recorded=False)
    for stage in ("midtrain", "sft"):
        run._mixtures[stage, "train"] = Talk(40, seed=1)
        run._mixtures[stage, "val"] = Talk(7, seed=2)
    return run


def make_base(folder, **flags):
    """A run with a tokenizer and a base model."""
    run = make_run(folder, **flags)
    run.save_settings()
    run.carry_out(tokenizer)
    run.carry_out(pretrain)
    return run
