"""The engine's process with scripted schedulers: what it passes on, and what goes wrong."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pynanochat.engine import process as process_module
from pynanochat.engine.process import EngineProcess
from pynanochat.engine.requests import Request, Token
from pynanochat.engine.sampling import Sampling
from pynanochat.engine.wire import plain_request, request_of
from pynanochat.engine.worker import CREDIT
from pynanochat.errors import CheckpointError, EngineError, UsageError
from pynanochat.tokenizer import Tokenizer
from tests.engine.fake_worker import CORRUPT, COUNT, CRASH, DIVERGE, HANG, PACE, REFUSE
from tests.engine.playing import PATIENCE, ids, played

pytestmark = pytest.mark.usefixtures("patient_owner")


class Fake(EngineProcess):
    command = (sys.executable, "-m", "tests.engine.fake_worker")

    @property
    def pid(self):
        return self._life.process.pid


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    Tokenizer.train(["Anna lives in a red house. " * 50], vocab_size=300).save(folder / "tokenizer")
    return folder


async def until(condition):
    """Wait for what must become true: an async function's answer."""
    while not await condition():
        await asyncio.sleep(0.01)


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_request_survives_the_wire():
    requests = [
        Request((1, 2, 3)),
        Request((5,), 3, 9, Sampling(0.5, 3, 0.9, 0.1, 1.2), 2**70, frozenset({4, 5}), False, 5, True),
        Request((5,), stop_tokens=frozenset()),
    ]
    for request in requests:
        assert request_of(plain_request(request)) == request


def test_tokens_come_as_they_were_made(run_folder):
    async def scene(engine):
        assert list(engine.stages) == ["pretrain", "midtrain", "sft"] and engine.default_stage == "sft"
        assert engine.stages["sft"].context == 96 and engine.stages["sft"].loaded
        assert not engine.stages["pretrain"].loaded
        tokens = [t async for some in engine.generate("sft", Request((COUNT,), samples=2, max_tokens=3)) for t in some]
        top = lambda at: ((at, -0.5), (7, -1.25))  # noqa: E731
        assert [t for t in tokens if t.row == 1] == [
            Token(1, at, False, "length" if at == 2 else "", -0.5, top(at)) for at in range(3)
        ]
        assert len(tokens) == 6
        many = [engine.generate("sft", Request((COUNT,), max_tokens=n)) for n in range(1, 40)]
        assert await asyncio.gather(*map(ids, many)) == [list(range(n)) for n in range(1, 40)]
        await engine.check()
        stats = await engine.stats()
        assert stats["alive"] and stats["restarts"] == 0 and stats["made_tokens"] == 6 + sum(range(40))

    played(scene, run_folder, Fake)


def test_a_stage_is_loaded_at_its_first_request_and_holds_nobody_up(run_folder, tmp_path):
    (tmp_path / "tokenizer").symlink_to(run_folder / "tokenizer")
    (tmp_path / "slow").touch()

    async def scene(engine):
        request = Request((COUNT,), max_tokens=5)
        first = [asyncio.create_task(ids(engine.generate("pretrain", request))) for _ in range(2)]
        await asyncio.sleep(0)
        assert await ids(engine.generate("sft", request)) == list(range(5))
        assert not engine.stages["pretrain"].loaded
        (tmp_path / "slow").unlink()
        assert await asyncio.gather(*first) == [list(range(5))] * 2 and engine.stages["pretrain"].loaded
        given_up = engine.generate("pretrain", Request((COUNT,)))
        assert (await anext(given_up))[0].id == 0
        await given_up.aclose()
        for _ in range(2):
            with pytest.raises(EngineError, match="midtrain is damaged"):
                await ids(engine.generate("midtrain", Request((COUNT,))))
        with pytest.raises(UsageError, match="no stage rl: this run has pretrain, midtrain, sft"):
            await ids(engine.generate("rl", Request((COUNT,))))

    played(scene, tmp_path, Fake)


def test_a_request_that_cannot_be_met(run_folder):
    async def scene(engine):
        with pytest.raises(UsageError, match="refused"):
            await ids(engine.generate("sft", Request((REFUSE,))))
        assert (await engine.stats())["restarts"] == 0

    played(scene, run_folder, Fake)


