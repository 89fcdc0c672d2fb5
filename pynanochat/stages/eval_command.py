"""`pynanochat eval`: the trained stages of a run on its tasks; torchrun starts it on each rank.

    pynanochat eval --run toy --stage sft --tasks GSM8K,CORE/hellaswag --max-examples 100

Its own flags hold for this call alone: the run's settings stay, and results for other settings are replaced.
"""

from pynanochat import runtime
from pynanochat.errors import CheckpointError
from pynanochat.stages import commands, evaluate


def main(argv: list[str]) -> None:
    description = evaluate.__doc__.split("\n\n")[0]
    flags = commands.parser("pynanochat eval", description, ("run", "eval")).parse_args(argv)
    run = commands.open_run(vars(flags), recorded=True)
    if not (run.folder / "settings.json").is_file():
        raise CheckpointError(
            f"{run.folder}: no such run; train one with `pynanochat speedrun --run {run.folder.name}`"
        )
    if flags.dry_run:
        print(evaluate.describe_plan(run))
        return
    with run.alone():
        if flags.fresh:
            run.forget(evaluate.NAME)
            runtime.init_distributed(run.ranks, runtime.pick_device(run.settings.device, run.ranks))
            runtime.barrier(run.ranks)  # no rank may find what the first is about to remove
        if any(name.startswith("eval_") for name in vars(flags)):
            evaluate.train(run)  # for the asking, not the run's own evaluation
        else:
            run.carry_out(evaluate)
