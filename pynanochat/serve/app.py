"""The routes of both servers: `serve` (chat page, API, health) and `watch` (the training page alone)."""

import asyncio
import dataclasses
import time
from pathlib import Path

from pynanochat import __version__
from pynanochat.errors import PynanochatError
from pynanochat.serve.answers import Answers
from pynanochat.serve.desk import Desk
from pynanochat.serve.faults import Fault
from pynanochat.serve.gate import Route
from pynanochat.serve.limits import Defaults, Limits
from pynanochat.serve.metrics import Metrics
from pynanochat.serve.models import Models
from pynanochat.serve.pages import Pages
from pynanochat.serve.watch import Watch
from pynanochat.serve.wire import send, send_json

STATS_SECONDS = 3.0
READY_SECONDS = 0.5  # a health check is not kept waiting for an engine that is busy


def page_routes(pages: Pages, folder: Path, front: str) -> dict:
    """The static files, with page `front` at /, and the training page with its data."""
    watch = Watch(folder)
    reading = asyncio.Lock()

    def page(name):
        return Route(lambda request: pages.page(request, name), open=True)

    async def file(request):
        return await pages.page(request, request.rel_url.path.removeprefix("/ui/"))

    async def data(request):
        async with reading:
            value = await asyncio.to_thread(watch.data)
        return await send_json(request, value)

    return {
        ("GET", "/"): page(front),
        ("GET", "/ui/*"): Route(file, open=True, name="/ui"),
        ("GET", "/watch"): page("watch.html"),
        ("GET", "/watch/data"): Route(data),
    }


def watch_routes(folder: Path, pages: Pages | None = None) -> dict:
    """Of `pynanochat watch`."""

    async def live(request):
        return await send_json(request, {"status": "ok"})

    return page_routes(pages or Pages(), folder, "watch.html") | {("GET", "/livez"): Route(live, open=True)}


class App:
    """Of `pynanochat serve`: the engine and all that is asked about it."""

    def __init__(self, engine, folder: Path, limits: Limits, defaults: Defaults, pages: Pages | None = None):
        self.engine, self.folder, self.limits, self.defaults = engine, folder, limits, defaults
        self.metrics = Metrics()
        self.models = Models(engine, folder.name)
        self.desk = Desk(engine, limits, self.metrics)
        self.started = time.time()
        answers = Answers(self.desk, self.models, defaults)
        self.routes = page_routes(pages or Pages(), folder, "index.html") | {
            ("POST", "/v1/chat/completions"): Route(answers.chat),
            ("POST", "/v1/completions"): Route(answers.complete),
            ("POST", "/chat/completions"): Route(answers.family),
            ("GET", "/v1/models"): Route(self.list_models),
            ("GET", "/stats"): Route(self.stats),
            ("GET", "/metrics"): Route(self.prometheus),
            ("GET", "/livez"): Route(self.live, open=True),
            ("GET", "/readyz"): Route(self.ready, open=True),
            ("GET", "/health"): Route(self.health, open=True),
        }

    async def list_models(self, request):
        if not self.desk.ready:
            self.desk.check()
        return await send_json(request, {"object": "list", "data": self.models.list()})

    async def stats(self, request):
        facts = {
            "run": self.folder.name,
            "version": __version__,
            "uptime_seconds": round(time.time() - self.started, 1),
            "limits": dataclasses.asdict(self.limits),
            "defaults": dataclasses.asdict(self.defaults),
            "engine": await self._engine_stats(),
            "requests": self.desk.facts(),
        }
        return await send_json(request, facts)

    async def prometheus(self, request):
        self.metrics.active.set(len(self.desk.visits))
        self.metrics.waiting.set(self.desk.waiting)
        self.metrics.connections.set(len(request.protocol.listener.open))
        body, kind = self.metrics.render(request.headers.get("Accept", ""), await self._engine_stats())
        return await send(request, body, kind, headers={"Cache-Control": "no-store"})

    async def live(self, request):
        return await send_json(request, {"status": "ok"})

    async def ready(self, request):
        """200 where a request sent now would be taken in."""
        self.desk.check()
        if not await self._alive():
            raise Fault(503, "the engine is starting again; try again later", headers={"Retry-After": "2"})
        return await send_json(request, {"status": "ready"})

    async def health(self, request):
        """In the family's shape."""
        ready = self.desk.ready and not self.desk.draining
        alive = ready and await self._alive()
        free = int(alive and not self.desk.waiting)
        return await send_json(request, {"status": "ok", "ready": alive, "num_gpus": 1, "available_workers": free})

    async def _alive(self) -> bool:
        """Whether the engine's process runs; too busy to answer is alive."""
        try:
            return bool((await asyncio.wait_for(self.engine.stats(), READY_SECONDS))["alive"])
        except asyncio.TimeoutError:
            return True

    async def _engine_stats(self) -> dict:
        """Empty where the engine does not answer."""
        if not self.desk.ready:
            return {}
        try:
            return await asyncio.wait_for(self.engine.stats(), STATS_SECONDS)
        except (asyncio.TimeoutError, PynanochatError):
            return {}
