"""Midtraining: the base model reads conversations, every token of them, at pretraining's learning rates."""

from dataclasses import dataclass

from pynanochat.data.conversations import PackedConversations
from pynanochat.stages import begin, finetune

NAME = "midtrain"


@dataclass(frozen=True)
class MidtrainSettings(finetune.FinetuneSettings):
    """Nothing of its own."""


def identity(run) -> dict:
    return begin.identity(run, NAME)


def check_plan(run, processes: int = 1) -> None:
    """Raise what can be known to go wrong before anything is changed."""
    finetune.check_plan(run, NAME, processes)


def train(run) -> dict:
    """Midtrain the base model of `run`; resumes from its newest checkpoint. Returns the loop's summary."""
    return finetune.Finetuning(run, NAME).train(PackedConversations)
