"""The sequences that decode together. Each step gives every sequence one token; sequences join and leave between steps.

    batch = Batch(model, tokenizer)
    batch.add(prompt_ids, [Sequence(0, Sampling(), seed=1, ...), ...])      one prefill, shared by the sequences
    while batch.busy:
        for sequence, token in batch.step(): ...

R rows, V vocabulary.
"""

import torch

from pynanochat.engine.kv_cache import KVCache
from pynanochat.engine.requests import Token
from pynanochat.engine.sampler import sample, uniform
from pynanochat.engine.sampling import Sampling
from pynanochat.engine.tool_state import ToolState
from pynanochat.errors import CheckpointError


class Sequence:
    """One answer in the making: its settings, and the tokens so far."""

    def __init__(self, row: int, sampling: Sampling, seed: int, sample: int, max_tokens: int, stop: frozenset[int]):
        self.row, self.sampling, self.seed, self.sample = row, sampling, seed, sample
        self.max_tokens, self.stop = max_tokens, stop
        self.tokens: list[int] = []
        self.finish = ""
        self.forced: list[int] = []
        self.tool: ToolState | None = None

    def number(self) -> float:
        """The uniform number that draws the next token."""
        return uniform(self.seed, self.sample, len(self.tokens))

    def take(self, sampled: int) -> Token:
        """Go on with the token forced on this sequence, else with the `sampled` one."""
        forced = bool(self.forced)
        token = self.forced.pop(0) if forced else sampled
        self.tokens.append(token)
        if not forced and token in self.stop:
            self.finish = "stop"
        elif len(self.tokens) >= self.max_tokens:
            self.finish = "length"
        elif not forced and self.tool is not None:
            self.forced = self.tool.see(token)
        return Token(self.row, token, forced, self.finish)


class Batch:
    """Sequences decoding over one KV cache, in the order of its rows."""

    def __init__(self, model, tokenizer):
        self.model, self.tokenizer = model, tokenizer
        self.device = model.lm_head.weight.device
        self.cache = self._new_cache()
        self.running: list[Sequence] = []
        self._joining: list[tuple[list[int], list[Sequence]]] = []

    @property
    def busy(self) -> bool:
        return bool(self.running or self._joining)

    @property
    def rows(self) -> int:
        """Sequences that are running or will join at the next step."""
        return len(self.running) + sum(len(sequences) for _, sequences in self._joining)

    def add(self, prompt: list[int], sequences: list[Sequence], tools: bool = True) -> None:
        """Let `sequences` continue `prompt` from the next step on."""
        for sequence in sequences:
            sequence.tool = ToolState(self.tokenizer) if tools else None
        self._joining.append((prompt, sequences))

    @torch.inference_mode()
    def remove(self, sequence: Sequence) -> None:
        """Give up a running sequence."""
        row = self.running.index(sequence)
        self.cache.remove(row)
        self.running[row] = self.running[-1]
        self.running.pop()

    @torch.inference_mode()
    def step(self) -> list[tuple[Sequence, Token]]:
        """One token for every sequence; those whose token has a `finish` are gone afterwards.

        Raises CheckpointError where the model has no next token because its logits are not numbers.
        """
        logits = []
        if self.running:
            last = torch.tensor([[sequence.tokens[-1]] for sequence in self.running], device=self.device)
            logits.append(self.model(last, cache=self.cache)[:, -1])
        for prompt, sequences in self._joining:
            logits.append(self._prefill(prompt, sequences))
        self._joining = []
        samplings = [sequence.sampling for sequence in self.running]
        numbers = [sequence.number() for sequence in self.running]
        sampled = sample(torch.cat(logits), samplings, numbers).tolist()
        if max(sampled) >= self.model.config.vocab_size:
            raise CheckpointError(
                "the model's logits are not numbers: it has diverged; use an earlier checkpoint of it"
            )
        taken = [(sequence, sequence.take(token)) for sequence, token in zip(self.running, sampled, strict=True)]
        for sequence, token in taken:
            if token.finish:
                self.remove(sequence)
        return taken

    def _prefill(self, prompt, sequences):
        """Run the prompt once and give each sequence a row that stands behind it; the logits (R, V) there."""
        cache = self._new_cache()
        cache.open(1)
        logits = self.model(torch.tensor([prompt], device=self.device), cache=cache, last=True)[:, -1]
        self.cache.append(cache, times=len(sequences))
        self.running += sequences
        return logits.expand(len(sequences), -1)

    def _new_cache(self):
        return KVCache(self.model.config, self.model.compute_dtype, self.device)
