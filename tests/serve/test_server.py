"""The life of a server: start, drain, stop; signals, addresses, keys."""

import argparse
import asyncio
import json
import os
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

from pynanochat.errors import CheckpointError, UsageError
from pynanochat.serve import commands, server
from pynanochat.serve.app import App, watch_routes
from pynanochat.serve.gate import Access, Gate
from pynanochat.serve.limits import Defaults, Limits
from pynanochat.serve.metrics import Metrics
from pynanochat.serve.server import Server, allow_connections, is_loopback
from tests.serve.fakes import FakeEngine, says

ROOT = Path(__file__).parent.parent.parent
CHAT = {"messages": [{"role": "user", "content": "hi"}], "stream": True}


class Life:
    """A server in its own task, as the command runs it."""

    def __init__(self, engine, folder, **limits):
        self.engine, limits = engine, Limits(**limits)
        self.app = App(engine, folder, limits, Defaults())
        self.server = Server(Gate(self.app.routes, Access(), self.app.metrics), limits, self.app.desk)

    async def __aenter__(self):
        await self.server.listen("127.0.0.1", 0)
        self.task = asyncio.ensure_future(self.server.serve(self.engine.start, self.engine.stop))
        self.client = aiohttp.ClientSession()
        while not self.app.desk.ready:
            await asyncio.sleep(0.01)
        return self

    async def __aexit__(self, *_):
        await self.client.close()
        self.server.stop()
        self.server.stop()
        await self.task

    async def stream(self):
        """A stream of which the first chunk has come."""
        response = await self.client.post(self.server.address + "/v1/chat/completions", json=CHAT)
        await response.content.readany()
        return response

    async def status(self, path):
        async with self.client.get(self.server.address + path) as response:
            return response.status, dict(response.headers)


async def test_a_signal_drains_and_then_stops(tmp_path):
    engine = FakeEngine(says("x" * 50), pace=0.005)
    async with Life(engine, tmp_path) as life:
        response = await life.stream()
        engine.gate.clear()
        os.kill(os.getpid(), signal.SIGTERM)
        while not life.app.desk.draining:
            await asyncio.sleep(0.01)
        status, headers = await life.status("/readyz")
        assert status == 503 and headers["Connection"] == "close"
        assert (await life.status("/livez"))[0] == 200
        async with life.client.post(life.server.address + "/v1/chat/completions", json=CHAT) as refused:
            assert refused.status == 503 and "stopping" in (await refused.json())["error"]["message"]
        engine.gate.set()
        assert (await response.read()).endswith(b"[DONE]\n\n")
        await life.task
        assert not engine.alive and not life.server.listener.open
        with pytest.raises(aiohttp.ClientConnectorError):
            await life.status("/livez")


async def test_what_outlives_the_deadline_is_told(tmp_path):
    engine = FakeEngine(says("x" * 400), pace=0.01)
    async with Life(engine, tmp_path, drain_seconds=0.2) as life:
        response = await life.stream()
        engine.gate.clear()
        life.server.stop()
        text = (await response.read()).decode()
        assert json.loads(text.strip().split("\n\n")[-1][6:])["error"]["type"] == "server_error"
        await life.task
        assert not engine.live


async def test_a_second_signal_stops_at_once(tmp_path):
    engine = FakeEngine(says("x" * 400), pace=0.01)
    async with Life(engine, tmp_path, drain_seconds=1000) as life:
        response = await life.stream()
        os.kill(os.getpid(), signal.SIGINT)
        while not life.app.desk.draining:
            await asyncio.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        await life.task
        assert not engine.live
        response.close()


async def test_an_idle_server_stops_at_once_whoever_is_connected(tmp_path):
    async with Life(FakeEngine(), tmp_path, drain_seconds=1000) as life:
        assert (await life.status("/livez"))[0] == 200  # and stays connected
        _, writer = await asyncio.open_connection("127.0.0.1", int(life.server.address.rpartition(":")[2]))
        life.server.stop()
        await life.task
        writer.close()


async def test_an_engine_that_cannot_start_ends_the_server(tmp_path):
    class Broken(FakeEngine):
        async def start(self):
            raise CheckpointError("no checkpoint here")

    engine = Broken()
    app = App(engine, tmp_path, Limits(), Defaults())
    one = Server(Gate(app.routes, Access(), app.metrics), Limits(), app.desk)
    await one.listen("127.0.0.1", 0)
    with pytest.raises(CheckpointError):
        await one.serve(engine.start, engine.stop)
    assert not one.listener.open


async def test_a_signal_while_the_model_loads(tmp_path):
    engine, begun, cancelled = FakeEngine(), asyncio.Event(), []

    async def load():
        begun.set()
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    app = App(engine, tmp_path, Limits(), Defaults())
    one = Server(Gate(app.routes, Access(), app.metrics), Limits(), app.desk)
    await one.listen("127.0.0.1", 0)
    task = asyncio.ensure_future(one.serve(load, engine.stop))
    await begun.wait()
    one.stop()
    await task
    assert cancelled


