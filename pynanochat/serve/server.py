"""The life of a server: bind, start the engine, serve, drain, stop.

    await Server(gate, limits).run("127.0.0.1", 8000)

SIGTERM or SIGINT: /readyz and new requests get 503, answers under way have drain_seconds to end, then all is stopped. A
second signal stops at once.
"""

import asyncio
import contextlib
import dataclasses
import errno
import ipaddress
import logging
import resource
import signal
from collections.abc import Awaitable, Callable

from pynanochat.errors import UsageError
from pynanochat.serve.connection import Listener
from pynanochat.serve.limits import Limits

logger = logging.getLogger("pynanochat.serve")
SPARE_FILES = 128  # descriptors for all that is not a connection
LAST_WORDS_SECONDS = 1.0
Act = Callable[[], Awaitable[None]]


async def nothing() -> None:
    """Where there is no engine."""


class Server:
    """`gate` answers requests. `desk` (None: there is no engine) tells what is under way."""

    def __init__(self, gate, limits: Limits, desk=None):
        self.gate, self.limits, self.desk = gate, limits, desk
        self.listener: Listener | None = None
        self.address = ""
        self._server: asyncio.Server | None = None
        self._told, self._told_again = asyncio.Event(), asyncio.Event()

    async def listen(self, host: str, port: int) -> None:
        """Bind; port 0 takes a free one. Raises UsageError for an address that cannot be had."""
        if not 0 <= port <= 65_535:
            raise UsageError(f"--port {port}: ports go from 0 to 65,535; use another")
        loop = asyncio.get_running_loop()
        self.listener = Listener(self.gate, self.limits, logger)
        try:
            self._server = await loop.create_server(self.listener, host, port, backlog=1024)
        except OSError as error:
            raise UsageError(_why_not(host, port, error)) from None
        name, port = self._server.sockets[0].getsockname()[:2]
        self.address = f"http://{f'[{name}]' if ':' in name else name}:{port}"

    def stop(self) -> None:
        """Begin to drain; called again, stop at once."""
        (self._told_again if self._told.is_set() else self._told).set()

    async def serve(self, start: Act = nothing, stop: Act = nothing) -> None:
        """Serve until stopped.

        `start` makes the engine ready meanwhile, and what it raises ends the server; `stop` ends the engine, so that
        answers still under way end with an error that their readers are told of.
        """
        loop = asyncio.get_running_loop()
        signals = [signal.SIGTERM, signal.SIGINT]
        for number in signals:
            loop.add_signal_handler(number, self.stop)
        starting = asyncio.ensure_future(self._start(start))
        told = asyncio.ensure_future(self._told.wait())
        try:
            await asyncio.wait([starting, told], return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                await told
            await self._drain()
        finally:
            for task in (starting, told):
                task.cancel()
            await asyncio.gather(starting, told, return_exceptions=True)
            await stop()
            await self.close()
            for number in signals:
                loop.remove_signal_handler(number)

    async def _start(self, start):
        await start()
        if self.desk is not None:
            self.desk.ready = True

    async def _drain(self):
        """Wait for what is under way: until it has ended, the deadline, or the second signal."""
        self.listener.close_idle()
        if self.desk is None:
            return
        self.desk.draining = True
        under_way = len(self.desk.visits)
        if under_way:
            logger.info("stopping: %d answers have %g s to end", under_way, self.limits.drain_seconds)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._idle_or_told(), self.limits.drain_seconds)

    async def _idle_or_told(self):
        while self.desk.visits and not self._told_again.is_set():
            await asyncio.sleep(0.05)

    async def close(self) -> None:
        """Stop listening and end what is left."""
        if self._server is not None:
            self._server.close()
        if self.listener is not None:
            self.listener.pre_shutdown()
            await self.listener.shutdown(LAST_WORDS_SECONDS if not self._told_again.is_set() else 0.05)


def allow_connections(limits: Limits) -> Limits:
    """Raise this process's limit of open files to what the connections need; or allow fewer of them."""
    wanted = limits.connections + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return limits
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    if soft >= wanted:
        return limits
    fewer = max(1, soft - SPARE_FILES)
    logger.warning("%d connections at most: this process may open %d files; raise it by ulimit -n", fewer, soft)
    return dataclasses.replace(limits, connections=fewer)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _why_not(host, port, error) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"--port {port}: something on this machine uses it already; use another port, such as {port + 1}"
    if error.errno == errno.EACCES:
        return f"--port {port}: ports below 1024 are not for everyone; use one above"
    return f"--host {host}: cannot be bound ({error.strerror or error}); use 127.0.0.1, or an address of this machine"
