"""The models that are served: the stages of one run, as "NAME" (the default one) and "NAME:STAGE"."""

import time
from typing import NamedTuple

from pynanochat.serve.faults import Fault, brief


class Model(NamedTuple):
    id: str
    stage: str
    context: int


class Models:
    """Reads `engine.stages` anew each time: they are known once the engine has started."""

    def __init__(self, engine, run: str):
        self.engine, self.run, self.created = engine, run, int(time.time())

    def find(self, name: str | None) -> Model:
        """The model of a request; None names the default. Raises Fault (404)."""
        run, _, stage = (name or self.run).partition(":")
        stage = stage or self.engine.default_stage
        if run != self.run or stage not in self.engine.stages:
            known = ", ".join(entry["id"] for entry in self.list())
            raise Fault(404, f"there is no model {brief(name)} here; use one of {known}", "model", "model_not_found")
        return Model(name or self.run, stage, self.engine.stages[stage].context)

    def list(self) -> list[dict]:
        """The entries of GET /v1/models, the default first."""
        default = self.engine.default_stage
        entries = [self._entry(self.run, default, True)] if default in self.engine.stages else []
        return entries + [self._entry(f"{self.run}:{stage}", stage, False) for stage in self.engine.stages]

    def _entry(self, id, stage, default):
        info = self.engine.stages[stage]
        facts = {
            "run": self.run,
            "stage": stage,
            "context": info.context,
            "parameters": info.parameters,
            "step": info.step,
            "default": default,
        }
        return {"id": id, "object": "model", "created": self.created, "owned_by": "pynanochat", "pynanochat": facts}