async def test_an_address_that_cannot_be_had_is_one_line():
    def idle():
        return Server(Gate({}, Access(), Metrics()), Limits())

    first = idle()
    await first.listen("127.0.0.1", 0)
    taken = int(first.address.rpartition(":")[2])
    for host, port, words in (
        ("127.0.0.1", taken, f"--port {taken}: something on this machine uses it"),
        ("203.0.113.7", 0, "--host 203.0.113.7"),
        ("no such host", 0, "--host no such host"),
        ("127.0.0.1", 70_000, "--port 70000"),
    ):
        with pytest.raises(UsageError) as caught:
            await idle().listen(host, port)
        assert words in str(caught.value) and "\n" not in str(caught.value)
    await first.close()


def test_fewer_connections_where_files_are_few(monkeypatch):
    given = []
    monkeypatch.setattr(server.resource, "setrlimit", lambda what, limit: given.append(limit))
    monkeypatch.setattr(server.resource, "getrlimit", lambda what: (256, 512))
    assert allow_connections(Limits()).connections == 512 - 128 and given == [(512, 512)]
    monkeypatch.setattr(server.resource, "getrlimit", lambda what: (1024, 1 << 20))
    assert allow_connections(Limits()).connections == 1024 and given[-1] == (1152, 1 << 20)
    monkeypatch.setattr(server.resource, "getrlimit", lambda what: (resource.RLIM_INFINITY,) * 2)
    assert allow_connections(Limits()).connections == 1024 and len(given) == 2


def test_loopback_addresses():
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "example.org", "")))


def access(**given):
    flags = {"host": "127.0.0.1", "api_key_file": None, "cors_origin": [], "allow_host": []}
    return commands._access(argparse.Namespace(**flags | given))


def test_a_public_address_needs_a_key(tmp_path, monkeypatch):
    monkeypatch.delenv(commands.KEY_VARIABLE, raising=False)
    assert access().key is None and "localhost" in access().hosts
    with pytest.raises(UsageError, match=r"--host 0\.0\.0\.0.*--api-key-file"):
        access(host="0.0.0.0")
    file = tmp_path / "key"
    file.write_text(" abc\n")
    public = access(host="0.0.0.0", api_key_file=file)
    assert public.key == "abc" and public.hosts is None
    assert access(host="0.0.0.0", api_key_file=file, allow_host=["Chat.example"]).hosts >= {"chat.example", "0.0.0.0"}
    monkeypatch.setenv(commands.KEY_VARIABLE, "from-env")
    assert access(host="0.0.0.0").key == "from-env" and access(api_key_file=file).key == "abc"
    for content in ("", "a\nb"):
        file.write_text(content)
        with pytest.raises(UsageError, match="one line"):
            access(api_key_file=file)
    with pytest.raises(UsageError, match="cannot be read"):
        access(api_key_file=tmp_path / "none")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["serve", "no-such-run"], "no run no-such-run"),
        (["serve", "RUN", "--host", "0.0.0.0"], "--api-key-file"),
        (["serve", "RUN", "--limit-messages", "0"], "--limit-messages 0"),
        (["serve", "RUN", "--limit-stall-seconds", "nan"], "--limit-stall-seconds nan"),
        (["serve", "RUN", "--default-temperature", "3"], "--default-temperature 3.0"),
        (["serve", "RUN", "--port", "99999"], "--port 99999"),
        (["serve", "RUN", "--port", "0"], "tokenizer"),
        (["watch", "no-such-run"], "no run no-such-run"),
    ],
)
def test_bad_flags_are_one_line(argv, words, tmp_path):
    (tmp_path / "run").mkdir()
    argv = [str(tmp_path / "run") if word == "RUN" else word for word in argv]
    environment = {k: v for k, v in os.environ.items() if k != commands.KEY_VARIABLE}
    done = subprocess.run(
        [sys.executable, "-m", "pynanochat", *argv],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert words in done.stderr.strip().splitlines()[-1] and "Traceback" not in done.stderr


def test_watch_serves_until_a_signal(tmp_path):
    folder = tmp_path / "toy"
    (folder / "pretrain").mkdir(parents=True)
    (folder / "pretrain" / "metrics.jsonl").write_text('{"step": 1, "loss": 2.5}\n')
    process = subprocess.Popen(
        [sys.executable, "-m", "pynanochat", "watch", str(folder), "--port", "0"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        line = process.stdout.readline()
        assert line.startswith("toy is at http://127.0.0.1:")
        host, _, port = line.split()[-1].removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port)), timeout=60) as sock:
            sock.sendall(b"GET /watch/data HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            answer = sock.makefile("rb").read()
        data = json.loads(answer.partition(b"\r\n\r\n")[2])
        assert data["stages"][0]["points"] == [{"step": 1, "loss": 2.5}]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert "GET /watch/data 200" in process.stderr.read()
    finally:
        process.kill()
        process.wait()


async def test_watch_has_no_api(tmp_path):
    one = Server(Gate(watch_routes(tmp_path), Access(), Metrics()), Limits())
    await one.listen("127.0.0.1", 0)
    async with aiohttp.ClientSession() as client:
        for path, wanted in (("/livez", 200), ("/watch/data", 200), ("/v1/models", 404), ("/stats", 404)):
            async with client.get(one.address + path) as response:
                assert response.status == wanted, path
    await one.close()
