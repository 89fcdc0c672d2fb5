"""The whole job: from raw text to a model that talks, and its report. Run `python -m pynanochat.speedrun`.

The stages form a chain; each is skipped where its outputs exist for the same settings and resumed where it was
interrupted. Training stages run on all local GPUs through torchrun; on a CPU, in this process. Without flags the
machine decides: no GPU means the toy world, GPUs mean the full run on data from the Hub.
"""

import os
import subprocess
import sys
import time

from pynanochat.checkpoint import write_json
from pynanochat.errors import Interrupted, PynanochatError, UsageError
from pynanochat.stages import commands, pretrain, tokenizer
from pynanochat.stages.progress import duration

STAGES = (tokenizer, pretrain)
DISTRIBUTED = {"pretrain"}  # stages that use every process; the others run in one


def main(argv: list[str]) -> None:
    parser = commands.parser("pynanochat speedrun", __doc__.split("\n\n")[0])
    parser.add_argument("--processes", type=int, default=0, metavar="N", help="ranks to train on (default: all GPUs)")
    flags = parser.parse_args(argv)
    run = commands.open_run(vars(flags), recorded=False)
    processes = flags.processes or gpu_count(run.settings.device)
    if processes < 1:
        raise UsageError(f"--processes {processes}: must be at least 1")
    if flags.dry_run:
        print(f"run {run.folder}: data {run.settings.data}")
        print(commands.pretrain_plan(run, processes))
        return
    carry_out(run, processes, fresh=flags.fresh)


def gpu_count(device: str) -> int:
    """Processes for `device`: one for each GPU, or one for a CPU or a named GPU."""
    import torch

    return max(1, torch.cuda.device_count()) if device in ("auto", "cuda") and torch.cuda.is_available() else 1


def carry_out(run, processes: int, fresh: bool) -> None:
    """Every stage in turn, then the report."""
    from pynanochat.report import environment, write_report

    started = time.perf_counter()
    if fresh:
        for stage in STAGES:
            run.forget(stage.NAME)
    run.source()  # data that cannot be had should say so before anything is written
    for stage in STAGES:
        run.check(stage)
    run.save_settings()
    write_json(run.folder / "environment.json", environment.describe_environment())
    for stage in STAGES:
        if processes > 1 and stage.NAME in DISTRIBUTED:
            launch(run, stage.NAME, processes)
        else:
            run.carry_out(stage)
    report = write_report(run.folder)
    print(f"\nreport: {report}")
    print(f"done in {duration(time.perf_counter() - started)}; talk to the model with:\n")
    print(f"    pynanochat chat --run {run.folder.name if run.folder.parent.name == 'runs' else run.folder}")


def launch(run, stage: str, processes: int) -> None:
    """Run a stage on `processes` ranks through torchrun; its settings are those that the run has saved."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command += ["-m", "pynanochat", stage, "--run", str(run.folder.absolute()), "--device", run.settings.device]
    threads = max(1, (os.cpu_count() or 1) // processes)
    finished = subprocess.run(command, env={"OMP_NUM_THREADS": str(threads), **os.environ}, check=False)
    if finished.returncode in (130, -2):
        raise Interrupted(f"{stage} was stopped and is saved; the same command goes on from there")
    if finished.returncode:
        raise PynanochatError(f"{stage} failed on {processes} ranks (exit {finished.returncode}); its message is above")


if __name__ == "__main__":
    from pynanochat.cli import run_command

    run_command(main, sys.argv[1:])
