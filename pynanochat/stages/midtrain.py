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


def train(run) -> dict:
    """Midtrain the base model of `run`; resumes from its newest checkpoint. Returns the loop's summary."""
    return finetune.Finetuning(run, NAME).train(PackedConversations)
