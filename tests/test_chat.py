"""The terminal chat: in a pseudo-terminal with a scripted engine, and as a command."""

import codecs
import os
import pty
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pynanochat import chat
from pynanochat.errors import CheckpointError, UsageError

ROOT = Path(__file__).parent.parent
CHILD = """
import sys, time
from types import SimpleNamespace
from pynanochat import chat

class Engine:
    "Answers with what it was asked, slowly where asked to count; remembers what it was given."
    model = SimpleNamespace(parameters=lambda: [SimpleNamespace(numel=lambda: 2_500_000)])
    def __init__(self, stage):
        self.stage = stage
    def complete_events(self, text, **settings):
        yield from self.events([("text", " and so on"), ("end", "length")])
    def chat_events(self, messages, **settings):
        question = messages[-1]["content"]
        if question == "count":
            for i in range(600):
                time.sleep(0.05)
                yield from self.events([("text", f"n{i} ")])
        elif question == "sum":
            yield from self.events([("text", "It is "), ("tool_call", "1+1"), ("tool_output", "2"), ("text", "two."),
                                    ("tool_call", "1/0"), ("text", " Or not.")])
        elif question == "long":
            raise chat.UsageError("the last message is too long")
        elif question == "evil":
            yield from self.events([("text", "[bold]\\x1b]0;owned\\x07\\x9b31m")])
        else:
            yield from self.events([("notice", "NOTE")] if question == "old" else [])
            told = f"{len(messages)} messages, seed {settings['seed']}: "
            yield from self.events([("text", told), ("text", question)])
        yield from self.events([("end", "stop")])
    def events(self, pairs):
        return [SimpleNamespace(kind=kind, text=text, forced=False) for kind, text in pairs]

settings = {"temperature": 0.8, "top_k": 50, "top_p": 1.0, "max_tokens": 99, "seed": 7}
talk = chat.Talk(Engine(sys.argv[1]), settings, "toy")
talk.answer_once(sys.argv[2]) if len(sys.argv) > 2 else talk.converse()
"""


