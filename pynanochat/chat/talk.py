"""The conversation: reads lines, answers messages, obeys commands."""

import contextlib
import signal
import time
from collections.abc import Callable
from pathlib import Path

from pynanochat.chat import files
from pynanochat.chat.history import History
from pynanochat.chat.printer import Printer
from pynanochat.chat.screen import printable
from pynanochat.engine.events import Event
from pynanochat.engine.sampling import Sampling
from pynanochat.errors import PynanochatError, UsageError
from pynanochat.tokenizer import render_conversation

# Command, the setting it changes, its type, and what it does.
SETTINGS = {
    "/temperature": ("temperature", float, "0 takes the most probable token, more is more varied"),
    "/topk": ("top_k", int, "draw from the k most probable tokens; 0 is all"),
    "/topp": ("top_p", float, "draw from the most probable tokens up to this share; 1 is all"),
    "/minp": ("min_p", float, "leave out tokens below this share of the most probable one; 0 is none"),
    "/penalty": ("repetition_penalty", float, "above 1 makes what was already said less probable; 1 is none"),
    "/maxtokens": ("max_tokens", int, "the longest answer"),
    "/seed": ("seed", int, "the same seed gives the same answers; off for a new one each time"),
}
WORDS = {
    "/retry": "answer the last message again (so does /regenerate)",
    "/stage": "pretrain, midtrain, sft or rl: talk to another stage of the run",
    "/settings": "all settings as they are",
    "/clear": "forget the conversation so far",
    "/save": "FILE: write the conversation as JSON, or as one more line of a .jsonl file",
    "/load": "FILE: go on with the conversation in it",
    "/help": "this list",
    "/quit": "leave (so do Ctrl-D, and Ctrl-C at the prompt; during an answer Ctrl-C stops it)",
}
SAME = {"/regenerate": "/retry", "/exit": "/quit", "/q": "/quit", "/repetitionpenalty": "/penalty"}


