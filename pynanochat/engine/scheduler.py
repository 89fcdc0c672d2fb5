"""Many requests over one model: in each step one pass over the next tokens of some and a piece of others' prompts.

    scheduler = Scheduler(model, tokenizer)
    ticket = scheduler.submit(Request(prompt=tuple(ids), samples=4))
    while scheduler.busy:
        for ticket, token in scheduler.step(): ...

Answers are served in the order in which they came. Where pages run short the youngest answer gives its own back and is
computed again later, which changes nothing of what it says: its draws depend on its request alone. Answers to one
prompt share its pages; so do prompts that begin alike, for as long as the pages are not needed for something else.

A GPU need not wait for the host: there the scheduler is one step ahead. It launches a step with the tokens of the one
before as the device has them, and only then reads those; what a step has computed for an answer that has ended
meanwhile is dropped. Lengths, names of pages and answers only ever have tokens that were read.

R answers, V vocabulary.
"""

from bisect import insort
from itertools import accumulate

import numpy as np
import torch

from pynanochat.engine.flight import Flight, sent
from pynanochat.engine.graphs import DecodeGraphs, pay_off
from pynanochat.engine.paged_cache import PAGE, PagedCache
from pynanochat.engine.persistent import PersistentSteps
from pynanochat.engine.persistent import pay_off as one_launch_pays_off
from pynanochat.engine.requests import Request, Token, check
from pynanochat.engine.sampler import sample
from pynanochat.engine.scores import places_of, scored, with_logprobs
from pynanochat.engine.tickets import Answer, Ticket
from pynanochat.engine.tool_state import ToolState
from pynanochat.errors import CheckpointError, EngineError, UsageError
from pynanochat.ops import backends

MOST_ROWS = 64
CHUNK = 512
CPU_CACHE_BYTES = 1 << 30
GPU_CACHE_SHARE = 0.5
"""Of the memory that is free when the scheduler is made."""


