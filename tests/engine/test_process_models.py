"""The engine's process with real models: it says what the engine says in one process, and loses no page."""

import asyncio
import itertools
import os
import shutil
import signal

import pytest

from pynanochat.engine import Engine
from pynanochat.engine.process import EngineProcess
from pynanochat.engine.requests import Request
from pynanochat.engine.sampling import Sampling
from pynanochat.engine.worker import loader, models_of
from pynanochat.errors import CheckpointError, EngineError, UsageError
from pynanochat.tokenizer import Tokenizer
from tests.engine.fakes import save_run, small_model
from tests.engine.playing import ids, played

pytestmark = pytest.mark.usefixtures("patient_owner")


@pytest.fixture(scope="module")
def real_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("work") / "run"
    tokenizer = Tokenizer.train(["Anna lives in a red house by the sea. " * 50], vocab_size=300)
    save_run(folder, tokenizer, ["pretrain", "sft"])
    return folder


PROMPTS = [(*range(n, 2 * n), 7) for n in range(1, 9)]
KINDS = [Sampling(0), Sampling(1.0, 0), Sampling(min_p=0.1, repetition_penalty=1.3)]


def said_here(run_folder):
    """What the engine of this process says: ids by (stage, prompt, sampling)."""
    said = {}
    for stage in ("pretrain", "sft"):
        engine = Engine.load(run_folder, stage)
        for prompt, sampling in itertools.product(PROMPTS, KINDS):
            tokens = engine.generate(list(prompt), **vars(sampling), max_tokens=30, stop_tokens=(), seed=5)
            said[stage, prompt, sampling] = [token.id for token in tokens]
    return said


def test_it_says_what_the_engine_says_in_one_process(real_run):
    expected = said_here(real_run)

    async def scene(engine):
        info = engine.stages["sft"]
        assert (info.context, info.vocab_size, info.step) == (96, len(engine.tokenizer), 10) and info.loaded
        assert info.parameters == sum(p.numel() for p in small_model(vocab_size=info.vocab_size).parameters())
        streams = [engine.generate(stage, Request(p, 1, 30, s, 5, frozenset())) for stage, p, s in expected]
        assert await asyncio.gather(*map(ids, streams)) == list(expected.values())
        stats = await engine.stats()
        assert stats["made_tokens"] == 30 * len(expected) and not stats["running"] and not stats["pages_used"]
        await scored(engine)
        for request, words in ((Request((1,) * 96), "context is 96"), (Request((300,)), "300"), (Request(()), "empty")):
            with pytest.raises(UsageError, match=words):
                await ids(engine.generate("sft", request))
        await engine.check()

    async def scored(engine):
        request = Request((1, 2, 3), 3, 8, Sampling(0), 0, frozenset(), False, 2, True)
        tokens = [token async for some in engine.generate("sft", request) for token in some]
        echoed = [token for token in tokens if token.row == -1]
        assert [token.id for token in echoed] == [1, 2, 3] and echoed[0].logprob is None and echoed[1].logprob < 0
        for row in range(3):
            own = [token for token in tokens if token.row == row]
            assert len(own) == 8 and own[-1].finish == "length"
            assert all(token.top[0] == (token.id, token.logprob) and len(token.top) == 2 for token in own)

    played(scene, real_run, EngineProcess)


def test_no_page_is_lost(real_run):
    prompt = tuple(range(40))

    async def all_is_back(engine, alone):
        assert await ids(engine.generate("sft", Request(prompt, max_tokens=20, sampling=Sampling(0)))) == alone
        await engine.check()
        stats = await engine.stats()
        assert not stats["running"] and not stats["queued"] and not stats["pages_used"]

    async def scene(engine):
        alone = await ids(engine.generate("sft", Request(prompt, max_tokens=20, sampling=Sampling(0))))
        for how in ("leave", "kill -9"):
            streams = [engine.generate("sft", Request((*prompt, n), 2, 50, seed=n)) for n in range(20)]
            await asyncio.gather(*map(anext, streams))
            if how == "leave":
                await asyncio.gather(*(stream.aclose() for stream in streams))
            else:
                os.kill(engine._life.process.pid, signal.SIGKILL)
                errors = await asyncio.gather(*map(ids, streams), return_exceptions=True)
                assert {type(error) for error in errors} == {EngineError}
            await all_is_back(engine, alone)
        assert engine.restarts == 1

    played(scene, real_run, EngineProcess)


def test_a_stage_that_has_diverged(tmp_path, real_run):
    shutil.copytree(real_run, tmp_path, dirs_exist_ok=True)
    save_run(tmp_path, Tokenizer.load(real_run / "tokenizer"), ["pretrain"], softcap=float("nan"))

    async def scene(engine):
        request = Request((1, 2), max_tokens=90, stop_tokens=frozenset())
        other = asyncio.create_task(ids(engine.generate("sft", request)))
        for _ in range(2):
            with pytest.raises(EngineError, match="diverged"):
                await ids(engine.generate("pretrain", Request((1, 2))))
        assert len(await other) == 90 and engine.restarts == 0

    played(scene, tmp_path, EngineProcess)


def test_a_run_without_a_checkpoint_or_a_device(tmp_path, real_run):
    with pytest.raises(CheckpointError, match="no checkpoint of any stage"):
        models_of(tmp_path)
    with pytest.raises(UsageError, match="--device abacus"):
        loader(real_run, device="abacus", dtype="auto", cache_tokens=None, most_rows=64)
    shutil.copytree(real_run, tmp_path, dirs_exist_ok=True)
    (tmp_path / "sft/checkpoints/step_000010/state.json").write_text("{}")
    with pytest.raises(CheckpointError, match="no readable state.json"):
        models_of(tmp_path)
