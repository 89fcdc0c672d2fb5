"""The engine in a process of its own, for asyncio: the event loop never waits for a matrix product.

    engine = EngineProcess(Path("runs/toy"))
    await engine.start()
    async for tokens in engine.generate(engine.default_stage, Request(tuple(ids))): ...
    await engine.stop()

The process is started anew when it dies; each request that was in it gets one EngineError. It reads its owner's pipe
and ends when that does, so it outlives nobody. No torch is imported here.
"""

import asyncio
import contextlib
import itertools
import json
import logging
import sys
import time
from collections.abc import AsyncIterator, Set
from dataclasses import replace
from pathlib import Path

from pynanochat.engine.requests import Request, Token
from pynanochat.engine.wire import LENGTH, ModelInfo, error_of, frame, plain_request, token_of
from pynanochat.errors import EngineError, PynanochatError, UsageError
from pynanochat.tokenizer import Tokenizer

STOP_SECONDS = 5.0
"""How long the process may take to end by itself."""
ANSWER_SECONDS = 2.0
"""How long `stats` waits for news; a step may take longer."""
READ_TOKENS = 64
"""Tokens that are read before the process is told."""
LONGEST_PAUSE = 30.0
"""Seconds before a process that keeps dying is started again; the first pauses are shorter."""
STEADY_SECONDS = 60.0
"""A process that lived as long is started again at once."""

log = logging.getLogger(__name__)


class EngineProcess:
    """One process that hosts every stage of a run on one device, each loaded at its first request.

    `tokenizer`, `stages` (name to ModelInfo, oldest first) and `default_stage` (the newest) are there after `start`.
    """

    command: tuple[str, ...] = (sys.executable, "-m", "pynanochat.engine.worker")

    def __init__(
        self,
        run_folder: Path,
        *,
        device: str = "auto",
        dtype: str = "auto",
        cache_tokens: int | None = None,
        most_rows: int = 64,
    ):
        self.run_folder = Path(run_folder)
        self._settings = {"device": device, "dtype": dtype, "cache_tokens": cache_tokens, "most_rows": most_rows}
        self.stages: dict[str, ModelInfo] = {}
        self.default_stage = ""
        self.tokenizer: Tokenizer | None = None
        self.restarts = 0
        self._life: _Life | None = None
        self._next: asyncio.Future | None = None
        self._keeper: asyncio.Task | None = None
        self._stats: dict[str, int] = {}

    async def start(self) -> None:
        """Return when the newest stage is loaded. Raises PynanochatError where the run cannot be served."""
        self.tokenizer = Tokenizer.load(self.run_folder / "tokenizer")
        self._life = await self._begin()
        self._keeper = asyncio.create_task(self._keep())
        await self.stats()

    async def generate(self, stage: str, request: Request, ended: Set[int] = frozenset()) -> AsyncIterator[list[Token]]:
        """The tokens of a request as they are made, in lists of those that were ready together.

        Rows that the reader puts into `ended` end in the engine as soon as it asks for more; some of their tokens may
        be on their way. Closing the iterator or cancelling its task ends the request in the engine; not consuming it
        pauses the request there. Raises UsageError for a request that cannot be met, EngineError where the engine died
        with it.
        """
        if stage not in self.stages:
            raise UsageError(f"no stage {stage}: this run has {', '.join(self.stages) or 'none'}")
        life = self._life or await asyncio.shield(self._next)
        stream = life.submit(stage, request)
        try:
            left = set(range(request.samples))
            while left:
                tokens = await stream.get()
                left -= {token.row for token in tokens if token.finish}
                yield tokens
                life.read(stream, len(tokens))
                for row in left & ended:
                    life.leave_row(stream, row)
                left -= ended
        finally:
            life.leave(stream)

    async def stats(self) -> dict:
        """The schedulers' counts summed over the stages, with "restarts" and "alive". Those of the last time where the
        process is too busy to answer, zeros where there is none."""
        life = self._life
        if life is not None:
            with contextlib.suppress(asyncio.TimeoutError, EngineError):
                self._stats = await asyncio.wait_for(life.ask("stats"), ANSWER_SECONDS)
        alive = self._life is not None
        counts = self._stats if alive else dict.fromkeys(self._stats, 0)
        return {**counts, "restarts": self.restarts, "alive": alive}

    async def check(self) -> None:
        """Raises EngineError with what is wrong inside, or where the engine is not there."""
        if self._life is None:
            raise EngineError("the engine is not running; see its log, or start it again")
        if wrong := await self._life.ask("check"):
            raise EngineError(wrong)

    async def stop(self) -> None:
        """End the process, by force if it does not end by itself; requests in it get an EngineError."""
        life, self._life = self._life, None
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        if self._next is None or self._next.done():
            self._next = asyncio.get_running_loop().create_future()
        _refuse(self._next, EngineError("the engine was stopped"))
        if life is not None:
            await life.stop()

    async def _begin(self) -> "_Life":
        """A process that is ready. Raises PynanochatError where it cannot be."""
        settings = json.dumps({"run_folder": str(self.run_folder), **self._settings})
        life = _Life(await asyncio.create_subprocess_exec(
            *self.command, settings, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C at the terminal is for the owner
        ))  # fmt: skip
        try:
            match await life.hear():
                case ["ready", models]:
                    self.stages = {model["stage"]: ModelInfo(**model) for model in models}
                    self.default_stage = list(self.stages)[-1]
                    return life
                case ["unable", kind, message]:
                    raise error_of(kind, message)
                case _:
                    raise EngineError(f"the engine's process {await life.end()} while loading; see what it said above")
        except BaseException:
            await life.stop()
            raise

    async def _keep(self):
        """Hear what the process says; when it dies start another."""
        pause = 0.0
        while True:
            life, born = self._life, time.monotonic()
            await life.listen(self._note)
            self._life, self._next = None, asyncio.get_running_loop().create_future()
            how = await life.end()
            log.warning("the engine's process %s with %d requests in it; starting another", how, len(life.streams))
            life.fail(EngineError(f"the engine's process {how}; another one is being started, send the request again"))
            if time.monotonic() - born > STEADY_SECONDS:
                pause = 0.0
            while self._life is None:
                await asyncio.sleep(pause)
                pause = min(LONGEST_PAUSE, 2 * pause or 0.5)
                self.restarts += 1
                try:
                    self._life = await self._begin()
                    self._next.set_result(self._life)
                except PynanochatError as error:
                    log.warning("the engine cannot start: %s; trying again in %g s", error, pause)
                    _refuse(self._next, EngineError(f"the engine cannot start: {error}"))
                    self._next = asyncio.get_running_loop().create_future()

    def _note(self, stage, loaded):
        self.stages[stage] = replace(self.stages[stage], loaded=loaded)


