"""The engine: a model and its tokenizer, from prompts to tokens, text or events.

    engine = Engine.load("runs/toy")                                  newest stage of a run
    for piece in engine.chat([{"role": "user", "content": "hi"}]): print(piece, end="")
    engine.complete("The capital of")                                 a string
    engine.generate(ids, samples=4)                                   Token by Token, as they are made
    engine.generate_batch([ids, ids2], samples=4)                     whole answers of many prompts, decoded together

In fp32 the greedy tokens are those of the model run naively over the whole text, whatever else is in the batch.
"""

import secrets
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from pynanochat.checkpoint import load_model
from pynanochat.engine.conversation import fit, left_out
from pynanochat.engine.events import Event, EventReader
from pynanochat.engine.paged_cache import PAGE
from pynanochat.engine.requests import Request, Token
from pynanochat.engine.sampling import Sampling
from pynanochat.engine.scheduler import MOST_ROWS, Scheduler, cache_room
from pynanochat.errors import UsageError
from pynanochat.tokenizer import Tokenizer


@dataclass
class Generated:
    """One whole answer."""

    ids: list[int] = field(default_factory=list)
    """Its tokens, without the stop token."""
    forced: list[bool] = field(default_factory=list)
    """For each token: it is tool output that was put in, the model did not choose it."""
    finish: str = ""
    """ "stop" or "length"."""
    stop_id: int | None = None
    """The stop token that ended it."""