class Scheduler:
    """Continuous batching over `model`, a GPT in eval mode. For one thread.

    cache_tokens: room for so many tokens, None for what the device has. page: tokens of a page. most_rows: answers that
    run at one time. chunk: tokens of prompts in one step. ahead: launch a step before the one before is read, None for
    where it pays.
    """

    def __init__(
        self,
        model,
        tokenizer,
        *,
        cache_tokens: int | None = None,
        page: int = PAGE,
        most_rows: int = MOST_ROWS,
        chunk: int = CHUNK,
        ahead: bool | None = None,
    ):
        self.model, self.tokenizer = model, tokenizer
        self.most_rows, self.chunk = most_rows, chunk
        self.context = model.config.sequence_len
        special = tokenizer.special_tokens
        self.default_stop = frozenset((special["<|assistant_end|>"], special["<|bos|>"]))
        device = model.lm_head.weight.device
        self.cache_tokens = cache_tokens or cache_room(model, most_rows)
        self.cache = PagedCache(
            model.config, model.compute_dtype, device, self.cache_tokens, page=page, windows=most_rows, burst=chunk
        )
        self.graphs = DecodeGraphs(model, self.cache, most_rows) if pay_off(model) else None
        self.persistent = PersistentSteps(model, self.cache) if one_launch_pays_off(model) else None
        self.ahead = runs_beside_the_host(device) if ahead is None else ahead
        self._tickets: dict[int, Ticket] = {}
        self._waiting: list[Answer] = []
        self._running: list[Answer] = []
        self._flights: list[Flight] = []
        """Steps that are not read, the older first: between calls at most one, and two only within a step."""
        self._next = 0
        self._counts = dict.fromkeys(("prefix_hit_tokens", "prompt_tokens", "made_tokens", "preemptions"), 0)

    def check(self, request: Request) -> None:
        """Raise UsageError for a request that cannot be met."""
        check(request, self.context, self.model.config.vocab_size)
        whole = len(request.prompt) + self._room_of(request)
        if not self.cache.holds(whole, self.chunk):
            raise UsageError(
                f"the prompt and its answer may take {whole:,} tokens and the cache holds {self.cache_tokens:,}: "
                f"shorten the prompt, lower max_tokens or give the engine a larger cache"
            )

    def submit(self, request: Request) -> int:
        """Take a request on; its ticket. Raises UsageError for one that cannot be met."""
        self.check(request)
        stop = self.default_stop if request.stop_tokens is None else frozenset(request.stop_tokens)
        ticket = Ticket(self._next, request, stop, self._room_of(request))
        self._next += 1
        first, *ticket.siblings = [
            Answer(ticket, row, ToolState(self.tokenizer) if request.tools else None) for row in range(request.samples)
        ]
        self._tickets[ticket.number] = ticket
        self._waiting.append(first)
        return ticket.number

    def cancel(self, ticket: int) -> None:
        """Forget a request; all its pages are back. One that is unknown or has ended is ignored."""
        if self._tickets.pop(ticket, None) is None:
            return
        for answer in [answer for answer in self._running if answer.ticket.number == ticket]:
            self._leave(answer)
        for flight in self._flights:
            flight.forget(lambda answer: answer.ticket.number == ticket)
        self._waiting = [answer for answer in self._waiting if answer.ticket.number != ticket]

    def end(self, ticket: int, row: int) -> None:
        """Make no more tokens for one answer of a request; its pages are back, and the others go on as they would have.
        One that is unknown or has ended is ignored."""
        siblings = self._tickets[ticket].siblings if ticket in self._tickets else []
        for answer in [*self._running, *self._waiting, *siblings]:
            if answer.order == (ticket, row):
                self._end(answer)

    def hold(self, ticket: int) -> None:
        """Make no tokens for a request until it is released."""
        if ticket in self._tickets:
            self._tickets[ticket].held = True

    def release(self, ticket: int) -> None:
        """Go on with a request that was held."""
        if ticket in self._tickets:
            self._tickets[ticket].held = False

    @property
    def busy(self) -> bool:
        """Whether a step would make progress."""
        return any(not ticket.held for ticket in self._tickets.values())

    def done(self, ticket: int) -> bool:
        """Whether all answers to a request have ended, or it was cancelled."""
        return ticket not in self._tickets

    def stats(self) -> dict[str, int]:
        """Answers by state, pages, and what was counted since the start."""
        held = sum(ticket.left for ticket in self._tickets.values() if ticket.held)
        return {
            "queued": sum(ticket.left for ticket in self._tickets.values()) - len(self._running),
            "running": len(self._running),
            "held": held,
            "pages": self.cache.pages,
            "pages_used": self.cache.used,
            "pages_cached": self.cache.idle,
            **self._counts,
        }

    @torch.inference_mode()
    def step(self) -> list[tuple[int, Token]]:
        """Read one forward pass: (ticket, Token) of every answer that got one. The next pass may have been launched.

        Raises CheckpointError where the model has no next token because its logits are not numbers; all requests are
        then forgotten.
        """
        if not self._flights:
            self._launch()
        if not self._flights:
            return []
        if self.ahead and not self._flights[0].waits:
            self._launch()
        return self._land(self._flights[0])

    def _launch(self):
        """Begin a pass with what can run, behind the one that is under way if there is one."""
        self._admit()
        parts = self._parts()
        waits = any(answer.asks for answer, _ in parts)
        if not parts or (waits and self._flights):
            return
        ahead = {answer for answer, _ in parts if answer.cached.length == len(answer.tokens)}
        texts = [self._flights[0].tokens_of(answer) if answer in ahead else answer.tokens for answer, _ in parts]
        layout = self.cache.layout([(a.cached, text, count) for (a, count), text in zip(parts, texts, strict=True)])
        ends = list(accumulate(count for _, count in parts))
        ready = [i for i, (a, count) in enumerate(parts) if a.cached.length + count >= len(a.tokens)]
        scores = [places_of(*part, end) for part, end in zip(parts, ends, strict=True)]
        at = [ends[i] - 1 for i in ready] + [place for places in scores for place in places]
        logits = self._logits(layout, at)
        made = scored(parts, scores, logits[len(ready) :])
        for answer, count in parts:
            if answer not in ahead:
                self.cache.advance(answer.cached, answer.tokens, count)
        answers, logits = self._with_siblings([parts[i][0] for i in ready], logits[: len(ready)])
        ids = self._drawn(answers, logits, ahead) if answers else None
        self._flights.append(Flight(answers, ids, ahead, waits, logits if waits else None, made))

    def _logits(self, layout, at):
        """The logits (len(at), V) of these places of a pass; of one token of each row from one launch or a graph."""
        if at == list(range(len(layout.lengths))):
            for runner in (self.persistent, self.graphs):
                if runner is not None and runner.takes(layout):
                    return runner.run(layout)
        ids, pass_ = self.cache.on_device(layout)
        return self.model(ids, cache=pass_, at=sent([np.array(at, np.int64)], self.cache.device)[0])

    def check_integrity(self) -> None:
        """Raise EngineError where the books of the cache or of the answers do not agree."""
        self.cache.check_integrity()
        held = {answer.cached for answer in self._running}
        if held != self.cache.sequences or any(answer.cached is not None for answer in self._waiting):
            raise EngineError("the cache holds other sequences than those that run")
        alive = [*self._running, *self._waiting, *(a for t in self._tickets.values() for a in t.siblings)]
        if len({a.order for a in alive}) != len(alive) or len(alive) != sum(t.left for t in self._tickets.values()):
            raise EngineError("an answer is in two places, or in none")
        coming = {answer for flight in self._flights for answer in flight.places}
        idle = {answer for answer in self._running if answer.cached.length == len(answer.tokens)}
        if idle != coming:
            raise EngineError("an answer waits for a token that nobody makes, or has ended and gets one")

    # --- who runs ---

    def _room_of(self, request):
        return min(request.max_tokens, self.context - len(request.prompt))

    def _admit(self):
        """Let answers run, in the order in which they came, while there are rows and pages."""
        for answer in [answer for answer in self._waiting if not answer.ticket.held]:
            if len(self._running) >= self.most_rows and not self._evict(lambda other: other.ticket.held):
                return
            if not self._join(answer):
                return
            self._waiting.remove(answer)

    def _join(self, answer) -> bool:
        """Let one answer run if its tokens so far fit beside the others, or if nothing else runs."""
        sequence = self.cache.open(answer.tokens, share=not answer.ticket.scoring)
        if not self._spare(sequence, len(answer.tokens)) and any(not other.ticket.held for other in self._running):
            self.cache.close(sequence)
            return False
        self._run(answer, sequence)
        return True

    def _spare(self, sequence, tokens) -> bool:
        """Whether pages for all of so many tokens are there, and one more for each answer that runs."""
        wanted = self.cache.missing(sequence, min(tokens - sequence.length, self.chunk))
        whole = self.cache.missing(sequence, tokens - sequence.length)
        for i, group in enumerate(self.cache.groups):
            if group.window < 0:
                wanted[i] = whole[i]
        return self.cache.available([count + len(self._running) for count in wanted])

    def _run(self, answer, sequence):
        answer.cached = sequence
        insort(self._running, answer, key=lambda a: a.order)
        if not answer.counted:
            answer.counted = True
            self._counts["prompt_tokens"] += len(answer.tokens)
            self._counts["prefix_hit_tokens"] += sequence.length

    def _leave(self, answer):
        self._running.remove(answer)
        self.cache.close(answer.cached)
        answer.cached = None

    def _step_back(self, answer):
        """Let a running answer wait again; what it needs is computed again later."""
        self._leave(answer)
        insort(self._waiting, answer, key=lambda a: a.order)

    def _evict(self, may) -> bool:
        """Make the youngest answer that `may` leave step back."""
        for answer in reversed(self._running):
            if may(answer):
                self._step_back(answer)
                self._counts["preemptions"] += 1
                return True
        return False

    def _parts(self):
        """(answer, tokens) that this step runs, with pages for them all.

        Those are every answer that is past its prompt and, of prompts, in their order, as much as a chunk holds. An
        answer whose token is under way runs with it unless it is sure to be its last, or no page is free: nobody has to
        leave for a token that is not known.
        """
        parts, chunk = [], self.chunk
        for answer in list(self._running):
            if answer.ticket.held or answer.cached is None:
                continue
            count = len(answer.tokens) - answer.cached.length
            if not count:
                count = int(answer.made + 1 < answer.ticket.room and self.cache.reserve(answer.cached, 1))
            if count > 1:
                count = min(count, chunk)
                chunk -= count
            if count and self._reserve(answer, count):
                parts.append((answer, count))
        return parts

    def _reserve(self, answer, count) -> bool:
        """Pages for `count` more tokens, taken from younger answers where need be; False if it had to leave itself."""
        while not self.cache.reserve(answer.cached, count):
            if self._evict(lambda other: other.ticket.held):
                continue
            self._evict(lambda other: not other.ticket.held)
            if answer.cached is None:
                return False
        return True

    # --- what they say ---

    def _with_siblings(self, ready, logits):
        """The answers of `ready`, which stand before the logits (R, V), and those that join them, with their logits."""
        rows, answers = list(range(len(ready))), list(ready)
        for row, answer in enumerate(ready):
            for sibling in self._joined(answer):
                rows.append(row)
                answers.append(sibling)
        if len(answers) > len(ready):
            logits = logits[sent([np.array(rows, np.int64)], logits.device)[0]]
        return answers, logits

    def _drawn(self, answers, logits, ahead):
        """A token for each answer, on the device, where the next pass may take it up."""
        samplings = [answer.ticket.request.sampling for answer in answers]
        numbers = [answer.number(answer in ahead) for answer in answers]
        histories = [self._flights[0].history_of(a) if a in ahead else a.tokens for a in answers]
        ids = sample(logits, samplings, numbers, histories, self.cache.drawn)
        if self.ahead:
            self.cache.drawn.put(ids)
        return ids

    def _land(self, flight):
        """Read a step: the answers take their tokens. An answer that is held does not, and steps back."""
        ids = flight.read()
        self._flights.remove(flight)
        for answer in [a for a in flight.places if a.ticket.held and a.cached is not None]:
            self._step_back(answer)
        taken = [(answer, ids[place]) for answer, place in flight.places.items() if not answer.ticket.held]
        if any(id >= self.model.config.vocab_size for _, id in taken):
            for ticket in list(self._tickets):
                self.cancel(ticket)
            raise CheckpointError(
                "the model's logits are not numbers: it has diverged; use an earlier checkpoint of it"
            )
        answers = [answer for answer, _ in taken]
        tokens = [answer.take(id) for answer, id in taken]
        self._counts["made_tokens"] += len(tokens)
        tokens = with_logprobs(answers, tokens, flight.logits)
        for answer, token in zip(answers, tokens, strict=True):
            if token.finish:
                self._end(answer)
            elif any(answer in later.ahead for later in self._flights):
                self.cache.advance(answer.cached, answer.tokens, 1)
        return flight.made + [(a.ticket.number, token) for a, token in zip(answers, tokens, strict=True)]

    def _joined(self, first):
        """The siblings of an answer that has just run their prompt: those that join it now, with its pages. The others
        wait in the queue."""
        joined, waiting = [], first.ticket.siblings
        first.ticket.siblings = []
        while waiting and len(self._running) < self.most_rows and self._spare(first.cached, first.cached.length + 1):
            sequence = self.cache.fork(first.cached)
            if sequence is None:
                break
            joined.append(waiting.pop(0))
            self._run(joined[-1], sequence)
        for answer in waiting:
            insort(self._waiting, answer, key=lambda a: a.order)
        return joined

    def _end(self, answer):
        """Take an answer out, wherever it is."""
        ticket = answer.ticket
        for flight in self._flights:
            flight.forget(lambda other: other is answer)
        if answer in self._running:
            self._leave(answer)
        else:
            (self._waiting if answer in self._waiting else ticket.siblings).remove(answer)
        ticket.left -= 1
        if not ticket.left:
            del self._tickets[ticket.number]
        elif ticket.left == len(ticket.siblings):  # the one that ran the prompt for them is gone
            insort(self._waiting, ticket.siblings.pop(0), key=lambda a: a.order)


def cache_room(model, rows: int) -> int:
    """Tokens that a cache may hold: `rows` whole contexts, or as many as the memory for it takes, but at least one."""
    c, device = model.config, model.lm_head.weight.device
    a_token = 2 * c.n_layer * c.n_kv_head * c.head_dim * model.compute_dtype.itemsize
    memory = CPU_CACHE_BYTES
    if device.type == "cuda":
        memory = int(torch.cuda.mem_get_info(device)[0] * GPU_CACHE_SHARE)
    return max(c.sequence_len, min(rows * c.sequence_len, memory // a_token))


def runs_beside_the_host(device: torch.device) -> bool:
    """Whether a step runs on while the host does something else, so that being a step ahead pays: on a GPU
    where `pynanochat bench gpu` has seen it give the same tokens."""
    if device.type != "cuda":
        return False
    return ("decode_ahead", "cuda") in backends.verified(backends.architecture(device.index or 0))
