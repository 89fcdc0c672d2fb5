"""The engine's process: hosts a Scheduler for each stage of a run and gives them turns, one step each.

engine/process.py starts it as `python -m pynanochat.engine.worker '{"run_folder": "runs/toy", ...}'`; frames of
engine/wire.py go over standard input and output. It ends when standard input does, so that it never outlives its owner,
and leaves signals to its owner. An exception that is not about a request ends it, and the owner starts another.
"""

import json
import os
import queue
import signal
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from pynanochat.engine.wire import LENGTH, ModelInfo, frame, request_of
from pynanochat.errors import CheckpointError, EngineError, PynanochatError

CREDIT = 256
"""Tokens of one request that may be on their way unread before it is held."""


class Reader:
    """The owner's side of one request: its number there, its ticket here, and how many tokens are not read yet."""

    def __init__(self, number: int, ticket: int):
        self.number, self.ticket = number, ticket
        self.unread, self.held = 0, False


class Stage:
    """One stage: its scheduler once it is loaded, and its requests, which wait until then."""

    def __init__(self):
        self.scheduler = None
        self.waiting: dict[int, dict] = {}
        self.readers: dict[int, Reader] = {}
        self._by_ticket: dict[int, Reader] = {}

    @property
    def busy(self) -> bool:
        return self.scheduler is not None and self.scheduler.busy

    def submit(self, number: int, plain: dict) -> None:
        """Raises UsageError for a request that cannot be met."""
        reader = Reader(number, self.scheduler.submit(request_of(plain)))
        self.readers[number] = self._by_ticket[reader.ticket] = reader

    def step(self) -> list[list]:
        """One step of the scheduler: [[number, tokens], ...]. Holds the requests whose owner does not read."""
        made: dict[int, list] = {}
        for ticket, token in self.scheduler.step():
            made.setdefault(ticket, []).append(token)
        return [[self._note(self._by_ticket[ticket], len(tokens)), tokens] for ticket, tokens in made.items()]

    def _note(self, reader, tokens):
        reader.unread += tokens
        if self.scheduler.done(reader.ticket):
            self._forget(reader)
        elif reader.unread >= CREDIT and not reader.held:
            reader.held = True
            self.scheduler.hold(reader.ticket)
        return reader.number

    def read(self, number: int, tokens: int) -> None:
        """The owner has read `tokens` of a request."""
        reader = self.readers.get(number)
        if reader is None:
            return
        reader.unread -= tokens
        if reader.held and reader.unread <= CREDIT // 2:
            reader.held = False
            self.scheduler.release(reader.ticket)

    def end(self, number: int, row: int) -> None:
        """Give up one answer of a request; one that is not here is no matter."""
        reader = self.readers.get(number)
        if reader is None:
            return
        self.scheduler.end(reader.ticket, row)
        if self.scheduler.done(reader.ticket):
            self._forget(reader)

    def cancel(self, number: int) -> None:
        """Give up a request; one that is not here is no matter."""
        self.waiting.pop(number, None)
        if number in self.readers:
            self.scheduler.cancel(self.readers[number].ticket)
            self._forget(self.readers[number])

    def empty(self) -> list[int]:
        """Forget the scheduler and every request; their numbers."""
        numbers = [*self.waiting, *self.readers]
        self.__init__()
        return numbers

    def _forget(self, reader):
        del self.readers[reader.number], self._by_ticket[reader.ticket]