class Terminal:
    """A child process on a pseudo-terminal that it controls."""

    def __init__(self, tmp_path, *argv):
        environment = os.environ | {"XDG_STATE_HOME": str(tmp_path), "TERM": "xterm", "COLUMNS": "200"}
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a CI in the background ignores it, and children inherit that
            os.execve(sys.executable, [sys.executable, "-c", CHILD, *argv], environment)
        self.seen = ""
        self.utf8 = codecs.getincrementaldecoder("utf-8")()

    def read_to(self, text, timeout=20):
        """Everything up to and with `text`, which must appear."""
        end = time.monotonic() + timeout
        while text not in self.seen:
            ready, _, _ = select.select([self.fd], [], [], max(0, end - time.monotonic()))
            assert ready, f"{text!r} did not appear; there is {self.seen!r}"
            try:
                self.seen += self.utf8.decode(os.read(self.fd, 4096))
            except OSError:  # the child is gone
                assert text in self.seen, self.seen
        before, self.seen = self.seen.split(text, 1)
        return before + text

    def say(self, text):
        os.write(self.fd, text.encode())

    def ends(self, timeout=10):
        """The exit status, once all output is read."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = None
                return os.waitstatus_to_exitcode(status)
            if select.select([self.fd], [], [], 0.05)[0]:
                try:
                    self.seen += self.utf8.decode(os.read(self.fd, 4096))
                except OSError:
                    time.sleep(0.05)
        raise AssertionError(f"still running; there is {self.seen!r}")


@pytest.fixture
def terminal(tmp_path):
    opened = []

    def start(*argv):
        opened.append(Terminal(tmp_path, *argv))
        return opened[-1]

    yield start
    for t in opened:
        if t.pid:
            os.kill(t.pid, signal.SIGKILL)
            os.waitpid(t.pid, 0)
        os.close(t.fd)


def test_a_conversation(terminal):
    t = terminal("sft")
    assert "toy · sft · 2.5 M parameters" in t.read_to("> ")
    t.say("hello\r")
    t.read_to("1 messages, seed 7: hello")
    t.read_to("> ")
    t.say("again\r")
    t.read_to("3 messages, seed 8: again")
    t.say("/clear\r")
    t.read_to("anew")
    t.say("fresh\r")
    t.read_to("1 messages, seed 9: fresh")
    t.say("/help\r")
    assert "/quit" in t.read_to("Ctrl-D")
    t.say("/frob\r")
    t.read_to("no command /frob")
    t.say("\r  \r/quit\r")
    assert t.ends() == 0


def test_ctrl_c_stops_the_answer_and_then_leaves(terminal):
    t = terminal("sft")
    t.read_to("> ")
    t.say("count\r")
    t.read_to("n3 ")
    t.say("\x03")
    t.read_to("(interrupted)")
    t.read_to("> ")
    t.say("still there?\r")
    t.read_to("3 messages, seed 8: still there?")
    t.read_to("> ")
    t.say("\x03")
    assert t.ends() == 0
    assert "Traceback" not in t.seen


def test_ctrl_d_leaves(terminal):
    t = terminal("sft")
    t.read_to("> ")
    t.say("\x04")
    assert t.ends() == 0


def test_tool_calls_are_blocks(terminal):
    t = terminal("sft")
    t.read_to("> ")
    t.say("sum\r")
    shown = plain(t.read_to("Or not."))
    assert "It is [1+1 → 2]two.[1/0] Or not." in shown


def test_what_the_model_says_cannot_drive_the_terminal(terminal):
    t = terminal("sft")
    t.read_to("> ")
    t.say("evil\r")
    shown = t.read_to("31m")
    assert "[bold]\ufffd]0;owned\ufffd\ufffd31m" in shown
    t.say("old\r")
    t.read_to("NOTE")
    t.say("long\r")
    t.read_to("error: the last message is too long")
    t.say("next\r")
    t.read_to("5 messages")


def test_history_lasts(terminal, tmp_path):
    t = terminal("sft")
    t.read_to("> ")
    t.say("remember me\r")
    t.read_to("7: remember me")
    t.read_to("> ")
    t.say("\x04")
    t.ends()
    history = tmp_path / "pynanochat" / "chat_history"
    assert "remember me" in history.read_text() and history.stat().st_mode & 0o777 == 0o600
    t = terminal("sft")
    t.read_to("> ")
    t.say("\x1b[A\r")
    t.read_to("7: remember me")


def test_a_base_model_says_that_it_continues(terminal):
    t = terminal("pretrain")
    t.read_to("only a base model (stage pretrain)")
    t.read_to("> ")
    t.say("Once upon\r")
    assert "Once upon and so on" in plain(t.read_to("(cut off"))


def plain(text):
    """Without colours."""
    import re

    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def run(*argv, cwd=ROOT, **more):
    return subprocess.run(argv, capture_output=True, text=True, cwd=cwd, timeout=120, **more)


def test_one_answer_into_a_pipe_is_bare():
    assert run(sys.executable, "-c", CHILD, "sft", "sum").stdout == "It is two. Or not.\n"
    result = run(sys.executable, "-c", CHILD, "sft", "old")
    assert (result.stdout, result.stderr) == ("1 messages, seed 7: old\n", "NOTE\n")
    result = run(sys.executable, "-c", CHILD, "pretrain", "Once")
    assert result.stdout == " and so on\n" and "only a base model" in result.stderr


def test_bytes_that_are_no_text():
    result = run(sys.executable, "-c", CHILD, "sft", b"caf\xe9")
    assert result.stdout == "1 messages, seed 7: caf\ufffd\n"


def test_messages_from_a_pipe():
    result = run(sys.executable, "-c", CHILD, "sft", input="one\ntwo\n")
    assert result.stdout.splitlines()[:2] == ["1 messages, seed 7: one", "3 messages, seed 8: two"]
    assert result.returncode == 0


def checkpoint_of(folder, when):
    step = folder / "pretrain" / "checkpoints" / "step_000001"
    step.mkdir(parents=True)
    os.utime(step, (when, when))


def test_the_newest_run_is_taken(tmp_path):
    for name, when in (("old", 1000), ("new", 3000), ("middle", 2000)):
        checkpoint_of(tmp_path / "runs" / name, when)
    (tmp_path / "runs" / "empty").mkdir()
    runs = tmp_path / "runs"
    assert chat.find_run(None, runs) == runs / "new"
    assert chat.find_run("old", runs) == runs / "old"
    assert chat.find_run(str(runs / "middle"), Path("elsewhere")) == runs / "middle"
    with pytest.raises(CheckpointError, match="trained runs in .*: middle, new, old; train it with .*--run toy"):
        chat.find_run("toy", runs)
    with pytest.raises(CheckpointError, match="no trained run in .*pynanochat speedrun"):
        chat.find_run(None, tmp_path)


@pytest.mark.parametrize("argv", [["a", "--run", "b"], ["-p", " "]])
def test_bad_flags(argv, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint_of(tmp_path / "runs" / "toy", 1)
    with pytest.raises(UsageError):
        chat.main(argv)


def test_no_run_is_one_line(tmp_path):
    result = run(sys.executable, "-m", "pynanochat", "chat", "-p", "hi", cwd=tmp_path)
    assert result.returncode == 2 and result.stdout == ""
    assert len(result.stderr.splitlines()) == 1 and "pynanochat speedrun" in result.stderr