def test_who_does_not_read_is_held_and_others_are_not(run_folder):
    async def scene(engine):
        slow = engine.generate("sft", Request((COUNT,), max_tokens=5000))
        got = [token.id for token in await anext(slow)]

        async def held():
            return (await engine.stats())["held"] == 1

        await until(held)
        steps = (await engine.stats())["steps"]
        await asyncio.sleep(0.2)
        assert (await engine.stats())["steps"] == steps <= CREDIT + 1  # idle, not spinning
        assert await ids(engine.generate("sft", Request((COUNT,), max_tokens=2000))) == list(range(2000))
        [stream] = engine._life.streams.values()
        assert len(stream._waiting) <= CREDIT
        got += await ids(slow)
        assert got == list(range(5000))

    played(scene, run_folder, Fake)


@pytest.mark.parametrize("how", ["aclose", "cancel", "held"])
def test_leaving_ends_the_request_in_the_engine(how, run_folder):
    async def scene(engine):
        async def running():
            return (await engine.stats())["running"]

        stream = engine.generate("sft", Request((COUNT if how == "held" else PACE,), max_tokens=10**6))
        if how == "cancel":
            task = asyncio.create_task(ids(stream))
            await until(running)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        else:
            await anext(stream)
            assert await running() == 1
            if how == "held":
                while not (await engine.stats())["held"]:
                    await asyncio.sleep(0.01)
            await stream.aclose()
        assert await running() == 0  # the question comes behind the cancellation
        assert not engine._life.streams

    played(scene, run_folder, Fake)


def test_a_row_that_nobody_reads_ends_in_the_engine_and_the_others_go_on(run_folder):
    async def scene(engine):
        ended, rows = set(), {0: [], 1: [], 2: []}
        async for tokens in engine.generate("sft", Request((COUNT,), samples=3, max_tokens=1000), ended):
            for token in tokens:
                rows[token.row].append(token.id)
            ended.add(1)
        assert rows[0] == rows[2] == list(range(1000))
        assert rows[1] == list(range(len(rows[1]))) and len(rows[1]) <= 2 * CREDIT
        ended = set()
        async for _ in engine.generate("sft", Request((COUNT,), samples=2, max_tokens=10**6), ended):
            ended |= {0, 1}
        stats = await engine.stats()
        assert not stats["running"] and not engine._life.streams

    played(scene, run_folder, Fake)


def kill(engine):
    os.kill(engine.pid, signal.SIGKILL)


@pytest.mark.parametrize("how", ["kill -9", "exception"])
def test_a_crash_is_one_error_to_each_caller_and_a_restart(how, run_folder):
    async def scene(engine):
        first = engine.pid
        others = [engine.generate("sft", Request((PACE,), max_tokens=10**6)) for _ in range(3)]
        for other in others:
            await anext(other)
        waiting = [asyncio.create_task(ids(other)) for other in others]
        question = None
        if how == "kill -9":
            question = asyncio.create_task(engine._life.ask("stats"))
            kill(engine)
        else:
            with pytest.raises(EngineError, match="ended with status 1"):
                await ids(engine.generate("sft", Request((CRASH,))))
        errors = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(error) for error in errors] == [EngineError] * 3
        assert "send the request again" in str(errors[0])
        if question:
            await asyncio.wait([question])
        assert not (await engine.stats())["alive"] or engine.pid != first
        assert await ids(engine.generate("sft", Request((COUNT,), max_tokens=9))) == list(range(9))
        stats = await engine.stats()
        assert stats["alive"] and stats["restarts"] == 1 and engine.pid != first and not is_alive(first)

    played(scene, run_folder, Fake)


def test_it_is_started_again_and_again_with_pauses(run_folder):
    async def scene(engine):
        for _ in range(2):
            kill(engine)
            with contextlib.suppress(EngineError):  # whether or not the end was seen before the request
                await ids(engine.generate("sft", Request((COUNT,), max_tokens=2)))
            assert await ids(engine.generate("sft", Request((COUNT,), max_tokens=3))) == [0, 1, 2]
        assert engine.restarts == 2

    played(scene, run_folder, Fake)


