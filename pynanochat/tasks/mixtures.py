"""What each later stage trains on and is validated on, for every kind of data.

    training("midtrain", where)                      a Mixture of one epoch
    training("sft", where, merged=True)              midtraining and SFT in one, as in the 2026 form
    validation("sft", where); reward_tasks(where)

On the Hub the sets and sizes are those of the published recipe; a folder gives what it has, in like proportions; the
toy world has its own tasks. Whatever is drawn, a conversation that asks what a test asks is left out.
"""

from collections.abc import Sequence

from pynanochat.data.mixture import Mixture, Part, take
from pynanochat.errors import DataError
from pynanochat.tasks import ARC_NAMES, SPELLING_NAMES, Task, TaskData, available, open_task
from pynanochat.tasks.conversations import chat_paths
from pynanochat.tasks.gsm8k import GSM8K
from pynanochat.tasks.hygiene import Questions, without
from pynanochat.tasks.mmlu import NAMES as MMLU_NAMES
from pynanochat.tasks.rows import find_file
from pynanochat.tasks.words import can_spell

STAGES = ("midtrain", "sft")
SFT_SMOLTALK, SFT_SPELLING = 10_000, 300
VALIDATION_MMLU = 5200
SIMPLE_SHARE, BEE_SHARE = 200 / 460, 80 / 460  # spelling beside general conversations, as on the Hub
FEWEST_SPELLING = 1000
TOY_MIDTRAIN = {  # conversations of each kind in an epoch
    "ToyWorld-Facts": 9000, "ToyWorld-Choice": 3000, "ToyWorld-Sorting": 800, "ToyWorld-Math": 400,
    "ToyWorld-Arithmetic": 600, "ToyWorld-Chat": 800, "ToyWorld-Text": 2000,
}  # fmt: skip
TOY_SPELLING = {"SimpleSpelling": 1500, "SpellingBee": 3000}
TOY_SFT_SHARE = 2  # SFT sees half of what midtraining sees

Parts = list[tuple[Sequence[dict], int]]


def training(stage: str, where: TaskData, merged: bool = False) -> Mixture:
    """The conversations of a stage, each as often as it is seen in one epoch. Raises DataError where there are none."""
    return Mixture(clean(training_parts(stage, where, merged), held_out_questions(where)), where.seed)


def validation(stage: str, where: TaskData, merged: bool = False) -> Mixture:
    """The conversations whose loss is watched. None of them is trained on; but the small talk and the facts of the toy
    world, and the ways to ask who somebody is, are so few that questions recur."""
    check(stage)
    if where.data == "toyworld":
        names = (*(name for name in TOY_MIDTRAIN if name != "ToyWorld-Text"), *SPELLING_NAMES, "Identity")
        parts = [open_task(name, "val", where) for name in names]
    elif where.folder is None:
        mmlu = take(open_task("MMLU", "test", where), VALIDATION_MMLU, where.seed)
        parts = [open_task("SmolTalk", "val", where), mmlu, open_task("GSM8K", "val", where)]
    else:
        there = {
            "Conversations": bool(chat_paths(where.folder)),
            "MMLU": find_file(where.folder / "tasks", MMLU_NAMES["val"]),
            "GSM8K": find_file(where.folder / "tasks", ["gsm8k_test"]),
            "Identity": True,
        }
        parts = [open_task(name, "val", where) for name, found in there.items() if found]
    return Mixture([(part, 1) for part in parts], where.seed)


def reward_tasks(where: TaskData) -> list[Task]:
    """The training tasks whose answers reinforcement learning pays for. Nothing in them is asked in a test."""
    if where.data == "toyworld":
        return [open_task(name, "train", where) for name in ("ToyWorld-Math", "SpellingBee")]
    if where.folder is None or find_file(where.folder / "tasks", ["gsm8k_train"]):
        problems = open_task("GSM8K", "train", where)
        kept = without(problems, held_out_questions(where))
        return [problems if kept is problems else GSM8K(Part(problems.rows, kept.indices))]
    return [open_task("SpellingBee", "train", where)]