class Worker:
    """The loop. `load(stage)` makes a Scheduler, `inbox` has the owner's messages, `say` sends one to it."""

    def __init__(self, models: dict[str, ModelInfo], load: Callable, inbox: queue.SimpleQueue, say: Callable):
        self.models, self.load, self.inbox, self.say = models, load, inbox, say
        self.stages = {name: Stage() for name in models}

    def run(self) -> None:
        """Load the newest stage, then serve for ever. Raises PynanochatError where the run cannot be served."""
        newest = list(self.models)[-1]
        self.stages[newest].scheduler = self.load(newest)
        self.say(["ready", [vars(model) for model in self.models.values()]])
        self.say(["loaded", newest])
        while True:
            for name, stage in self.stages.items():
                self._listen()
                if stage.busy:
                    self._step(name, stage)

    def _listen(self):
        """Do what the inbox says; wait for it to say something while there is nothing else to do."""
        while True:
            try:
                message = self.inbox.get(block=not any(stage.busy for stage in self.stages.values()))
            except queue.Empty:
                return
            self._obey(message)

    def _obey(self, message):
        match message:
            case ["submit", number, stage, plain]:
                self._submit(number, stage, plain)
            case ["read", stage, number, tokens]:
                self.stages[stage].read(number, tokens)
            case ["end", stage, number, row]:
                self.stages[stage].end(number, row)
            case ["cancel", stage, number]:
                self.stages[stage].cancel(number)
            case ["stats", question]:
                self.say(["answer", question, self._stats()])
            case ["check", question]:
                self.say(["answer", question, self._check()])
            case ["loaded", stage, result]:
                self._loaded(stage, result)

    def _submit(self, number, name, plain):
        stage = self.stages[name]
        if stage.scheduler is None:
            if not stage.waiting:  # the others go on meanwhile
                threading.Thread(target=self._fetch, args=(name,), daemon=True).start()
            stage.waiting[number] = plain
            return
        try:
            stage.submit(number, plain)
        except PynanochatError as error:
            self.say(["failed", number, type(error).__name__, str(error)])

    def _fetch(self, name):
        """Load a stage, in a thread of its own."""
        try:
            result = self.load(name)
        except Exception as error:
            result = error
        self.inbox.put(["loaded", name, result])

    def _loaded(self, name, result):
        stage = self.stages[name]
        if isinstance(result, PynanochatError):
            self._fail(stage.empty(), result)
        elif isinstance(result, Exception):
            raise result
        else:
            waiting, stage.waiting, stage.scheduler = stage.waiting, {}, result
            self.say(["loaded", name])
            for number, plain in waiting.items():
                self._submit(number, name, plain)

    def _step(self, name, stage):
        try:
            made = stage.step()
        except PynanochatError as error:  # of this model alone; its next request loads it anew
            self._fail(stage.empty(), error)
            self.say(["unloaded", name])
        else:
            if made:
                self.say(["tokens", made])

    def _fail(self, numbers, error):
        for number in numbers:
            self.say(["failed", number, EngineError.__name__, str(error)])

    def _stats(self):
        total = Counter()
        for stage in self.stages.values():
            if stage.scheduler is not None:
                total.update(stage.scheduler.stats())
            total["queued"] += len(stage.waiting)
        return total

    def _check(self):
        """None, or what is wrong."""
        for name, stage in self.stages.items():
            try:
                if stage.scheduler is not None:
                    stage.scheduler.check_integrity()
            except EngineError as error:
                return f"{name}: {error}"
        return None


def models_of(run_folder: Path) -> dict[str, ModelInfo]:
    """The stages of a run that have a checkpoint, oldest first. Raises CheckpointError where there are none."""
    from pynanochat.checkpoint import steps
    from pynanochat.model import GPTConfig
    from pynanochat.model.scaling import measure
    from pynanochat.runs import STAGES

    found = {}
    for stage in STAGES:
        for step, folder in steps(run_folder / stage)[-1:]:
            try:
                config = GPTConfig.from_dict(json.loads((folder / "state.json").read_text())["model"])
            except (OSError, ValueError, KeyError) as error:
                raise CheckpointError(f"{folder}: no readable state.json; remove it to serve the others") from error
            parameters = measure(config).parameters
            found[stage] = ModelInfo(stage, config.sequence_len, config.vocab_size, parameters, step)
    if not found:
        raise CheckpointError(f"{run_folder}: no checkpoint of any stage; train one with `pynanochat speedrun`")
    return found


def loader(run_folder: Path, device: str, dtype: str, cache_tokens: int | None, most_rows: int) -> Callable:
    """The function that makes the Scheduler of a stage."""
    from pynanochat.engine import Engine
    from pynanochat.engine.scheduler import Scheduler
    from pynanochat.runtime import pick_compute_dtype, pick_device

    device = pick_device(device)
    if dtype == "auto" and device.type == "cpu":
        dtype = "fp32"
    dtype = pick_compute_dtype(device, dtype)

    def load(stage):
        engine = Engine.load(run_folder, stage, device=device, compute_dtype=dtype)
        return Scheduler(engine.model, engine.tokenizer, cache_tokens=cache_tokens, most_rows=most_rows)

    return load


def serve(prepare: Callable) -> None:
    """Be the engine's process on standard input and output; `prepare()` gives models and load. Never returns."""
    for name in (signal.SIGINT, signal.SIGTERM):  # both may reach the whole group; the owner ends this process
        signal.signal(name, signal.SIG_IGN)
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not get between the frames
    inbox = queue.SimpleQueue()

    def say(message):
        out.write(frame(message))
        out.flush()

    threading.Thread(target=_hear, args=(inbox,), daemon=True).start()
    status = 1
    try:
        models, load = prepare()
        Worker(models, load, inbox, say).run()
    except PynanochatError as error:
        say(["unable", type(error).__name__, str(error)])
    except BrokenPipeError:
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)  # an ordinary end would wait for the thread that reads


def _hear(inbox):
    """Put what comes on standard input into the inbox; its end is the end of the process, whatever else is going on."""
    pipe = os.fdopen(0, "rb")
    while len(head := pipe.read(LENGTH.size)) == LENGTH.size:
        inbox.put(json.loads(pipe.read(LENGTH.unpack(head)[0])))
    os._exit(0)


def main(argv: list[str]) -> None:
    settings = json.loads(argv[0])
    folder = Path(settings.pop("run_folder"))
    serve(lambda: (models_of(folder), loader(folder, **settings)))


if __name__ == "__main__":
    main(sys.argv[1:])
