"""What every request passes: who may ask from where, headers of every answer, errors as JSON, one line of log.

A Gate is the handler of connection.Listener; `routes` maps (method, path) to Route.
"""

import asyncio
import hmac
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import urlsplit

from pynanochat.errors import PynanochatError
from pynanochat.serve.faults import Fault
from pynanochat.serve.wire import send, send_json

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_SECURITY = {
    "Server": "pynanochat",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}
logger = logging.getLogger("pynanochat.serve")


class Route(NamedTuple):
    handler: Callable[..., Awaitable]
    open: bool = False
    """Needs no key: it shows nothing of the run."""
    name: str = ""
    """In the metrics; by default the path."""


@dataclass(frozen=True)
class Access:
    """Who may ask."""

    key: str | None = None
    """Bearer key of every request, but for pages and health."""
    origins: frozenset[str] = frozenset()
    """Other origins whose pages may read answers; {"*"} for all."""
    hosts: frozenset[str] | None = field(default_factory=lambda: frozenset(LOOPBACK))
    """Names that the Host header may have (a web page elsewhere can point its own name at us); None for any."""


class Gate:
    def __init__(self, routes: dict[tuple[str, str], Route], access: Access, metrics):
        self.routes, self.access, self.metrics = routes, access, metrics
        self.paths = {path for _, path in routes}

    async def __call__(self, request):
        started = time.monotonic()
        id = f"req_{secrets.token_hex(8)}"
        request.protocol.begin(_SECURITY | {"X-Request-Id": id})
        route, status = None, 499  # the client went away
        try:
            route = self._route(request)
            response = await self._answer(request, route)
            status = response.status
            return response
        except Fault as fault:
            status = fault.status
            return await self._tell(request, fault)
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception:
            status = 500
            logger.exception("%s: an error of the server itself", id)
            return await self._tell(request, Fault(500, "an error of the server itself; its log says more"))
        finally:
            request.protocol.finish()
            name = (route.name or self._pattern(request)) if route else "none"
            self.metrics.requests.labels(name, status).inc()
            _log(request, id, status, time.monotonic() - started)

    async def _answer(self, request, route):
        if request.method == "OPTIONS":
            return await send(request, b"", "text/plain", 204)
        if not route.open:
            self._check_key(request)
        try:
            return await route.handler(request)
        except PynanochatError as error:
            raise Fault(400, str(error)) from error

    async def _tell(self, request, fault):
        """The answer that is an error, unless one has begun: then the connection is cut, which is an error too."""
        if request.writer.output_size > 0:
            raise ConnectionResetError("the answer had begun")
        return await send_json(request, fault.body(), fault.status, fault.headers)

    def _route(self, request) -> Route | None:
        """Checks the Host and the Origin, and finds the route. Raises Fault."""
        self._check_host(request)
        self._check_origin(request)
        path, method = self._pattern(request), "GET" if request.method == "HEAD" else request.method
        if route := self.routes.get((method, path)):
            return route
        if path not in self.paths:
            raise Fault(404, "there is nothing at this path; see /v1/models", code="not_found")
        if method == "OPTIONS":
            return None
        allowed = ", ".join(m for m, p in self.routes if p == path)
        raise Fault(405, f"{method[:20]} is not allowed here; use {allowed}", headers={"Allow": allowed})

    def _pattern(self, request) -> str:
        """The path as `routes` has it."""
        path = request.rel_url.path
        return "/ui/*" if path.startswith("/ui/") else path

    def _check_host(self, request):
        host = request.headers.get("Host")
        if self.access.hosts is None or host is None:  # browsers always send one
            return
        name = host_name(host)
        if name not in self.access.hosts:
            raise Fault(403, f"Host {name[:60]!r} is not this server's; use localhost, or start it with --allow-host")

    def _check_origin(self, request):
        """Pages of other sites may neither read answers nor have anything done, unless --cors-origin names them."""
        origin = request.headers.get("Origin")
        if origin is None:
            return
        allowed = self.access.origins
        if origin in allowed or "*" in allowed:
            request.protocol.headers |= {
                "Access-Control-Allow-Origin": origin if "*" not in allowed else "*",
                "Access-Control-Allow-Methods": "GET, POST, OPTIONS",
                "Access-Control-Allow-Headers": "authorization, content-type",
                "Access-Control-Expose-Headers": "x-request-id, retry-after",
                "Access-Control-Max-Age": "600",
                "Cross-Origin-Resource-Policy": "cross-origin",
                "Vary": "Origin",
            }
        elif urlsplit(origin).netloc.lower() != request.headers.get("Host", "").lower():
            raise Fault(403, f"pages of {origin[:60]!r} may not ask; start the server with --cors-origin for them")

    def _check_key(self, request):
        if self.access.key is None:
            return
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(key.strip().encode(), self.access.key.encode()):
            raise Fault(
                401,
                "the API key is missing or wrong; send the header Authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )


def host_name(host: str) -> str:
    """The name in a Host header, without its port."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower()


def _log(request, id, status, seconds):
    """One line: nothing of what was asked or answered, no query, no key."""
    path = request.rel_url.raw_path[:120]
    facts = [f"{name}={value}" for name, value in request.protocol.facts.items()]
    logger.info("%s %s %s %.0fms %s", request.method, path, status, 1000 * seconds, " ".join([id, *facts]))
