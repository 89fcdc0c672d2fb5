"""The whole job: from raw text to a model that talks, and its report. Run `python -m pynanochat.speedrun`.

The stages form a chain; each is skipped where its outputs exist for the same settings and resumed where it was
interrupted. Training stages run on all local GPUs through torchrun; on a CPU, in this process. Without flags the
machine decides: no GPU means the toy world, GPUs mean the full run on data from the Hub.
"""

import logging
import os
import shlex
import sys
import tempfile
import time
from pathlib import Path

from pynanochat.checkpoint import write_json
from pynanochat.errors import Interrupted, PynanochatError, UsageError
from pynanochat.stages import commands, evaluate, finetune, midtrain, pretrain, rl, sft, tokenizer
from pynanochat.stages.progress import duration

STAGES = (tokenizer, pretrain, midtrain, sft, rl, evaluate)
DISTRIBUTED = {"pretrain", "midtrain", "sft", "rl", "eval"}  # stages that use every process; the others run in one


def main(argv: list[str]) -> None:
    parser = commands.parser("pynanochat speedrun", __doc__.split("\n\n")[0])
    parser.add_argument("--processes", type=int, default=0, metavar="N", help="ranks to train on (default: all GPUs)")
    names = ",".join(stage.NAME for stage in STAGES)
    parser.add_argument("--stages", default="", metavar="A,B", help=f"only these stages, then the report: of {names}")
    flags = parser.parse_args(argv)
    run = commands.open_run(vars(flags), recorded=False)
    if run.ranks.world_size > 1:
        raise UsageError("speedrun starts its own ranks: run it without torchrun, with --processes N")
    processes = flags.processes or gpu_count(run.settings.device)
    if processes < 1:
        raise UsageError(f"--processes {processes}: must be at least 1")
    stages = chosen_stages(run, flags.stages)
    if flags.dry_run:
        print(f"run {run.folder}: data {run.settings.data}, stages {', '.join(stage.NAME for stage in stages)}, report")
        for stage in stages:
            if plan := plan_of(run, stage, processes):
                print(plan)
        return
    carry_out(run, stages, processes, fresh=flags.fresh)


def chosen_stages(run, names: str) -> list:
    """The stages that `names` lists (all of them where it is empty), in their order; a merged run has no midtraining.

    Raises UsageError for a name that is none of them.
    """
    known = [stage for stage in STAGES if not (stage is midtrain and run.settings.merged)]
    wanted = [name.strip() for name in names.split(",")] if names else [stage.NAME for stage in known]
    for name in wanted:
        if name not in [stage.NAME for stage in known]:
            raise UsageError(f"--stages {name}: not a stage of this run; use {', '.join(s.NAME for s in known)}")
    if not names and (why := rl.nothing_to_learn(run)):
        print(f"rl is left out: {why}")
        wanted.remove(rl.NAME)
    return [stage for stage in known if stage.NAME in wanted]


def plan_of(run, stage, processes: int) -> str:
    """The lines of a dry run about a stage."""
    if stage is pretrain:
        return commands.pretrain_plan(run, processes)
    if stage in (midtrain, sft):
        return finetune.describe_plan(run, stage.NAME, processes)
    if stage is rl:
        return rl.describe_plan(run, processes)
    return ""


def gpu_count(device: str) -> int:
    """Processes for `device`: one for each GPU, or one for a CPU or a named GPU."""
    import torch

    return max(1, torch.cuda.device_count()) if device in ("auto", "cuda") and torch.cuda.is_available() else 1


def check(run, stages, processes: int, fresh: bool) -> None:
    """Raise what can be known to go wrong before anything is changed: data that cannot be had, settings that cannot
    work."""
    run.source()
    if pretrain in stages:
        pretrain.check_plan(run, run.tables["tokenizer"].vocab_size, processes, begun=not fresh)
    for stage in stages:
        if stage in (midtrain, sft, rl):
            stage.check_plan(run, processes)
        if stage is evaluate:
            evaluate.check_plan(run)


def carry_out(run, stages, processes: int, fresh: bool) -> None:
    """The stages in turn, then the report. `fresh`: they are begun anew, and what was built on them is forgotten."""
    from pynanochat.report import environment, write_report

    started = time.perf_counter()
    check(run, stages, processes, fresh)
    with run.alone():
        if fresh:
            for stage in STAGES[STAGES.index(stages[0]) :]:
                run.forget(stage.NAME)
        for stage in stages:
            run.check(stage)
        run.save_settings()
        write_json(run.folder / "environment.json", environment.describe_environment())
    for stage in stages:
        if processes > 1 and stage.NAME in DISTRIBUTED and run.finished(stage) is None:
            launch(run, stage.NAME, processes)  # the first rank then holds the run
        else:
            with run.alone():
                run.carry_out(stage)
    report = write_report(run.folder)
    print(f"\nreport: {report}")
    print(f"done in {duration(time.perf_counter() - started)}; talk to the model in a browser or here:\n")
    name = run.folder.name if run.folder.parent == Path("runs") else str(run.folder)
    for command in ("serve", "chat"):
        print(f"    pynanochat {command} --run {shlex.quote(name)}")


def launch(run, stage: str, processes: int) -> None:
    """Run a stage on `processes` ranks through torchrun's launcher; its settings are those that the run has saved.

    Called as a library, because torchrun's own command line takes our --run for an abbreviation of its flags and
    prints a page of its own about a rank that ends. A signal is handed on once; the ranks save and end.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):  # each has a level of its own
            logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "600")  # seconds for a step and a large checkpoint
    argv = ["-m", "pynanochat", stage, "--run", str(run.folder.absolute()), "--device", run.settings.device]
    with tempfile.TemporaryDirectory() as logs:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id="pynanochat",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=logs, redirects=Std.ERR),
        )
        try:
            elastic_launch(config, sys.executable)(*argv)
        except SignalException:
            raise Interrupted(f"{stage} was stopped and is saved; the same command goes on from there") from None
        except ChildFailedError as error:
            rank, failure = error.get_first_failure()
            errors = [file.read_text(errors="replace") for file in Path(logs).rglob(f"{rank}/stderr.log")]
            raise _failure(stage, rank, failure.exitcode, "".join(errors)) from None


def _failure(stage: str, rank: int, code: int, errors: str) -> PynanochatError:
    """What to say about a rank that ended with `code` after it had written `errors`."""
    last = errors.strip().rpartition("\n")[2]
    if code == 130:
        return Interrupted(last or f"{stage} was stopped and is saved; the same command goes on from there")
    if last.startswith("error: "):
        return PynanochatError(last.removeprefix("error: "))
    print(errors, end="", file=sys.stderr)
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}; its message is above"
    return PynanochatError(f"{stage}: rank {rank} {how}; the same command goes on from the last checkpoint")


if __name__ == "__main__":
    from pynanochat.cli import run_command

    run_command(main, sys.argv[1:])
