"""A whole server on a FakeEngine and a free port of the loopback, in the test's own event loop."""

import asyncio
import contextlib
import functools
import inspect
import time

import aiohttp
import pytest

from pynanochat.serve.app import App
from pynanochat.serve.gate import Access, Gate
from pynanochat.serve.limits import Defaults, Limits
from pynanochat.serve.pages import Pages
from pynanochat.serve.server import Server
from tests.serve.browser import chromium, new_page, page, site, site_of_module  # noqa: F401
from tests.serve.fakes import FakeEngine

SECONDS = 120  # a test that waits longer hangs


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """A test that is a coroutine function runs in an event loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    asyncio.run(asyncio.wait_for(pyfuncitem.obj(**arguments), SECONDS))
    return True


class Served:
    """A running server and a client of it."""

    def __init__(self, engine, app, server, client):
        self.engine, self.app, self.server, self.client = engine, app, server, client
        self.address = server.address
        self.port = int(server.address.rpartition(":")[2])

    async def post(self, path, body, **more):
        """(status, JSON, headers) of a whole answer."""
        async with self.client.post(self.address + path, json=body, **more) as response:
            return response.status, await response.json(), response.headers

    async def get(self, path, **more):
        """(status, bytes, headers)."""
        async with self.client.get(self.address + path, **more) as response:
            return response.status, await response.read(), response.headers

    async def idle(self):
        """Wait until nothing is left in the engine or at the desk."""
        end = time.monotonic() + SECONDS / 2
        while self.engine.live or self.app.desk.visits:
            left = f"left behind: {len(self.engine.live)} requests, {len(self.app.desk.visits)} visits"
            assert time.monotonic() < end, left
            await asyncio.sleep(0.01)
        assert self.app.desk.waiting_tokens == 0


@contextlib.asynccontextmanager
async def serving(tmp_path, engine=None, *, limits=None, access=None, ready=True, ui=None):
    """A Served; when the block ends, nothing may be left in the engine."""
    engine = engine or FakeEngine()
    limits = Limits(**(limits or {}))
    folder = tmp_path / "toy"
    app = App(engine, folder, limits, Defaults(), Pages(ui) if ui else None)
    server = Server(Gate(app.routes, access or Access(), app.metrics), limits, app.desk)
    await server.listen("127.0.0.1", 0)
    if ready:
        await engine.start()
        app.desk.ready = True
    async with aiohttp.ClientSession() as client:
        served = Served(engine, app, server, client)
        try:
            yield served
            await served.idle()
        finally:
            server.stop()
            server.stop()
            await server.close()


@pytest.fixture
def serve(tmp_path):
    return functools.partial(serving, tmp_path)