def test_while_it_cannot_start_requests_get_an_error(run_folder, tmp_path):
    (tmp_path / "tokenizer").symlink_to(run_folder / "tokenizer")

    async def scene(engine):
        (tmp_path / "broken").touch()
        kill(engine)
        await until(lambda: asyncio.sleep(0, engine._life is None))
        with pytest.raises(EngineError, match="cannot start: the run is broken"):
            await ids(engine.generate("sft", Request((COUNT,))))
        assert not (await engine.stats())["alive"]
        with pytest.raises(EngineError):
            await engine.check()
        (tmp_path / "broken").unlink()
        assert await ids(engine.generate("sft", Request((COUNT,), max_tokens=3))) == [0, 1, 2]

    played(scene, tmp_path, Fake)


def test_a_model_that_diverges_fails_its_own_requests_only(run_folder):
    async def scene(engine):
        other = engine.generate("pretrain", Request((PACE,), max_tokens=400))
        got = [token.id for token in await anext(other)]
        with pytest.raises(EngineError, match="diverged"):
            await ids(engine.generate("sft", Request((DIVERGE,))))
        assert got + await ids(other) == list(range(400))
        assert await ids(engine.generate("sft", Request((COUNT,), max_tokens=3))) == [0, 1, 2]
        assert (await engine.stats())["restarts"] == 0 and engine.stages["sft"].loaded

    played(scene, run_folder, Fake)


def test_integrity_is_asked_for_in_the_process(run_folder):
    async def scene(engine):
        await engine.check()
        await ids(engine.generate("sft", Request((CORRUPT,), max_tokens=1)))
        with pytest.raises(EngineError, match="sft: a page is used twice"):
            await engine.check()

    played(scene, run_folder, Fake)


def test_a_process_that_is_stuck_is_killed_at_stop(run_folder, monkeypatch):
    monkeypatch.setattr(process_module, "STOP_SECONDS", 0.3)
    monkeypatch.setattr(process_module, "ANSWER_SECONDS", 0.1)

    async def scene(engine):
        stuck = asyncio.create_task(ids(engine.generate("sft", Request((HANG,)))))
        while not engine._life.streams:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        assert (await engine.stats())["alive"]  # the last numbers there were
        pid = engine.pid
        os.kill(pid, signal.SIGSTOP)
        await engine.stop()
        with pytest.raises(EngineError, match="stopped"):
            await stuck
        assert not is_alive(pid)
        with pytest.raises(EngineError, match="stopped"):
            await ids(engine.generate("sft", Request((COUNT,))))

    played(scene, run_folder, Fake)


def test_signals_are_the_owners(run_folder):
    async def scene(engine):
        os.kill(engine.pid, signal.SIGINT)
        os.kill(engine.pid, signal.SIGTERM)
        assert await ids(engine.generate("sft", Request((COUNT,), max_tokens=3))) == [0, 1, 2]
        assert engine.restarts == 0 and os.getpgid(engine.pid) != os.getpgid(0)

    played(scene, run_folder, Fake)


@pytest.mark.parametrize(
    ("file", "kind", "words"), [("broken", CheckpointError, "broken"), ("dead", EngineError, "status 3")]
)
def test_a_run_that_cannot_be_served(file, kind, words, run_folder, tmp_path):
    (tmp_path / "tokenizer").symlink_to(run_folder / "tokenizer")
    (tmp_path / file).touch()
    with pytest.raises(kind, match=words):
        played(None, tmp_path, Fake)


OWNER = """
import asyncio, sys
from pathlib import Path
from pynanochat.engine.process import EngineProcess
from pynanochat.engine.requests import Request, Token
from tests.engine.fake_worker import PACE

async def main():
    EngineProcess.command = (sys.executable, "-m", "tests.engine.fake_worker")
    engine = EngineProcess(Path(sys.argv[1]))
    await engine.start()
    async for _ in engine.generate("sft", Request((PACE,), max_tokens=10**6)):
        if engine is not None:
            print(engine._life.process.pid, "torch" in sys.modules, flush=True)
            engine = None

asyncio.run(main())
"""


def test_it_does_not_outlive_its_owner_and_its_owner_needs_no_torch(run_folder):
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(run_folder)], stdout=subprocess.PIPE, text=True)
    pid, torch_there = owner.stdout.readline().split()
    assert torch_there == "False" and is_alive(pid)
    owner.kill()
    owner.communicate()
    end = time.monotonic() + PATIENCE
    while is_alive(pid) and time.monotonic() < end:
        time.sleep(0.02)
    assert not is_alive(pid)
