"""Talk to a run's model in the terminal: `pynanochat chat [RUN]`, or `pynanochat chat RUN -p PROMPT` for one answer.

Ctrl-C stops an answer and leaves at the prompt. A model that is only pretrained continues text instead of answering,
and says so. When the output is not a terminal it is the bare text of the answer.
"""

import argparse
import contextlib
import importlib
import os
import sys
from pathlib import Path

from pynanochat.errors import PynanochatError, UsageError
from pynanochat.runs import find_run

HELP = """\
/help    this list
/clear   forget the conversation so far
/quit    leave (so do Ctrl-D, and Ctrl-C at the prompt; during an answer Ctrl-C stops it)"""
HISTORY_LINES = 1000


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
    p.add_argument("--max-tokens", type=int, default=512, help="longest answer (default 512)")
    p.add_argument("--seed", type=int, help="the same seed gives the same answers")
    p.add_argument("--stage", help="pretrain, midtrain, sft or rl; by default the newest that the run has")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    p.add_argument("--dtype", default="auto", help="bf16 or fp32; auto is fp32 on a CPU and bf16 on a GPU")
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
        "max_tokens": args.max_tokens,
        "seed": args.seed,
    }
    prompt = sys.stdin.read() if args.prompt == "-" else args.prompt
    if prompt is not None and not prompt.strip():
        raise UsageError("-p: the prompt is empty")
    engine = _load(folder, args)
    talk = Talk(engine, settings, folder.name)
    if prompt is None:
        talk.converse()
    else:
        talk.answer_once(prompt)


def _load(folder, args):
    from pynanochat.engine import Engine
    from pynanochat.runtime import pick_compute_dtype, pick_device

    device = pick_device(args.device)
    name = "fp32" if args.dtype == "auto" and device.type == "cpu" else args.dtype
    dtype = pick_compute_dtype(device, name)
    return Engine.load(folder, args.stage, device=device, compute_dtype=dtype)


class Talk:
    """A conversation with `engine` on standard input and output."""

    def __init__(self, engine, settings: dict, name: str):
        from rich.console import Console

        self.engine, self.settings, self.name = engine, settings, name
        self.base = engine.stage == "pretrain"
        self.out = Console(highlight=False, soft_wrap=True)
        self.err = Console(stderr=True, highlight=False, soft_wrap=True)
        self.messages: list[dict] = []
        self.turn = 0

    def answer_once(self, prompt: str) -> None:
        """Print the answer to `prompt`."""
        if self.base:
            self._note(f"{self.name} has only a base model (stage pretrain): it continues the text")
        self._answer(prompt)

    def converse(self) -> None:
        """Read messages and answer them until the reader leaves."""
        self._greet()
        with History():
            while True:
                try:
                    line = input("> " if self.out.is_terminal else "")
                except (EOFError, KeyboardInterrupt):
                    self.out.print()
                    return
                if line.strip() in ("/quit", "/exit", "/q"):
                    return
                self._obey(line)

    def _obey(self, line):
        """Answer a message, or carry out a command."""
        if line.strip() == "/help":
            self.out.print(HELP, markup=False)
        elif line.strip() == "/clear":
            self.messages = []
            self._note("the conversation starts anew")
        elif line.startswith("/"):
            self._note(f"no command {printable(line.split()[0])}: use /help, /clear or /quit")
        elif line.strip():
            try:
                self._answer(line)
            except PynanochatError as error:
                self.err.print(f"error: {error}", style="red", markup=False)

    def _greet(self):
        model = self.engine.model
        count = sum(p.numel() for p in model.parameters())
        self._note(f"{self.name} · {self.engine.stage} · {count / 1e6:,.1f} M parameters · /help for commands")
        if self.base:
            self._note("This run has only a base model (stage pretrain): it continues your text rather than answering.")

    def _answer(self, text):
        """Show the answer to `text` as it comes; Ctrl-C keeps what there is of it."""
        text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        settings = dict(self.settings)
        if settings["seed"] is not None:
            settings["seed"] += self.turn
        if self.base:
            events = self.engine.complete_events(text, **settings)
        else:
            events = self.engine.chat_events([*self.messages, {"role": "user", "content": text}], **settings)
        self.turn += 1
        printer = Printer(self.out, self._note)
        if self.base and self.out.is_terminal:
            printer.text(text, style="dim")
        try:
            for event in events:
                printer.show(event)
        except KeyboardInterrupt:
            printer.stopped()
        if not self.base:
            self.messages += [{"role": "user", "content": text}, {"role": "assistant", "content": printer.parts}]

    def _note(self, text):
        """Something that is not the answer: dim on a terminal, on standard error elsewhere."""
        (self.out if self.out.is_terminal else self.err).print(text, style="dim", markup=False)


class Printer:
    """Shows the events of one answer and collects its parts as a message's content."""

    def __init__(self, out, note):
        self.out, self.note = out, note
        self.parts: list[dict] = []
        self._call: str | None = None

    def show(self, event) -> None:
        kind, text = event.kind, event.text
        if self._call is not None:  # a call is shown with its output, if it has one
            output = text if kind == "tool_output" else ""
            self._block(f"{self._call} → {output}" if output else self._call)
            self._call = None
        elif kind == "tool_output":
            self._block(f"→ {text}")
        if kind == "text":
            self._keep("text", text)
            self.text(text)
        elif kind == "tool_call":
            self._keep("python", text)
            self._call = text
        elif kind == "tool_output":
            self._keep("python_output", text)
        elif kind == "notice":
            self.note(text)
        elif kind == "end":
            self._end(text)

    def text(self, text, style=None) -> None:
        self.out.print(printable(text), end="", style=style, markup=False)
        self.out.file.flush()

    def stopped(self) -> None:
        """The reader had enough."""
        self._end("interrupted")

    def _keep(self, kind, text):
        if self.parts and self.parts[-1]["type"] == kind == "text":
            self.parts[-1]["text"] += text
        else:
            self.parts.append({"type": kind, "text": text})

    def _block(self, text):
        if self.out.is_terminal:
            self.out.print(f"[{printable(text)}]", end="", style="cyan", markup=False)

    def _end(self, finish):
        self.out.print()
        if finish != "stop":
            why = {"length": "cut off: the longest answer or the end of the context is reached"}.get(finish, finish)
            self.note(f"({why})")


class History:
    """Line editing with a history that lasts, where standard input is a terminal and readline is there."""

    def __enter__(self):
        state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
        self._file = Path(state) / "pynanochat" / "chat_history"
        self._readline = None
        if sys.stdin.isatty():
            with contextlib.suppress(ImportError):
                self._readline = importlib.import_module("readline")
        if self._readline is not None:
            self._readline.set_history_length(HISTORY_LINES)
            with contextlib.suppress(OSError):
                self._readline.read_history_file(self._file)

    def __exit__(self, *_):
        if self._readline is None:
            return
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._readline.write_history_file(self._file)
            self._file.chmod(0o600)


def printable(text: str) -> str:
    """`text` without control characters, which could drive the terminal."""
    return "".join(c if c in "\n\t" or c.isprintable() or ord(c) > 0x9F else "\ufffd" for c in text)
