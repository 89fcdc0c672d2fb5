"""Sockets: their number, the deadlines of headers, and readers that do not read.

A Listener makes a Connection for each socket. A connection is idle until `begin` and again after `finish`; while idle
it may be dropped to make room, and a request that began to arrive must have all its headers within header_seconds.
"""

import asyncio
import contextlib
import json
import socket

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from pynanochat.serve.faults import Fault
from pynanochat.serve.limits import Limits

WRITE_BUFFER = 16 * 1024  # bytes kept for a slow reader in this process
SEND_BUFFER = 64 * 1024  # and in the kernel, which doubles it
LINGER_SECONDS = 2.0  # for the rest of a body that nobody wants


class Listener(web.Server):
    """Makes connections that call `handler` with each request; the factory for loop.create_server."""

    def __init__(self, handler, limits: Limits, logger):
        super().__init__(
            handler,
            handler_cancellation=True,
            access_log=None,
            logger=logger,
            keepalive_timeout=86_400,  # ours comes first, and cuts off what is unsent as well
            lingering_time=LINGER_SECONDS,
            auto_decompress=False,
        )
        self.limits = limits
        self.open: set[Connection] = set()
        self.idle: dict[Connection, None] = {}  # oldest first

    def __call__(self):
        return Connection(self, loop=self._loop, **self._kwargs)

    def make_room(self) -> bool:
        """Whether one more connection fits, the one idle for longest dropped for it if need be."""
        if len(self.open) < self.limits.connections:
            return True
        for connection in self.idle:
            connection.drop()
            return True
        return False

    def close_idle(self) -> None:
        for connection in list(self.idle):
            connection.drop()


class Connection(RequestHandler):
    """`headers` and `facts` belong to the request that is being answered: what every answer to it carries, and what the
    log says of it."""

    __slots__ = ("_behind", "_reading", "_timer", "facts", "headers", "limits", "listener")

    def __init__(self, listener: Listener, **options):
        super().__init__(listener, **options)
        self.listener, self.limits = listener, listener.limits
        self._timer: asyncio.TimerHandle | None = None
        self._reading = self._behind = False
        self.headers: dict[str, str] = {}
        self.facts: dict[str, object] = {}

    def connection_made(self, transport) -> None:
        if not self.listener.make_room():
            fault = Fault(503, f"{self.limits.connections} connections are open, the most there may be; try again")
            transport.write(plain(fault))
            transport.close()
            return
        transport.set_write_buffer_limits(high=WRITE_BUFFER)
        with contextlib.suppress(OSError):
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self.listener.open.add(self)
        self.listener.idle[self] = None
        self._wait(self.limits.header_seconds, self.drop)
        super().connection_made(transport)

    def connection_lost(self, exc) -> None:
        self._wait(None)
        self.listener.open.discard(self)
        self.listener.idle.pop(self, None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self in self.listener.idle and not self._reading and data:
            self._reading = True
            self._wait(self.limits.header_seconds, self._late)
        super().data_received(data)

    def eof_received(self) -> None:
        """A client that closes its half has gone: what it asked for is given up, whatever is still unsent."""
        if self.transport is not None and self not in self.listener.idle:
            self.transport.abort()

    def begin(self, headers: dict[str, str]) -> None:
        """A request is here, all of its headers read."""
        self.headers, self.facts = headers, {}
        self._reading = False
        self.listener.idle.pop(self, None)
        self._wait(None)

    def finish(self) -> None:
        """The request is answered."""
        if self in self.listener.open:
            self.listener.idle[self] = None
            self._wait(self.limits.idle_seconds, self.drop)

    def pause_writing(self) -> None:
        self._behind = True
        super().pause_writing()

    def resume_writing(self) -> None:
        self._behind = False
        super().resume_writing()

    async def drained(self) -> None:
        """Wait while the reader is behind. Raises ConnectionResetError where it stalls or has gone."""
        transport = self.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the reader has gone")
        if not self._behind:
            return
        try:
            await asyncio.wait_for(self._drain_helper(), self.limits.stall_seconds)
        except asyncio.TimeoutError:
            transport.abort()
            raise ConnectionResetError("the reader stalled") from None

    def drop(self) -> None:
        """Close at once, unsent bytes and all."""
        self.listener.idle.pop(self, None)
        self.listener.open.discard(self)
        if self.transport is not None:
            self.transport.abort()

    def _late(self):
        """The headers did not come in time."""
        if self.transport is not None and not self.transport.is_closing():
            seconds = f"{self.limits.header_seconds:g}"
            self.transport.write(plain(Fault(408, f"the headers took longer than {seconds} s; send them faster")))
            self.transport.close()
            self._wait(LINGER_SECONDS, self.drop)

    def _wait(self, seconds, then=None):
        """Have `then` called in `seconds` instead of what was to be called before."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, then) if then else None

    def handle_error(self, request, status=500, exc=None, message=None):
        """What aiohttp could not read as HTTP; or a handler that failed, whose answer may have begun."""
        if request.writer.output_size > 0:
            raise ConnectionResetError("the answer had begun")
        fault = Fault(status, "this is no request in HTTP/1.1 that can be read; check what was sent")
        response = web.Response(status=status, body=json.dumps(fault.body()).encode(), content_type="application/json")
        response.headers["Server"] = "pynanochat"
        response.force_close()
        return response


def plain(fault: Fault) -> bytes:
    """A whole answer for a socket without a request."""
    body = json.dumps(fault.body()).encode()
    phrase = {408: "Request Timeout", 503: "Service Unavailable"}[fault.status]
    head = (
        f"HTTP/1.1 {fault.status} {phrase}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        "Retry-After: 5\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