def _refuse(future, error):
    future.set_exception(error)
    future.exception()  # nobody may be waiting for it


class _Stream:
    """The tokens of one request that are not consumed yet."""

    def __init__(self, number: int, stage: str):
        self.number, self.stage = number, stage
        self.unread = 0
        self._waiting: list[Token] = []
        self._error: PynanochatError | None = None
        self._news = asyncio.Event()

    def put(self, tokens: list[Token]) -> None:
        self._waiting += tokens
        self._news.set()

    def fail(self, error: PynanochatError) -> None:
        self._error = error
        self._news.set()

    async def get(self) -> list[Token]:
        """All there are, at least one. Raises the request's error once there are none."""
        await self._news.wait()
        if not self._waiting:
            raise self._error
        tokens, self._waiting = self._waiting, []
        if self._error is None:
            self._news.clear()
        return tokens


class _Life:
    """One life of the process, from its start to its end."""

    def __init__(self, process: asyncio.subprocess.Process):
        self.process = process
        self.streams: dict[int, _Stream] = {}
        self._questions: dict[int, asyncio.Future] = {}
        self._numbers = itertools.count()
        self._over: PynanochatError | None = None

    async def hear(self) -> list | None:
        """The next message; None at the end of the process."""
        try:
            head = await self.process.stdout.readexactly(LENGTH.size)
            return json.loads(await self.process.stdout.readexactly(LENGTH.unpack(head)[0]))
        except asyncio.IncompleteReadError:
            return None

    async def listen(self, note) -> None:
        """Hand out what comes until the process ends; `note(stage, loaded)` hears of its stages."""
        while (message := await self.hear()) is not None:
            match message:
                case ["tokens", made]:
                    for number, tokens in made:
                        if number in self.streams:
                            self.streams[number].put([token_of(token) for token in tokens])
                case ["failed", number, kind, words]:
                    if number in self.streams:
                        self.streams[number].fail(error_of(kind, words))
                case ["answer", question, value]:
                    future = self._questions.pop(question)
                    if not future.done():
                        future.set_result(value)
                case ["loaded" | "unloaded" as what, stage]:
                    note(stage, what == "loaded")

    def submit(self, stage: str, request: Request) -> _Stream:
        stream = _Stream(next(self._numbers), stage)
        if self._over is not None:
            stream.fail(self._over)
        self.streams[stream.number] = stream
        self._say(["submit", stream.number, stage, plain_request(request)])
        return stream

    def read(self, stream: _Stream, tokens: int) -> None:
        """`tokens` of the stream have been consumed."""
        stream.unread += tokens
        if stream.unread >= READ_TOKENS:
            self._say(["read", stream.stage, stream.number, stream.unread])
            stream.unread = 0

    def leave_row(self, stream: _Stream, row: int) -> None:
        """Nobody reads this row of the stream any more."""
        self._say(["end", stream.stage, stream.number, row])

    def leave(self, stream: _Stream) -> None:
        """Nobody reads the stream any more."""
        if self.streams.pop(stream.number, None) is not None:
            self._say(["cancel", stream.stage, stream.number])

    async def ask(self, what: str):
        """The answer to "stats" or "check". Raises EngineError where the process ends first."""
        if self._over is not None:
            raise self._over
        question = next(self._numbers)
        future = self._questions[question] = asyncio.get_running_loop().create_future()
        self._say([what, question])
        return await future

    def fail(self, error: PynanochatError) -> None:
        """The process is gone: so says `error` to everyone who waits for it."""
        self._over = error
        for stream in self.streams.values():
            stream.fail(error)
        for future in self._questions.values():
            if not future.done():
                _refuse(future, error)

    async def end(self) -> str:
        """How the process ended, once it has."""
        code = await self.process.wait()
        return f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"

    async def stop(self) -> None:
        """End the process: by closing its pipe, and by force where that is not enough."""
        self.process.stdin.close()
        try:
            await asyncio.wait_for(self.process.wait(), STOP_SECONDS)
        except asyncio.TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.wait()
        self.fail(EngineError("the engine was stopped"))

    def _say(self, message):
        if self._over is None and not self.process.stdin.is_closing():
            self.process.stdin.write(frame(message))