class Talk:
    """A conversation on standard input and output. `load(stage)` gives the Engine of a stage, of the newest for None;
    `settings` are those of Engine.generate."""

    def __init__(self, load: Callable, settings: dict, name: str, stage: str | None = None, plain: bool = False):
        from rich.console import Console

        self.load, self.settings, self.name = load, settings, name
        self.out = Console(highlight=False, soft_wrap=True)
        self.err = Console(stderr=True, highlight=False, soft_wrap=True)
        self.rich = self.out.is_terminal and not self.out.is_dumb_terminal and not plain
        self._check(settings)
        self.engine = load(stage)
        self.engines = {self.engine.stage: self.engine}
        self.messages: list[dict] = []
        self.asked: str | None = None
        self.turn = 0
        self.actions = {
            "/retry": self._retry,
            "/stage": self._stage,
            "/settings": self._settings,
            "/clear": self._clear,
            "/save": self._save,
            "/load": self._load,
            "/help": self._help,
        }

    @property
    def base(self) -> bool:
        """Whether the model only continues text."""
        return self.engine.stage == "pretrain"

    def answer_once(self, prompt: str) -> None:
        """Print the answer to `prompt`."""
        if self.base:
            self._note(f"{self.name} has only a base model (stage pretrain): it continues the text")
        self._answer(prompt)

    def converse(self) -> None:
        """Read messages and answer them until the reader leaves."""
        self._greet()
        with History([*SETTINGS, *WORDS]):
            while True:
                try:
                    line = input("> " if self.out.is_terminal else "")
                except (EOFError, KeyboardInterrupt):
                    self.out.print()
                    return
                command = line.split()[0] if line.startswith("/") else ""
                if SAME.get(command, command) == "/quit":
                    return
                try:
                    if command:
                        self._obey(SAME.get(command, command), line[len(command) :].strip())
                    elif line.strip():
                        self._answer(line)
                except PynanochatError as error:
                    self.err.print(f"error: {printable(str(error))}", style="red", markup=False)

    def _greet(self):
        count = sum(p.numel() for p in self.engine.model.parameters())
        self._note(f"{self.name} · {self.engine.stage} · {count / 1e6:,.1f} M parameters · /help for commands")
        if self.base:
            self._note("This is a base model (stage pretrain): it continues your text rather than answering.")

    # --- answers

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
        self.asked, self.turn = text, self.turn + 1
        printer = Printer(self.out, self._note, self.rich and not self.base)
        if self.base and self.out.is_terminal:
            printer.text(text, style="dim")
        self._show(events, printer)
        if not self.base:
            self.messages += [{"role": "user", "content": text}, {"role": "assistant", "content": printer.parts}]

    def _show(self, events, printer):
        begun = time.monotonic()
        try:
            with contextlib.closing(events), CtrlC() as ctrl_c:
                for event in events:
                    printer.show(event)
                    if event.kind == "end":
                        self._rate(event.tokens, time.monotonic() - begun)
                    elif ctrl_c.pressed:
                        printer.end("interrupted")
                        break
        except KeyboardInterrupt:  # the second one may have torn a step of the engine
            printer.end("interrupted")
            self.engine = self.engines[self.engine.stage] = self.load(self.engine.stage)

    def _rate(self, tokens, seconds):
        if self.out.is_terminal:
            what = "1 token" if tokens == 1 else f"{tokens:,} tokens"
            self._note(f"{what} in {seconds:.1f} s · {tokens / max(seconds, 1e-9):,.1f} tokens/s\n")

    def _note(self, text):
        """Something that is not the answer: dim on a terminal, on standard error elsewhere."""
        (self.out if self.out.is_terminal else self.err).print(printable(text), style="dim", markup=False)

    # --- commands

    def _obey(self, command, rest):
        if command in SETTINGS:
            self._set(command, rest)
        elif command in self.actions:
            self.actions[command](rest)
        else:
            raise UsageError(f"no command {command}: /help lists them; a message cannot begin with /")

    def _set(self, command, text):
        name, kind, _ = SETTINGS[command]
        if text:
            changed = self.settings | {name: None if (name, text) == ("seed", "off") else _number(command, kind, text)}
            self._check(changed)
            self.settings = changed
        value = self.settings[name]
        self._note(f"{command[1:]} {'off' if value is None else value}")

    def _check(self, settings):
        names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
        Sampling(**{name: settings[name] for name in names})
        if settings["max_tokens"] < 1:
            raise UsageError(f"max_tokens={settings['max_tokens']}: use 1 or more")

    def _settings(self, _):
        for command in SETTINGS:
            self._set(command, "")
        self._note(f"stage {self.engine.stage}")

    def _stage(self, stage):
        if stage:
            if stage not in self.engines:
                self.engines[stage] = self.load(stage)
            self.engine = self.engines[stage]
        self._greet()

    def _retry(self, _):
        if self.asked is None:
            raise UsageError("there is no message to answer again; write one")
        if not self.base and len(self.messages) > 1 and self.messages[-2]["content"] == self.asked:
            del self.messages[-2:]
        self._answer(self.asked)

    def _clear(self, _):
        self.messages, self.asked = [], None
        self._note("the conversation starts anew")

    def _save(self, file):
        if not file or not self.messages:
            raise UsageError("/save FILE writes the conversation; name a file, and say something first")
        files.save(Path(file).expanduser(), self.messages)
        self._note(f"{len(self.messages)} messages written to {file}")

    def _load(self, file):
        if not file:
            raise UsageError("/load FILE goes on with a conversation; name a file that /save wrote")
        messages = files.load(Path(file).expanduser())
        render_conversation(self.engine.tokenizer, messages)  # or says what is wrong with it
        self.asked = next((m["content"] for m in reversed(messages) if m["role"] == "user"), None)
        unanswered = messages[-1]["role"] == "user"
        self.messages = messages[:-1] if unanswered else messages
        for message in messages:
            self._replay(message)
        self._note(f"{len(messages)} messages from {file}" + ("; /retry answers the last one" * unanswered))

    def _replay(self, message):
        """Show a message of before."""
        if message["role"] != "assistant":
            self._note(f"> {message['content']}")
            return
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        kinds = {"python": "tool_call", "python_output": "tool_output"}
        printer = Printer(self.out, self._note, self.rich)
        for part in parts:
            printer.show(Event(kinds.get(part["type"], "text"), part["text"], True))
        printer.end("stop")

    def _help(self, _):
        words = {command: words for command, (_, _, words) in SETTINGS.items()} | WORDS
        for command, text in words.items():
            self.out.print(f"{command:<14}{text}", markup=False)


class CtrlC:
    """While it is entered the first Ctrl-C only sets `pressed`, so that a step of the engine is never torn; a second
    one interrupts as usual."""

    def __enter__(self):
        self.pressed = False
        self._before = signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *_):
        signal.signal(signal.SIGINT, self._before)

    def _press(self, *_):
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True


def _number(command, kind, text):
    try:
        return kind(text)
    except ValueError:
        raise UsageError(f"{command} {text}: use a {'whole ' if kind is int else ''}number") from None
