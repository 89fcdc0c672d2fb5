"""`pynanochat rl`: reinforcement learning alone, on a run that is finetuned; torchrun starts it on each rank."""

from pynanochat.stages import begin, commands, rl


def main(argv: list[str]) -> None:
    flags = commands.parser("pynanochat rl", rl.__doc__, ("run", rl.NAME)).parse_args(argv)
    run = commands.open_run(vars(flags), recorded=True)
    if flags.dry_run:
        print(rl.describe_plan(run))
        return
    begin.begin(run, rl.NAME)  # before anything is changed
    rl.check_plan(run, run.ranks.world_size)
    commands.carry_out_alone(run, rl, flags.fresh)
