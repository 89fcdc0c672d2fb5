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
from pynanochat.chat import files
from pynanochat.errors import CheckpointError, DataError, UsageError
from tests.chat.emulator import Emulator

ROOT = Path(__file__).parent.parent
PATIENCE = 60
CHILD = """
import signal, sys, time
from types import SimpleNamespace
from pynanochat.chat.talk import Talk
from pynanochat.engine.events import Event
from pynanochat.errors import CheckpointError, UsageError

SAYS = {
    "sum": [("text", "It is "), ("tool_call", "1+1"), ("tool_output", "2"), ("text", "two."), ("tool_call", "1/0"),
            ("text", " Or not.")],
    "evil": [("text", "[bold]\\x1b]0;owned\\x07\\x9b31m"), ("tool_call", "\\x1b[2J\\n9"),
             ("text", "&#27;]0;entity&#7;")],
    "markdown": [("text", piece) for piece in "# Title\\n\\nSome **bo" "ld** words,\\nand <b>these</b>.\\n\\n"
                 "- one\\n- two\\n\\n```python\\nx = 1\\n```\\n[link](http://a.b)"],
    "lines": [("text", f"line {i}  \\n") for i in range(100)],
    "old": [("notice", "NOTE"), ("text", "an answer")],
}

class Engine:
    "Answers with what it was asked, slowly where asked to count; remembers what it was given."
    model = SimpleNamespace(parameters=lambda: [SimpleNamespace(numel=lambda: 2_500_000)])
    tokenizer = SimpleNamespace(bos_id=256, special_id=lambda name: 257, encode=lambda text: list(text.encode()))
    def __init__(self, stage):
        if stage == "rl":
            raise CheckpointError("no checkpoint of stage rl")
        self.stage = stage or sys.argv[1]
    def complete_events(self, text, **settings):
        return self.events([("text", " and so on"), ("end", "length")])
    def chat_events(self, messages, **settings):
        question = messages[-1]["content"]
        if question == "long":
            raise UsageError("the last message is too long")
        if question in ("count", "stuck"):
            return getattr(self, question)()
        told = [f"{len(messages)} messages, seed {settings['seed']}: ", question]
        if question == "settings":
            told = [" ".join(f"{name}={value}" for name, value in settings.items())]
        return self.events([*SAYS.get(question, [("text", text) for text in told]), ("end", "stop")])
    def count(self):
        for i in range(600):
            time.sleep(0.05)
            yield Event("text", f"n{i} ")
    def stuck(self):
        yield Event("text", "wait")
        print("held", flush=True)
        while not signal.getsignal(signal.SIGINT).__self__.pressed:
            time.sleep(0.01)
        print("noticed", flush=True)
        for _ in range(60_000):  # not one long sleep: a signal just before it would be heard only after it
            time.sleep(0.01)
    def events(self, pairs):
        for kind, text in pairs:
            yield Event(kind, text, kind == "tool_output", 17 * (kind == "end"))

settings = {"temperature": 0.8, "top_k": 50, "top_p": 1.0, "min_p": 0.0, "repetition_penalty": 1.0, "max_tokens": 99,
            "seed": 7}
talk = Talk(Engine, settings, "toy")
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

    def read_to(self, text):
        """Everything up to and with `text`, which must appear."""
        end = time.monotonic() + PATIENCE
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

    def ends(self):
        """The exit status, once all output is read."""
        end = time.monotonic() + PATIENCE
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
    time.sleep(0.5)  # readline misses, until the next key, a signal that comes between its prompt and its wait
    t.say("\x03")
    assert t.ends() == 0
    assert "Traceback" not in t.seen


def test_ctrl_d_leaves(terminal):
    t = terminal("sft")
    t.read_to("> ")
    t.say("\x04")
    assert t.ends() == 0


def shown(t, question):
    """What stands on the terminal of the answer to `question`."""
    t.read_to("> ")
    t.say(question + "\r")
    seen = t.read_to("tokens/s")
    terminal = Emulator(200, 24).feed(seen)
    assert not set(terminal.strange) - {"\x1b[?2004l", "\x1b[?2004h"}, seen  # readline's own
    return terminal.text.splitlines()[1:-1]


def test_tool_calls_are_blocks(terminal):
    assert shown(terminal("sft"), "sum") == ["It is", "  │ 1+1 → 2", "two.", "  │ 1/0 (no result)", "Or not."]


def test_markdown_is_shown_as_such(terminal):
    t = terminal("sft")
    lines = shown(t, "markdown")
    assert [line.strip() for line in lines if line] == [
        "Title", "Some bold words,", "and <b>these</b>.", "• one", "• two", "x = 1", "link (http://a.b)",
    ]  # fmt: skip
    assert shown(t, "lines") == [f"line {i}" for i in range(100)]


def test_the_rate_is_told(terminal):
    t = terminal("sft")
    t.read_to("> ")
    t.say("hello\r")
    assert "17 tokens in 0.0 s · " in t.read_to(" tokens/s")


def test_what_the_model_says_cannot_drive_the_terminal(terminal):
    t = terminal("sft")
    lines = shown(t, "evil")
    assert lines == [
        "[bold]\ufffd]0;owned\ufffd\ufffd31m", "  │ \ufffd[2J", "  │ 9 (no result)", "\ufffd]0;entity\ufffd",
    ]  # fmt: skip
    t.say("old\r")
    t.read_to("NOTE")
    t.say("long\r")
    t.read_to("error: the last message is too long")
    t.say("next\r")
    t.read_to("5 messages")


def test_settings(terminal):
    t = terminal("sft")
    for command, told in (
        ("/temperature 0.25", "temperature 0.25"),
        ("/topk 3", "topk 3"),
        ("/topp 0.5", "topp 0.5"),
        ("/minp 0.1", "minp 0.1"),
        ("/penalty 1.3", "penalty 1.3"),
        ("/repetitionpenalty 1.2", "penalty 1.2"),
        ("/maxtokens 12", "maxtokens 12"),
        ("/seed off", "seed off"),
        ("/temperature hot", "error: /temperature hot: use a number"),
        ("/topk 2.5", "error: /topk 2.5: use a whole number"),
        ("/temperature -1", "error: temperature=-1"),
        ("/maxtokens 0", "error: max_tokens=0: use 1 or more"),
        ("/topk", "topk 3"),
        ("/settings", "stage sft"),
    ):
        t.say(command + "\r")
        t.read_to(told)
    assert shown(t, "settings") == [
        "temperature=0.25 top_k=3 top_p=0.5 min_p=0.1 repetition_penalty=1.2 max_tokens=12 seed=None"
    ]


@pytest.mark.parametrize("command", ["/retry", "/regenerate"])
def test_an_answer_is_made_again(command, terminal):
    t = terminal("sft")
    t.say(command + "\r")
    t.read_to("error: there is no message to answer again")
    t.say("hello\r")
    t.read_to("1 messages, seed 7: hello")
    t.say(command + "\r")
    t.read_to("1 messages, seed 8: hello")
    t.say("more\r")
    t.read_to("3 messages, seed 9: more")


def test_another_stage_of_the_run(terminal):
    t = terminal("sft")
    t.say("hello\r")
    t.read_to("7: hello")
    t.say("/stage pretrain\r")
    t.read_to("toy · pretrain · ")
    t.read_to("it continues your text")
    t.say("Once\r")
    assert "Once and so on" in plain(t.read_to("(cut off"))
    t.say("/stage rl\r")
    t.read_to("error: no checkpoint of stage rl")
    t.say("/stage sft\r")
    t.read_to("toy · sft")
    t.say("more\r")
    t.read_to("3 messages, seed 9: more")


def test_a_conversation_in_a_file(terminal, tmp_path):
    t = terminal("sft")
    for name in ("talk.json", "talk.jsonl"):
        t.say("sum\r")
        t.read_to("Or not.")
        t.say(f"/save {tmp_path}/{name}\r")
        t.read_to(f"messages written to {tmp_path}/{name}")
    saved = files.load(tmp_path / "talk.json")
    assert saved[0] == {"role": "user", "content": "sum"} and len(saved) == 2
    assert [part["type"] for part in saved[1]["content"]] == [
        "text",
        "python",
        "python_output",
        "text",
        "python",
        "text",
    ]
    t = terminal("sft")
    t.say(f"/load {tmp_path}/talk.jsonl\r")
    loaded = Emulator(200, 24).feed(t.read_to("4 messages from")).text
    assert "> sum\nIt is\n  │ 1+1 → 2\ntwo.\n" in loaded
    t.say("more\r")
    t.read_to("5 messages, seed 7: more")
    (tmp_path / "asked.json").write_text('[{"role": "user", "content": "well?"}]')
    t.say(f"/load {tmp_path}/asked.json\r")
    t.read_to("/retry answers the last one")
    t.say("/retry\r")
    t.read_to("1 messages, seed 8: well?")
    (tmp_path / "odd.json").write_text('[{"role": "assistant", "content": "me first"}]')
    for command, told in (
        ("/load", "name a file"),
        ("/load nowhere.json", "cannot read nowhere.json"),
        (f"/load {tmp_path}/odd.json", "error: message 0 has role"),
        ("/save", "/save FILE writes"),
        (f"/save {tmp_path}/no/folder.json", "cannot write"),
    ):
        t.say(command + "\r")
        t.read_to(told)
    t.say("more\r")
    t.read_to("3 messages, seed 9: more")


def test_files_that_hold_something_else(tmp_path):
    messages = [{"role": "user", "content": "caf\u00e9"}, {"role": "assistant", "content": "yes"}]
    for name in ("a.json", "a.jsonl"):
        files.save(tmp_path / name, messages[:1])
        files.save(tmp_path / name, messages)
        assert files.load(tmp_path / name) == messages
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 2
    for content in (b"not JSON", b"\xff", b"[]", b'{"messages": 3}', b"7"):
        (tmp_path / "b.json").write_bytes(content)
        with pytest.raises(DataError):
            files.load(tmp_path / "b.json")
        with pytest.raises(DataError):
            files.save(tmp_path / "b.json", messages)
        assert (tmp_path / "b.json").read_bytes() == content


def test_ctrl_c_twice_leaves_the_answer_at_once(terminal):
    t = terminal("sft")
    t.say("stuck\r")
    t.read_to("held")  # inside a step of the engine; before it one Ctrl-C would do
    t.say("\x03")
    t.read_to("noticed")
    t.say("\x03")
    t.read_to("(interrupted)")
    t.say("still there?\r")
    t.read_to("3 messages, seed 8: still there?")


def test_tab_completes_commands(terminal):
    t = terminal("sft")
    t.read_to("> ")
    t.say("/temp\t0.5\r")
    t.read_to("temperature 0.5")


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
    t.read_to("a base model (stage pretrain)")
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
    assert (result.stdout, result.stderr) == ("an answer\n", "NOTE\n")
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