def held_out_questions(where: TaskData) -> Questions:
    """Everything that is asked in an evaluation or held out there."""
    held_out = [open_task(name, "test", where) for name in available(where)]
    if where.folder:
        watched = {
            "Conversations": chat_paths(where.folder),
            "MMLU": find_file(where.folder / "tasks", MMLU_NAMES["val"]),
        }
        held_out += [open_task(name, "val", where) for name, found in watched.items() if found]
    return Questions(held_out)


def clean(parts: Parts, questions: Questions) -> Parts:
    """The parts less what `questions` ask."""
    return [(without(part, questions), copies) for part, copies in parts]


def check(stage: str) -> None:
    if stage not in STAGES:
        raise ValueError(f"stage {stage!r}: one of {STAGES}")


def training_parts(stage: str, where: TaskData, merged: bool) -> Parts:
    """(task, copies) before test questions are left out."""
    check(stage)
    if where.data == "toyworld":
        return toy_parts(stage, where, merged)
    parts = hub_parts(stage, where, merged) if where.folder is None else folder_parts(stage, where, merged)
    if not parts:
        raise DataError(f"--data {where.data}: nothing to train on for {stage}; put conversations into FOLDER/sft")
    return parts


def toy_parts(stage: str, where: TaskData, merged: bool) -> Parts:
    less = TOY_SFT_SHARE if stage == "sft" and not merged else 1
    sizes = TOY_MIDTRAIN | TOY_SPELLING
    parts = [(take(open_task(name, "train", where), n // less, where.seed), 1) for name, n in sizes.items()]
    return [*parts, (open_task("Identity", "train", where), 1)]


def hub_parts(stage: str, where: TaskData, merged: bool) -> Parts:
    opened = {name: open_task(name, "train", where) for name in ("SmolTalk", "GSM8K", "Identity")}
    spelling = {name: open_task(name, "train", where) for name in ("SimpleSpelling", "SpellingBee")}
    if stage == "sft" and not merged:
        parts = [(open_task(name, "train", where), 1) for name in ARC_NAMES]
        parts += [(opened["GSM8K"], 1), (take(opened["SmolTalk"], SFT_SMOLTALK, where.seed), 1)]
        return [*parts, (opened["Identity"], 1), *((take(s, SFT_SPELLING, where.seed), 1) for s in spelling.values())]
    parts = [(opened["SmolTalk"], 1), (open_task("MMLU", "train", where), 3 if merged else 1)]
    parts += [(opened["GSM8K"], 4 if merged else 1), (opened["Identity"], 2)]
    return parts + [(s, 1) for s in spelling.values()]


def folder_parts(stage: str, where: TaskData, merged: bool) -> Parts:
    """As on the Hub, of what the folder has; its own conversations take SmolTalk's place."""
    folder = where.folder
    chat = open_task("Conversations", "train", where) if chat_paths(folder) else []
    short = stage == "sft" and not merged
    parts: Parts = [(take(chat, SFT_SMOLTALK, where.seed) if short else chat, 1)] if chat else []
    if find_file(folder / "tasks", ["gsm8k_train"]):
        parts.append((open_task("GSM8K", "train", where), 4 if merged else 1))
    if short:
        arc = [name for name in ARC_NAMES if find_file(folder / "tasks", [f"{name.lower().replace('-', '_')}_train"])]
        parts += [(open_task(name, "train", where), 1) for name in arc]
    elif find_file(folder / "tasks", MMLU_NAMES["train"]):
        parts.append((open_task("MMLU", "train", where), 3 if merged else 1))
    if can_spell(where):
        for name, share in (("SimpleSpelling", SIMPLE_SHARE), ("SpellingBee", BEE_SHARE)):
            n = SFT_SPELLING if short else max(FEWEST_SPELLING, round(share * len(chat)))
            parts.append((take(open_task(name, "train", where), n, where.seed), 1))
    return [*parts, (open_task("Identity", "train", where), 1 if short else 2)]
