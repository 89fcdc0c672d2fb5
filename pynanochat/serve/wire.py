"""Bodies in, answers out: within their limits and deadlines, whatever the peer does."""

import asyncio
import json

from aiohttp import web
from aiohttp.web_protocol import RequestPayloadError

from pynanochat.serve.faults import Fault, bad
from pynanochat.serve.limits import Limits

BLOCK = 16 * 1024
JSON = "application/json"


async def read_json(request: web.BaseRequest, limits: Limits):
    """The JSON value of the body. Raises Fault: 400, 408, 413, 415."""
    if request.content_type != JSON:
        kind = request.headers.get("Content-Type", "none")[:60]
        raise Fault(415, f"Content-Type is {kind}; send the body as JSON with Content-Type: {JSON}")
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Fault(415, "the body is compressed; send it without Content-Encoding")
    if (request.content_length or 0) > limits.body_bytes:
        raise _too_large(request.content_length, limits)
    if request.headers.get("Expect", "").lower() == "100-continue":
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    try:
        body = await asyncio.wait_for(_read(request, limits), limits.body_seconds)
    except asyncio.TimeoutError:
        raise Fault(408, f"the body took longer than {limits.body_seconds:g} s; send it faster") from None
    except RequestPayloadError:
        raise bad(None, "the body ended early or is not chunked as it says; send it whole") from None
    try:
        return json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise bad(None, f"the body is not JSON ({str(error)[:80] or 'nested too deeply'}); mend it") from None


async def _read(request, limits) -> bytes:
    blocks, size = [], 0
    async for block in request.content.iter_any():
        size += len(block)
        if size > limits.body_bytes:
            raise _too_large(size, limits)
        blocks.append(block)
    return b"".join(blocks)


def _too_large(size, limits):
    return Fault(413, f"the body has {size:,} bytes or more; the most are {limits.body_bytes:,}: send less")


def _no_constant(name):
    raise ValueError(f"{name} is no JSON number")


async def send(request, body: bytes, content_type: str, status: int = 200, headers=None) -> web.StreamResponse:
    """A whole answer. Raises ConnectionError where the reader stalls or has gone."""
    response = web.StreamResponse(status=status, headers={**request.protocol.headers, **(headers or {})})
    response.headers["Content-Type"] = content_type
    response.content_length = len(body)
    if status >= 500 or not request.content.is_eof():
        response.force_close()
    await response.prepare(request)
    if request.method != "HEAD":
        for start in range(0, len(body), BLOCK):
            await response.write(body[start : start + BLOCK])
            await request.protocol.drained()
    await response.write_eof()
    return response


async def send_json(request, value, status: int = 200, headers=None) -> web.StreamResponse:
    headers = {"Cache-Control": "no-store"} | (headers or {})
    return await send(request, json.dumps(value).encode(), JSON, status, headers)


class EventStream:
    """Server-sent events. The status line goes out with the first of them, so that an error before it has its own."""

    def __init__(self, request):
        self.request = request
        self.response: web.StreamResponse | None = None

    async def send(self, value) -> None:
        """One event: a JSON value, or a str as it stands. Waits for a reader that is behind."""
        if self.response is None:
            headers = self.request.protocol.headers | {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
            self.response = web.StreamResponse(headers=headers)
            self.response.headers["Content-Type"] = "text/event-stream; charset=utf-8"
            await self.response.prepare(self.request)
        text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
        await self.response.write(f"data: {text}\n\n".encode())
        await self.request.protocol.drained()

    async def end(self) -> web.StreamResponse:
        await self.response.write_eof()
        return self.response
