"""A tokenizer whose tokens are bytes, and small models with lively weights."""

import torch

from pynanochat.checkpoint import Writer, folder_of
from pynanochat.model import GPT, GPTConfig
from pynanochat.tokenizer import SPECIAL_TOKENS


class ByteTokenizer:
    """Ids 0-255 are bytes, then the nine specials."""

    special_tokens = {name: 256 + i for i, name in enumerate(SPECIAL_TOKENS)}  # noqa: RUF012
    bos_id = 256

    def __len__(self):
        return 256 + len(SPECIAL_TOKENS)

    def encode(self, text):
        return list(text.encode())

    def decode_bytes(self, ids):
        return bytes(ids)

    def token_bytes(self, id):
        return bytes([id])

    def special_id(self, name):
        return self.special_tokens[name]


def small_model(seed=0, arch="2026", **fields):
    """A model of three layers with no zero weights left, so that every part of it shows in the logits."""
    fields = {"n_kv_head": 2, "vocab_size": 265, "sequence_len": 96, "n_layer": 3, "n_head": 4, "n_embd": 64} | fields
    model = GPT(GPTConfig.from_depth(3, arch, head_dim=16, **fields), seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.numel() == 1 or parameter.std() < 0.02:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.eval()


class Scripted:
    """Stands for a model: after n tokens of answer it is sure of script[n], whatever the prompt says; then of 0."""

    def __init__(self, script, prompt_length, context=256):
        self.script, self.prompt_length = script, prompt_length
        self.config = GPTConfig.from_depth(1, head_dim=16, vocab_size=265, sequence_len=context)
        self.compute_dtype = torch.float32
        self.lm_head = torch.nn.Linear(1, 1)
        self.seen = []

    def __call__(self, ids, *, cache, at):
        self.seen += ids[:, 0].tolist()
        logits = torch.zeros(len(at), 265)
        for row, position in enumerate(cache.positions[at].tolist()):
            place = position + 1 - self.prompt_length
            logits[row, self.script[place] if place < len(self.script) else 0] = 100.0
        return logits


def save_run(folder, tokenizer, stages, **fields):
    """A run folder with a small model for each of `stages`, the first made from seed 0, the next from seed 1."""
    tokenizer.save(folder / "tokenizer")
    for seed, stage in enumerate(stages):
        model = small_model(seed, vocab_size=len(tokenizer), **fields)
        writer = Writer(folder_of(folder / stage, 10))
        writer.begin()
        writer.tensors("model", model.state_dict())
        writer.state("state", {"model": model.config.to_dict()})
        writer.commit()
