"""Benchmarks and conversation sets, one file each.

where = TaskData("../data")
task = open_task("GSM8K", "test", where)        # splits: train, val, test
available(where)                                # the names of what can be evaluated there
"""

from pynanochat.errors import UsageError
from pynanochat.tasks.base import Task, TaskData

__all__ = ["NAMES", "Task", "TaskData", "available", "open_task"]

ARC_NAMES = ("ARC-Easy", "ARC-Challenge")
SPELLING_NAMES = ("SpellingBee", "SimpleSpelling")
TOY_NAMES = ("ToyWorld-Choice", "ToyWorld-Facts", "ToyWorld-Math", "ToyWorld-Arithmetic")
TOY_TRAINING_NAMES = ("ToyWorld-Sorting", "ToyWorld-Chat", "ToyWorld-Text")
CHAT_NAMES = ("SmolTalk", "Identity", "Conversations")
NAMES = (*ARC_NAMES, "MMLU", "GSM8K", "HumanEval", *SPELLING_NAMES, *TOY_NAMES, *TOY_TRAINING_NAMES, *CHAT_NAMES)
GRADED = tuple(name for name in NAMES if name not in (*TOY_TRAINING_NAMES, *CHAT_NAMES))
"""Those that can be evaluated; the others are only trained on."""
SPLITS = ("train", "val", "test")


def open_task(name: str, split: str, where: TaskData) -> Task:
    """The task of that name. Raises UsageError for a name there is not, and DataError, with the remedy, where `where`
    does not have it."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r}: one of {SPLITS}")
    if name not in NAMES:
        raise UsageError(f"--tasks {name}: no such task; use {', '.join(NAMES)}")
    if name in ARC_NAMES:
        from pynanochat.tasks.arc import open_arc

        return open_arc(name, split, where)
    if name in SPELLING_NAMES:
        from pynanochat.tasks.spellingbee import open_spelling

        return open_spelling(name, split, where)
    if name in TOY_NAMES or name in TOY_TRAINING_NAMES:
        from pynanochat.tasks.toyworld import open_toyworld

        return open_toyworld(name, split, where)
    return _openers()[name](split, where)


def _openers() -> dict:
    from pynanochat.tasks.conversations import open_conversations
    from pynanochat.tasks.gsm8k import open_gsm8k
    from pynanochat.tasks.humaneval import open_humaneval
    from pynanochat.tasks.identity import open_identity
    from pynanochat.tasks.mmlu import open_mmlu
    from pynanochat.tasks.smoltalk import open_smoltalk

    return {
        "MMLU": open_mmlu,
        "GSM8K": open_gsm8k,
        "HumanEval": open_humaneval,
        "SmolTalk": open_smoltalk,
        "Identity": open_identity,
        "Conversations": open_conversations,
    }


def available(where: TaskData) -> list[str]:
    """The names of the tasks whose test part is there, in the order of NAMES."""
    if where.data == "toyworld":
        return [*SPELLING_NAMES, *TOY_NAMES]
    if where.folder is None:
        return [*ARC_NAMES, "MMLU", "GSM8K", "HumanEval", *SPELLING_NAMES]
    from pynanochat.tasks.arc import has_arc
    from pynanochat.tasks.gsm8k import has_gsm8k
    from pynanochat.tasks.humaneval import has_humaneval
    from pynanochat.tasks.mmlu import has_mmlu
    from pynanochat.tasks.words import can_spell

    there = {name for name in ARC_NAMES if has_arc(name, where)}
    tests = {"MMLU": has_mmlu, "GSM8K": has_gsm8k, "HumanEval": has_humaneval}
    there |= {name for name, has in tests.items() if has(where)}
    there |= set(SPELLING_NAMES) if can_spell(where) else set()
    return [name for name in NAMES if name in there]
