"""Talk to a run's model in the terminal: `pynanochat chat [RUN]`, or `pynanochat chat RUN -p PROMPT` for one answer.

Answers are shown as Markdown while they come, calls of the calculator as blocks; /help lists the commands. Ctrl-C stops
an answer and leaves at the prompt. A model that is only pretrained continues text instead of answering, and says so.
When the output is not a terminal it is the bare text of the answer.
"""

import argparse
import sys

from pynanochat.chat.talk import Talk
from pynanochat.errors import UsageError
from pynanochat.runs import find_run


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(prog="pynanochat chat", description=__doc__.split("\n\n")[0])
    p.add_argument("name", nargs="?", metavar="RUN", help="a run under runs/, or its folder; by default the newest one")
    p.add_argument("--run", metavar="NAME", help="the same as RUN")
    p.add_argument("-p", "--prompt", help="print one answer to PROMPT and end; - reads it from standard input")
    p.add_argument("--temperature", type=float, default=0.8, help="0 takes the most probable token (default 0.8)")
    p.add_argument(
        "--top-k", type=int, default=50, help="draw from the k most probable tokens, 0 from all (default 50)"
    )
    p.add_argument("--top-p", type=float, default=1.0, help="draw from the most probable tokens up to this share")
    p.add_argument("--min-p", type=float, default=0.0, help="leave out tokens below this share of the best one's")
    p.add_argument(
        "--repetition-penalty", type=float, default=1.0, help="above 1 makes what was already said less probable"
    )
    p.add_argument("--max-tokens", type=int, default=512, help="longest answer (default 512)")
    p.add_argument("--seed", type=int, help="the same seed gives the same answers")
    p.add_argument("--stage", help="pretrain, midtrain, sft or rl; by default the newest that the run has")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    p.add_argument("--dtype", default="auto", help="bf16 or fp32; auto is fp32 on a CPU and bf16 on a GPU")
    p.add_argument("--plain", action="store_true", help="show answers as they are instead of as Markdown")
    p.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return p


def main(argv: list[str]) -> None:
    """The command. Raises CheckpointError where there is no such run, UsageError for a bad flag."""
    args = parser().parse_args(argv)
    if args.name and args.run and args.name != args.run:
        raise UsageError(f"RUN is {args.name} and --run is {args.run}: name one run")
    folder = find_run(args.run or args.name)
    settings = {
        "temperature": args.temperature,
        "top_k": args.top_k,
        "top_p": args.top_p,
        "min_p": args.min_p,
        "repetition_penalty": args.repetition_penalty,
        "max_tokens": args.max_tokens,
        "seed": args.seed,
    }
    prompt = sys.stdin.read() if args.prompt == "-" else args.prompt
    if prompt is not None and not prompt.strip():
        raise UsageError("-p: the prompt is empty")
    talk = Talk(lambda stage: _load(folder, stage, args), settings, folder.name, args.stage, plain=args.plain)
    if prompt is None:
        talk.converse()
    else:
        talk.answer_once(prompt)


def _load(folder, stage, args):
    from pynanochat.engine import Engine
    from pynanochat.runtime import pick_compute_dtype, pick_device

    device = pick_device(args.device)
    name = "fp32" if args.dtype == "auto" and device.type == "cpu" else args.dtype
    dtype = pick_compute_dtype(device, name)
    return Engine.load(folder, stage, device=device, compute_dtype=dtype)
