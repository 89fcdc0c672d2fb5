"""`pynanochat COMMAND ...`. Each command is a `main(argv)` in its own module, imported only when it is called."""

import importlib
import sys

from pynanochat import __version__
from pynanochat.errors import Interrupted, PynanochatError

COMMANDS = {
    "speedrun": ("pynanochat.speedrun:main", "the whole job: tokenizer to report, resumable"),
    "tokenizer": ("pynanochat.tokenizer.commands:main", "train, eval or show a tokenizer"),
    "data": ("pynanochat.data.commands:main", "look at, make or download data"),
    "pretrain": ("pynanochat.stages.commands:pretrain_main", "train the base model of a run"),
    "midtrain": ("pynanochat.stages.commands:midtrain_main", "train a run's base model on conversations"),
    "sft": ("pynanochat.stages.commands:sft_main", "finetune a run's model on what the assistant says"),
    "rl": ("pynanochat.stages.rl_command:main", "let a run's model learn from what its answers earn"),
    "eval": ("pynanochat.stages.eval_command:main", "evaluate a run's stages on its tasks and on CORE"),
    "chat": ("pynanochat.chat:main", "talk to a run's model in the terminal"),
    "serve": ("pynanochat.serve.commands:serve_main", "a run's chat page and an API that OpenAI's clients speak"),
    "watch": ("pynanochat.serve.commands:watch_main", "live curves of a run in the browser"),
    "report": ("pynanochat.report.commands:main", "write the report of a run"),
    "bench": ("pynanochat.bench_commands:main", "benchmarks; `bench gpu` checks and measures a GPU"),
    "doctor": ("pynanochat.doctor:main", "what this machine has, what is used, what to do"),
}


def usage() -> str:
    lines = [f"  {name:<10} {what}" for name, (_, what) in COMMANDS.items()]
    return "usage: pynanochat COMMAND [--help]\n\n" + "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    """Run a command; exits 0, or 2 with one line for an error that is the user's to mend (a traceback with --debug)."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help", "help"):
        run_command(lambda _: print(usage(), flush=True), argv)
    elif argv[0] in ("-V", "--version"):
        print(f"pynanochat {__version__}")
    elif argv[0] not in COMMANDS:
        print(f"pynanochat: no command {argv[0]!r}; use one of {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(2)
    else:
        module, function = COMMANDS[argv[0]][0].split(":")
        run_command(lambda rest: getattr(importlib.import_module(module), function)(rest), argv[1:])


def run_command(command, argv: list[str]) -> None:
    """Call `command(argv)` and turn what it raises into one line and an exit code."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that lacks a letter must not end hours of training
    try:
        command(argv)
    except Interrupted as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(130)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output went away; say nothing more
        sys.exit(141)
    except PynanochatError as error:
        if "--debug" in argv:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:  # a full disk or a forbidden folder that nothing nearer has put in words
        if "--debug" in argv or error.strerror is None:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror}; free some space or choose another place", file=sys.stderr)
        sys.exit(2)
