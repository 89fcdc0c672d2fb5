"""The engine's process with schedulers that do what the first token of a prompt says, and no model."""

import json
import os
import sys
import time

from pynanochat.engine.requests import Token
from pynanochat.engine.wire import ModelInfo
from pynanochat.engine.worker import serve
from pynanochat.errors import CheckpointError, EngineError, UsageError

COUNT, CRASH, DIVERGE, HANG, REFUSE, PACE, CORRUPT = range(7)


class FakeScheduler:
    """Has the face of engine.scheduler.Scheduler. Answers count upwards: 0, 1, 2 ... up to max_tokens."""

    def __init__(self, stage):
        self.stage, self.tickets, self.held, self.made, self.steps, self.corrupt = stage, {}, set(), 0, 0, False

    def submit(self, request):
        if request.prompt[0] == REFUSE:
            raise UsageError("refused")
        ticket = len(self.tickets)
        self.tickets[ticket] = [request, 0, list(range(request.samples))]
        return ticket

    def cancel(self, ticket):
        self.tickets[ticket] = None
        self.held.discard(ticket)

    def end(self, ticket, row):
        _, _, rows = self.tickets[ticket]
        rows.remove(row)
        if not rows:
            self.cancel(ticket)

    def hold(self, ticket):
        self.held.add(ticket)

    def release(self, ticket):
        self.held.remove(ticket)

    def done(self, ticket):
        return self.tickets[ticket] is None

    @property
    def busy(self):
        return any(state and ticket not in self.held for ticket, state in self.tickets.items())

    def step(self):
        self.steps += 1
        tokens = []
        for ticket, state in self.tickets.items():
            if state is None or ticket in self.held:
                continue
            request, at, rows = state
            if request.prompt[0] == CRASH and at == 2:
                raise RuntimeError("a step fails")
            if request.prompt[0] == DIVERGE and at == 2:
                raise CheckpointError("the model has diverged")
            if request.prompt[0] == HANG and at == 2:
                while True:
                    time.sleep(1)
            if request.prompt[0] == PACE:
                time.sleep(0.002)
            self.corrupt |= request.prompt[0] == CORRUPT
            state[1] += 1
            finish = "length" if state[1] == request.max_tokens else ""
            for row in rows:
                tokens.append((ticket, Token(row, at, False, finish, -0.5, ((at, -0.5), (7, -1.25)))))
            if finish:
                self.tickets[ticket] = None
        self.made += len(tokens)
        return tokens

    def stats(self):
        running = sum(state is not None for state in self.tickets.values())
        return {"running": running, "held": len(self.held), "made_tokens": self.made, "queued": 0, "steps": self.steps}

    def check_integrity(self):
        if self.corrupt:
            raise EngineError("a page is used twice")


def prepare():
    settings = json.loads(sys.argv[1])
    names = os.listdir(settings["run_folder"])
    if "broken" in names:
        raise CheckpointError("the run is broken")
    if "dead" in names:
        os._exit(3)
    print("a library says hello on standard output")

    def load(stage):
        while stage == "pretrain" and os.path.exists(os.path.join(settings["run_folder"], "slow")):
            time.sleep(0.01)
        if stage == "midtrain":
            raise CheckpointError("midtrain is damaged")
        return FakeScheduler(stage)

    models = {stage: ModelInfo(stage, 96, 265, 1000, 10) for stage in ("pretrain", "midtrain", "sft")}
    return models, load


if __name__ == "__main__":
    serve(prepare)