class Engine:
    """Generates with `model` (a GPT in eval mode) and `tokenizer`. `stage` says what the model was trained to do.

    A `finished` model's weights never change: what a call computes of a conversation is kept for the next one.
    """

    def __init__(self, model, tokenizer, stage: str = "", *, finished: bool = False):
        self.model, self.tokenizer, self.stage = model, tokenizer, stage
        self.context = model.config.sequence_len
        self._kept = Scheduler(model, tokenizer) if finished else None
        self._unread: dict[int, deque[Token]] = {}

    @classmethod
    def load(cls, run_folder, stage: str | None = None, *, device="cpu", compute_dtype=torch.float32) -> "Engine":
        """The newest stage of the run in `run_folder`, or its `stage`. Raises CheckpointError where there is none."""
        model, stage = load_model(run_folder, stage, device=device, compute_dtype=compute_dtype)
        if compute_dtype != torch.float32:
            for parameter in model.parameters():  # not the rotary tables: positions need all their digits
                parameter.data = parameter.data.to(compute_dtype)
        return cls(model, Tokenizer.load(Path(run_folder) / "tokenizer"), stage, finished=True)

    def generate(
        self,
        prompt_ids: list[int],
        *,
        samples: int = 1,
        max_tokens: int = 512,
        temperature: float = 0.8,
        top_k: int = 50,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int | None = None,
        stop_tokens: Iterable[int] | None = None,
        tools: bool = True,
    ) -> Iterator[Token]:
        """Continue a prompt `samples` times, yielding each Token as it is made; Token.row is the sample's number.

        Each sample ends on a stop token (default <|assistant_end|> and <|bos|>), after max_tokens, or where the context
        is full; its last Token has a `finish`. Without a seed every call differs. Raises UsageError for an empty or
        over-long prompt and for settings out of range. Closing the iterator ends the work.
        """
        request = Request(
            tuple(prompt_ids),
            samples=samples,
            max_tokens=max_tokens,
            sampling=Sampling(temperature, top_k, top_p, min_p, repetition_penalty),
            seed=_seed(seed),
            stop_tokens=None if stop_tokens is None else frozenset(stop_tokens),
            tools=tools,
        )
        scheduler = self._kept or self._scheduler([request], MOST_ROWS)
        scheduler.check(request)
        return self._run(scheduler, request)

    def _run(self, scheduler, request):
        """The tokens of one request. Those of others that are under way in the scheduler wait for their readers."""
        ticket = scheduler.submit(request)
        mine = self._unread[ticket] = deque()
        try:
            while mine or not scheduler.done(ticket):
                while not mine:
                    for number, token in scheduler.step():
                        self._unread[number].append(token)
                yield mine.popleft()
        finally:
            scheduler.cancel(ticket)
            del self._unread[ticket]

    def _scheduler(self, requests, rows):
        """One for these requests alone, with no more memory than they can use."""
        longest = max((min(len(r.prompt) + r.max_tokens, self.context) for r in requests), default=1)
        rows = max(1, min(rows, sum(max(r.samples, 1) for r in requests)))
        tokens = min(rows * (longest + PAGE), cache_room(self.model, rows))
        return Scheduler(self.model, self.tokenizer, cache_tokens=tokens, most_rows=rows)

    def generate_batch(
        self,
        prompts: list[list[int]],
        *,
        samples: int = 1,
        max_tokens: int = 512,
        temperature: float = 0.8,
        top_k: int = 50,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        seed: int | list[int] | None = None,
        stop_tokens: Iterable[int] | None = None,
        tools: bool = True,
        rows: int = MOST_ROWS,
    ) -> list[list[Generated]]:
        """Answers to many prompts of any lengths, about `rows` at a time: result[prompt][sample].

        A prompt's answers for a seed are those that `generate` gives it alone; other settings as there. One seed gives
        every prompt the same random numbers, a list of seeds, one for each prompt, gives each its own.
        """
        sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
        seeds = [int(one) for one in seed] if isinstance(seed, list) else [_seed(seed)] * len(prompts)
        if len(seeds) != len(prompts):
            raise UsageError(f"{len(seeds)} seeds for {len(prompts)} prompts: give one for each, or one for all")
        stop = None if stop_tokens is None else frozenset(stop_tokens)
        requests = [
            Request(tuple(prompt), samples, max_tokens, sampling, own_seed, stop, tools)
            for prompt, own_seed in zip(prompts, seeds, strict=True)
        ]
        scheduler = self._scheduler(requests, rows)
        for request in requests:
            scheduler.check(request)
        results = [[Generated() for _ in range(samples)] for _ in prompts]
        of_ticket = {scheduler.submit(request): result for request, result in zip(requests, results, strict=True)}
        while scheduler.busy:
            for ticket, token in scheduler.step():
                _note(of_ticket[ticket][token.row], token)
        return results

    def complete(self, text: str, **settings) -> str:
        """The model's continuation of `text`; settings as of `generate`."""
        return "".join(e.text for e in self.complete_events(text, **settings) if e.kind == "text")

    def complete_events(self, text: str, **settings) -> Iterator[Event]:
        """The continuation of `text` as events, while it is made; settings as of `generate`."""
        ids = [self.tokenizer.bos_id, *self.tokenizer.encode(text)]
        return self._events(ids, [], settings)

    def chat(self, messages: list[dict], **settings) -> Iterator[str]:
        """The pieces of the assistant's answer as text; messages are {"role", "content"}, settings as of `generate`."""
        return (event.text for event in self.chat_events(messages, **settings) if event.kind == "text")

    def chat_events(self, messages: list[dict], **settings) -> Iterator[Event]:
        """The assistant's answer as events: text, tool calls, tool outputs, notices, and one "end" at last.

        A conversation that leaves too little room in the context loses its oldest turns, which a "notice" says.
        Raises UsageError where the last message alone is too long.
        """
        wanted = settings.get("max_tokens", 512)
        ids, dropped = fit(self.tokenizer, messages, self.context, wanted)
        notices = [Event("notice", left_out(dropped, self.context))] if dropped else []
        return self._events(ids, notices, settings)

    def _events(self, ids, notices, settings):
        """Checks now, then yields as the tokens come."""
        tokens = self.generate(ids, **settings, samples=1)
        return self._read(tokens, notices)

    def _read(self, tokens, notices):
        yield from notices
        reader = EventReader(self.tokenizer)
        for token in tokens:
            if token.finish != "stop":
                yield from reader.read(token)
            if token.finish:
                yield from reader.close(token.finish)


def _seed(seed):
    return secrets.randbits(63) if seed is None else int(seed)


def _note(result, token):
    result.finish = token.finish
    if token.finish == "stop":
        result.stop_id = token.id
    else:
        result.ids.append(token.id)
        result.forced.append(token.forced)
