"""The desk before the engine: who may come in, who is inside, how long it took.

    desk = Desk(engine, limits, metrics)
    with desk.enter(requests) as visits:
        async for tokens in visits[0].tokens(stage): ...

A request waits until its first token; only those that wait count against the queue's limits. Leaving the `with` block,
in whatever way, closes the engine's side of it.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator

from pynanochat.engine.requests import Request, Token
from pynanochat.errors import EngineError
from pynanochat.serve.faults import Fault
from pynanochat.serve.limits import Limits
from pynanochat.serve.metrics import Metrics

LONGEST_RETRY = 60


class Desk:
    def __init__(self, engine, limits: Limits, metrics: Metrics):
        self.engine, self.limits, self.metrics = engine, limits, metrics
        self.ready = self.draining = False
        self.visits: set[Visit] = set()
        self.waiting_tokens = 0
        self._usual_wait = 1.0  # seconds to the first token, lately

    @property
    def waiting(self) -> int:
        return sum(not visit.first for visit in self.visits)

    def check(self, requests: int = 1, tokens: int = 0) -> None:
        """Raise Fault (503, 429) where `requests` more, of `tokens` in all, cannot be taken in now."""
        if not self.ready or self.draining:
            doing = "stopping" if self.draining else "loading the model"
            raise Fault(503, f"the server is {doing}; try again later", headers={"Retry-After": "5"})
        waiting, limits = self.waiting, self.limits
        if waiting and waiting + requests > limits.queue_requests:
            self._refuse("queue_requests", f"{waiting} requests wait; the most are {limits.queue_requests}")
        if waiting and self.waiting_tokens + tokens > limits.queue_tokens:
            self._refuse(
                "queue_tokens",
                f"requests of {self.waiting_tokens:,} tokens wait and this one has {tokens:,}; "
                f"the most are {limits.queue_tokens:,}",
            )

    def _refuse(self, reason, words):
        self.metrics.rejected.labels(reason).inc()
        seconds = min(LONGEST_RETRY, max(1, math.ceil(self._usual_wait)))
        raise Fault(429, f"{words}: try again in {seconds} s", code="queue_full", headers={"Retry-After": str(seconds)})

    @contextlib.contextmanager
    def enter(self, requests: list[Request], arrived: float):
        """The Visits of requests that are in from now on. `arrived`: time.monotonic() when the client asked."""
        visits = [Visit(self, request, arrived) for request in requests]
        self.check(len(visits), sum(visit.weight for visit in visits))
        self.visits.update(visits)
        self.waiting_tokens += sum(visit.weight for visit in visits)
        self.metrics.prompt_tokens.inc(sum(len(request.prompt) for request in requests))
        try:
            yield visits
        finally:
            for visit in visits:
                self._served(visit)
                self.visits.discard(visit)

    def _served(self, visit):
        """A visit no longer waits."""
        if not visit.first:
            visit.first = time.monotonic()
            self.waiting_tokens -= visit.weight

    def first_token(self, visit) -> None:
        self._served(visit)
        wait = visit.first - visit.arrived
        self._usual_wait += 0.1 * (wait - self._usual_wait)
        self.metrics.first_token.observe(wait)

    def facts(self) -> dict:
        """For GET /stats."""
        return {
            "active": len(self.visits),
            "waiting": self.waiting,
            "waiting_tokens": self.waiting_tokens,
            "usual_wait_seconds": round(self._usual_wait, 3),
        }


class Visit:
    """One request of the engine, and its times."""

    def __init__(self, desk: Desk, request: Request, arrived: float):
        self.desk, self.request, self.arrived = desk, request, arrived
        self.weight = len(request.prompt) + request.samples * request.max_tokens
        self.first = self.last = 0.0
        self.made = 0
        """Tokens that were read, of all rows."""
        self.ended: set[int] = set()
        """Rows of which no more is read: the engine ends them."""

    async def tokens(self, stage: str) -> AsyncIterator[list[Token]]:
        """The engine's tokens. Raises Fault (503) where the engine died with the request in it."""
        try:
            async with contextlib.aclosing(self.desk.engine.generate(stage, self.request, self.ended)) as steps:
                async for tokens in steps:
                    self._note(tokens)
                    yield tokens
        except EngineError as error:
            raise Fault(503, str(error), code="engine_error", headers={"Retry-After": "2"}) from error

    def _note(self, tokens):
        made = sum(token.row >= 0 for token in tokens)
        if not made:
            return
        now = time.monotonic()
        if not self.last:
            self.desk.first_token(self)
        else:
            self.desk.metrics.between_tokens.observe(now - self.last)
        self.last = now
        self.desk.metrics.made_tokens.inc(made)


async def merged(streams: list[AsyncIterator]) -> AsyncIterator[tuple[int, object]]:
    """(which stream, what it gave) of several streams at once, as they come; one unread item of each at most."""
    if len(streams) == 1:
        async with contextlib.aclosing(streams[0]) as stream:
            async for item in stream:
                yield 0, item
        return
    ready: asyncio.Queue = asyncio.Queue(1)
    tasks = [asyncio.ensure_future(_pump(i, stream, ready)) for i, stream in enumerate(streams)]
    left = len(tasks)
    try:
        while left:
            number, item, error = await ready.get()
            if error is not None:
                raise error
            if item is None:
                left -= 1
            else:
                yield number, item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pump(number, stream, ready):
    """Put what a stream gives into the queue, None at its end."""
    error = None
    try:
        async with contextlib.aclosing(stream):
            async for item in stream:
                await ready.put((number, item, None))
    except Exception as caught:
        error = caught
    await ready.put((number, None, error))
