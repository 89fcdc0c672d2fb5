"""Supervised finetuning: the model learns to say what the assistant says; all else is only read.

Two forms: whole conversations packed into rows (2026), or one conversation in a row and so many a step (2025).
"""

import functools
from dataclasses import dataclass

from pynanochat import settings
from pynanochat.data.conversations import PaddedConversations
from pynanochat.errors import UsageError
from pynanochat.stages import begin, finetune

NAME = "sft"
CONVERSATIONS = {"2025": 32, "2026": 0}


@dataclass(frozen=True)
class SftSettings(finetune.FinetuneSettings):
    conversations: int = -1
    """Conversations of a step, each in a row of its own; 0 to pack them into batch_tokens; negative for the
    architecture's own: 32 in 2025, packed in 2026."""
    lora_rank: int = 0
    """Rank of adapters to the blocks' matrices, which then alone learn; 0 trains the whole model."""
    lora_alpha: float = 16.0
    """Weight of the adapters: what they add is times alpha/rank."""
    lora_lr: float = 0.001
    """Learning rate of the adapters, in the place of pretraining's and the schedule's scale."""


def identity(run) -> dict:
    return begin.identity(run, NAME)


def check_plan(run, processes: int = 1) -> None:
    """Raise what can be known to go wrong before anything is changed."""
    wanted: SftSettings = run.tables[NAME]
    if wanted.lora_rank < 0:
        raise UsageError(f"--lora-rank {wanted.lora_rank}: must be 0 (no adapters) or more")
    settings.check_numbers(wanted, positive=("lora_alpha", "lora_lr"))
    finetune.check_plan(run, NAME, processes, conversations_of_step(run))


def conversations_of_step(run) -> int:
    """Conversations of a step, each in a row of its own; 0 where they are packed. Raises UsageError for settings that
    say it in two ways."""
    wanted: SftSettings = run.tables[NAME]
    arch = begin.pretrained(run).arch
    conversations = CONVERSATIONS[arch] if wanted.conversations < 0 else wanted.conversations
    if conversations and wanted.batch_tokens:
        raise UsageError(
            f"--batch-tokens {wanted.batch_tokens} and --conversations {conversations} both say how large a step is; "
            "give --conversations 0 to pack"
        )
    return conversations


def train(run) -> dict:
    """Finetune the model of `run`; resumes from its newest checkpoint. Returns the loop's summary."""
    conversations = conversations_of_step(run)
    work = finetune.Finetuning(run, NAME, conversations)
    return work.train(functools.partial(PaddedConversations, packed=not conversations), finetune.conversation_loss)
