"""From a command line to a Run: presets, flags, the settings that a run already has; and the commands of one stage.

In a command of one stage its flags have their plain names (`pynanochat sft --steps 9`). The main job takes those of
every stage: plain ones mean the run, the tokenizer and pretraining, the others bear their stage's name (`--sft-steps`).
"""

import argparse
import json

from pynanochat import runtime, settings
from pynanochat.errors import CheckpointError
from pynanochat.stages import begin, evaluate, finetune, midtrain, pretrain, rl, sft, tokenizer
from pynanochat.stages.run import Run, RunSettings, run_folder

SETTINGS = {
    "run": RunSettings,
    "tokenizer": tokenizer.TokenizerSettings,
    "pretrain": pretrain.PretrainSettings,
    "midtrain": midtrain.MidtrainSettings,
    "sft": sft.SftSettings,
    "rl": rl.RLSettings,
    "eval": evaluate.EvalSettings,
}
PLAIN = ("run", "tokenizer", "pretrain")  # whose flags never bear a stage's name


def parser(prog: str, description: str, tables=tuple(SETTINGS)) -> argparse.ArgumentParser:
    """Flags for `tables` and those that every stage command has."""
    result = argparse.ArgumentParser(prog=prog, description=description)
    result.add_argument("--preset", help=f"settings to start from: {', '.join(settings.preset_names())}")
    result.add_argument("--fresh", action="store_true", help="forget what the run has done and begin anew")
    result.add_argument("--resume", dest="fresh", action="store_false", help="go on where the run is (the default)")
    result.add_argument("--dry-run", action="store_true", help="print the plan and its cost; allocate nothing")
    result.add_argument("--debug", action="store_true", help="show the traceback of an error")
    for name in tables:
        prefix = dest_prefix(name)
        alone = set(tables) - {"run"} == {name}
        settings.add_flags(result, SETTINGS[name], flag_prefix="" if alone else prefix, dest_prefix=prefix)
    return result


def dest_prefix(table: str) -> str:
    """What stands before a table's settings among parsed flags."""
    return "" if table in PLAIN else f"{table}_"


def default_preset() -> str:
    """What this machine can do: toy without a GPU, the full run on eight, gpu between."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return "toy" if count == 0 else "gpu" if count < 8 else "speedrun"


def open_run(flags: dict, *, recorded: bool) -> Run:
    """The Run that parsed `flags` describe.

    Settings come from the preset and then the flags. With `recorded` (the commands of single stages) and no --preset,
    they start from what the run's own settings.json says, where the run exists.
    """
    preset = flags.get("preset")
    folder = run_folder(flags["run"]) if flags.get("run") else None
    before = _recorded(folder) if recorded and folder and not preset else None
    if before is None:
        preset = preset or default_preset()
        before = settings.load_preset(preset)
        folder = folder or run_folder(preset)
    tables = {}
    for name, cls in SETTINGS.items():
        prefix = dest_prefix(name)
        given = {k: flags[prefix + k] for k in cls.__dataclass_fields__ if prefix + k in flags}
        tables[name] = settings.build(cls, before.get(name, {}), given)
    return Run(folder, tables)


def _recorded(folder) -> dict | None:
    try:
        recorded = json.loads((folder / "settings.json").read_text())
        if isinstance(recorded, dict) and all(isinstance(table, dict) for table in recorded.values()):
            return recorded
    except FileNotFoundError:
        return None
    except ValueError:
        pass
    raise CheckpointError(f"{folder / 'settings.json'}: damaged; remove it or give --preset")


def pretrain_main(argv: list[str]) -> None:
    """`pynanochat pretrain`: this stage alone, on a run that has a tokenizer; torchrun starts it on each rank."""
    flags = parser("pynanochat pretrain", pretrain.__doc__, ("run", "pretrain")).parse_args(argv)
    run = open_run(vars(flags), recorded=True)
    if flags.dry_run:
        print(pretrain_plan(run, 1))
        return
    pretrain.check_plan(run, len(run.tokenizer()), run.ranks.world_size, begun=not flags.fresh)
    carry_out_alone(run, pretrain, flags.fresh)


def carry_out_alone(run: Run, stage, fresh: bool) -> None:
    """One stage of a run, begun anew where `fresh`."""
    with run.alone():
        if fresh:
            run.forget(stage.NAME)
            runtime.init_distributed(run.ranks, runtime.pick_device(run.settings.device, run.ranks))
            runtime.barrier(run.ranks)  # no rank may find what the first is about to remove
        run.check(stage)
        run.save_settings()
        run.carry_out(stage)


def midtrain_main(argv: list[str]) -> None:
    """`pynanochat midtrain`: this stage alone, on a run whose base model is trained."""
    finetune_main(midtrain, argv)


def sft_main(argv: list[str]) -> None:
    """`pynanochat sft`: this stage alone, on a run that is midtrained (or --merged)."""
    finetune_main(sft, argv)


def finetune_main(stage, argv: list[str]) -> None:
    flags = parser(f"pynanochat {stage.NAME}", stage.__doc__, ("run", stage.NAME)).parse_args(argv)
    run = open_run(vars(flags), recorded=True)
    if flags.dry_run:
        print(finetune.describe_plan(run, stage.NAME))
        return
    begin.begin(run, stage.NAME)  # before anything is changed
    stage.check_plan(run, run.ranks.world_size)
    carry_out_alone(run, stage, flags.fresh)


def pretrain_plan(run: Run, processes: int) -> str:
    """The lines of a dry run about pretraining."""
    device = runtime.pick_device(run.settings.device)
    vocab = run.tables["tokenizer"].vocab_size
    return pretrain.describe_plan(run.tables["pretrain"], vocab, device, run.settings, processes)
