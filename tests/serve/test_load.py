"""Many at once: streams, idle sockets, clients that leave. Nothing is lost and nothing stays behind."""

import asyncio
import json
import os
import random

import pytest

from tests.serve.fakes import FakeEngine, echo, says
from tests.serve.test_faults import CHAT, connect, until, whole

pytestmark = pytest.mark.slow


def files() -> int:
    """Open descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


async def stream(served, body, note=lambda: None):
    """The text of a stream; `note` is called with each chunk."""
    text = ""
    async with served.client.post(served.address + "/v1/chat/completions", json=body | {"stream": True}) as response:
        assert response.status == 200
        async for line in response.content:
            if line.startswith(b"data: {"):
                text += json.loads(line[6:])["choices"][0]["delta"].get("content", "")
                note()
    return text


async def test_sixty_four_streams_are_all_whole_and_take_turns(serve):
    engine = FakeEngine(echo, context=2000, pace=0.001)
    async with serve(engine) as served:
        order = []
        engine.gate.clear()
        bodies = [{"messages": [{"role": "user", "content": f"{i} " * 50}], "max_tokens": 500} for i in range(64)]
        asked = asyncio.gather(*(stream(served, body, lambda i=i: order.append(i)) for i, body in enumerate(bodies)))
        await until(lambda: len(engine.live) == 64)
        engine.gate.set()
        texts = await asked
        assert texts == [body["messages"][0]["content"] for body in bodies]
        first = order[: len(order) // 4]
        assert all(first.count(i) > 5 for i in range(64))  # nobody waits for others to be done
    assert engine.made == sum(len(text) + 1 for text in texts)


async def test_five_hundred_idle_sockets_hinder_nobody(serve):
    before = files()
    async with serve(limits={"header_seconds": 10.0}) as served:
        idle = [await connect(served) for _ in range(500)]
        await until(lambda: len(served.server.listener.open) >= 500)
        assert await stream(served, CHAT) == "Hello!"
        assert (await served.get("/livez"))[0] == 200
        for _, writer in idle[:100]:
            writer.write(b"POST /v1/chat/completions HTTP/1.1\r\nHost: local")
        await until(lambda: len(served.server.listener.open) <= 1)  # the deadline of headers
        for _, writer in idle:
            writer.close()
    await until(lambda: files() <= before + 3)


async def test_clients_that_leave_at_any_moment_leave_nothing(serve):
    chance = random.Random(0)
    engine = FakeEngine(says("x" * 60), most_rows=8, pace=0.001)

    async def visit(served):
        _, writer = await connect(served)
        body = CHAT | {"stream": chance.random() < 0.7, "n": chance.choice([1, 3])}
        content = whole(body)
        writer.write(content[: chance.choice([20, len(content) - 5, len(content)])])
        await asyncio.sleep(chance.random() * 0.1)
        chance.choice([writer.close, writer.transport.abort, writer.write_eof])()
        await asyncio.sleep(0.01)
        writer.close()

    async with serve(engine) as served:
        await served.get("/livez")
        tasks, descriptors = len(asyncio.all_tasks()), files()
        for _ in range(20):
            await asyncio.gather(*(visit(served) for _ in range(40)))
        await until(lambda: not engine.live and not served.app.desk.visits)
        await until(lambda: len(served.server.listener.open) <= 1)
        await until(lambda: len(asyncio.all_tasks()) <= tasks)
        await until(lambda: files() <= descriptors + 1 and len(served.server.listener._connections) <= 1)
        assert served.app.desk.waiting_tokens == 0
        assert await stream(served, CHAT) == "x" * 60
        assert b'status="500"' not in (await served.get("/metrics"))[1]


async def test_a_crash_under_load_reaches_each_caller_once(serve):
    engine = FakeEngine(says("x" * 200), pace=0.002)
    async with serve(engine) as served:

        async def ask(i):
            async with served.client.post(
                served.address + "/v1/chat/completions", json=CHAT | {"stream": bool(i % 2)}
            ) as r:
                return r.status, await r.text()

        engine.gate.clear()
        asked = [asyncio.ensure_future(ask(i)) for i in range(64)]
        await until(lambda: len(engine.live) == 64)
        engine.gate.set()
        await until(lambda: engine.made > 64)
        engine.crash(alive=True)
        answers = await asyncio.gather(*asked)
        assert all(text.count("engine_error") == 1 for _, text in answers)
        assert {status for status, _ in answers[::2]} == {503}
        assert all(status == 200 for status, _ in await asyncio.gather(*(ask(i) for i in range(8))))
