"""What goes wrong at sockets and in the engine: each has its answer, and nothing is left behind (conftest.serving)."""

import asyncio
import json
import logging
import socket
import time

import pytest

from pynanochat.serve import connection
from tests.serve.fakes import FakeEngine, says

CHAT = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4096}


def head(path="/v1/chat/completions", length=0, *lines):
    """The bytes of a request's head."""
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json", *lines]
    return "\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode()


def whole(body, path="/v1/chat/completions"):
    content = json.dumps(body).encode()
    return head(path, len(content)) + content


@pytest.fixture(autouse=True)
def short_linger(monkeypatch):
    monkeypatch.setattr(connection, "LINGER_SECONDS", 0.1)


async def connect(served, buffer=None):
    """A raw connection; `buffer`: bytes of the receiving side's socket buffer."""
    sock = socket.socket()
    if buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", served.port))
    return await asyncio.open_connection(sock=sock, limit=1 << 12)


async def rest(reader):
    """All that comes until the server closes."""
    try:
        return await reader.read()
    except ConnectionResetError:
        return b""


async def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came true"
        await asyncio.sleep(0.01)


async def full(served):
    """A connection with a stream in it that nobody reads, once the engine stands still for it."""
    reader, writer = await connect(served, buffer=4096)
    writer.write(whole(CHAT | {"stream": True}))
    engine, before, still = served.engine, 0, 0
    while still < 10:  # a socket may take a little more now and then
        await asyncio.sleep(0.05)
        still = still + 1 if engine.made == before > 100 else 0
        before = engine.made
    return reader, writer


def error_of(answer: bytes) -> dict:
    return json.loads(answer.partition(b"\r\n\r\n")[2])["error"]


# --- bodies and headers


async def test_a_body_that_is_too_large_is_refused_before_it_is_read(serve):
    async with serve(limits={"body_bytes": 1000}) as served:
        reader, writer = await connect(served)
        writer.write(head("/v1/completions", 1001) + b"x")
        answer = await rest(reader)
        assert answer.startswith(b"HTTP/1.1 413") and "1,000" in error_of(answer)["message"]
        writer.close()


async def test_a_chunked_body_is_counted_as_it_comes(serve):
    async with serve(limits={"body_bytes": 1000}) as served:

        async def forever():
            while True:
                yield b"x" * 400

        headers = {"Content-Type": "application/json"}
        async with served.client.post(served.address + "/v1/completions", data=forever(), headers=headers) as response:
            assert response.status == 413


async def test_a_client_that_expects_100_continue_is_told_before_it_sends(serve):
    async with serve(limits={"body_bytes": 1000}) as served:
        for length, words in ((500, b"HTTP/1.1 100 Continue\r\n\r\n"), (5000, b"HTTP/1.1 413")):
            reader, writer = await connect(served)
            writer.write(head("/v1/completions", length, "Expect: 100-continue"))
            assert (await reader.readexactly(len(words))) == words
            writer.close()


@pytest.mark.parametrize(
    ("lines", "status"),
    [(["Content-Type: text/plain"], 415), (["Content-Type: application/json", "Content-Encoding: gzip"], 415)],
)
async def test_only_plain_json_is_read(serve, lines, status):
    async with serve() as served:
        reader, writer = await connect(served)
        writer.write(
            "\r\n".join(
                ["POST /v1/completions HTTP/1.1", "Host: localhost", *lines, "Content-Length: 2", "", "{}"]
            ).encode()
        )
        assert (await reader.readline()).split()[1] == str(status).encode()
        writer.close()


async def test_slow_headers_have_a_deadline(serve):
    async with serve(limits={"header_seconds": 0.3}) as served:
        reader, writer = await connect(served)
        writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        line = asyncio.ensure_future(reader.readline())
        while not line.done():  # a byte now and then does not help
            writer.write(b"x")
            await asyncio.sleep(0.005)
        assert (await line).startswith(b"HTTP/1.1 408") and "0.3 s" in error_of(await rest(reader))["message"]
        writer.close()


async def test_slow_headers_of_a_second_request_too(serve):
    async with serve(limits={"header_seconds": 0.3}) as served:
        reader, writer = await connect(served)
        writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
        writer.write(b"GET /livez HTT")
        assert (await rest(reader)).startswith(b"HTTP/1.1 408")
        writer.close()


async def test_a_connection_that_says_nothing_is_closed(serve):
    async with serve(limits={"header_seconds": 0.2, "idle_seconds": 0.3}) as served:
        reader, writer = await connect(served)
        assert await rest(reader) == b""
        writer.close()
        reader, writer = await connect(served)
        writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await rest(reader)).endswith(b'{"status": "ok"}')  # and then closed, when idle for too long
        writer.close()
        await until(lambda: not served.server.listener.open)


async def test_a_slow_body_has_a_deadline(serve):
    async with serve(limits={"body_seconds": 0.3}) as served:
        reader, writer = await connect(served)
        writer.write(head(length=100) + b'{"messages"')
        answer = await rest(reader)
        assert answer.startswith(b"HTTP/1.1 408") and "0.3 s" in error_of(answer)["message"]
        writer.close()


async def test_a_body_that_breaks_off_leaves_nothing(serve):
    async with serve() as served:
        _, writer = await connect(served)
        writer.write(head(length=100) + b'{"messages"')
        await until(lambda: served.server.listener.open)
        writer.close()
        await until(lambda: not served.server.listener.open)
        assert not served.engine.requests


@pytest.mark.parametrize(
    "raw",
    [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\r\n\r\nnonsense\r\n\r\n"],
)
async def test_what_is_not_http_is_a_bad_request(serve, raw):
    async with serve() as served:
        reader, writer = await connect(served)
        writer.write(raw)
        answer = await rest(reader)
        assert (
            answer.startswith((b"HTTP/1.0 400", b"HTTP/1.1 400"))
            and error_of(answer)["type"] == "invalid_request_error"
        )
        writer.close()


async def test_endless_headers_are_refused(serve):
    async with serve() as served:
        reader, writer = await connect(served)
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 50_000)
        assert b" 400 " in (await rest(reader)).split(b"\r\n")[0]
        writer.close()


# --- connections


async def test_the_connection_idle_longest_makes_room(serve):
    engine = FakeEngine()
    engine.gate.clear()
    async with serve(engine, limits={"connections": 3}) as served:
        busy = await connect(served)
        busy[1].write(whole(CHAT | {"stream": True}))
        await until(lambda: engine.live)
        old, new = await connect(served), await connect(served)
        await until(lambda: len(served.server.listener.open) == 3)
        third = await connect(served)
        assert await rest(old[0]) == b""
        third[1].write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert (await third[0].readline()).startswith(b"HTTP/1.1 200")
        engine.gate.set()
        assert (await busy[0].readuntil(b"[DONE]")).startswith(b"HTTP/1.1 200")
        for _, writer in (busy, old, new, third):
            writer.close()


async def test_where_all_connections_are_busy_a_new_one_is_told(serve):
    engine = FakeEngine()
    engine.gate.clear()
    async with serve(engine, limits={"connections": 2}) as served:
        busy = [await connect(served) for _ in range(2)]
        for _, writer in busy:
            writer.write(whole(CHAT))
        await until(lambda: len(engine.live) == 2)
        reader, writer = await connect(served)
        answer = await rest(reader)
        assert (
            answer.startswith(b"HTTP/1.1 503")
            and b"Retry-After" in answer
            and error_of(answer)["type"] == "server_error"
        )
        engine.gate.set()
        for one, _ in busy:
            assert (await one.readline()).startswith(b"HTTP/1.1 200")
        for _, one in busy:
            one.close()
        writer.close()


# --- readers


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_leaves_is_cancelled_at_once(serve, stream):
    engine = FakeEngine(says("x" * 400))
    async with serve(engine) as served:
        engine.gate.clear()
        _, writer = await connect(served)
        writer.write(whole(CHAT | {"stream": stream}))
        await until(lambda: engine.live)
        writer.close()
        await until(lambda: not engine.live)  # though the engine makes no step
        assert engine.made == 0


async def test_a_client_that_leaves_in_the_middle_is_cancelled_within_a_step(serve, caplog):
    caplog.set_level(logging.INFO, "pynanochat.serve")
    engine = FakeEngine(says("x" * 400), pace=0.005)
    async with serve(engine) as served:
        reader, writer = await connect(served)
        writer.write(whole(CHAT | {"stream": True}))
        await reader.readuntil(b'"content":"x"')
        engine.gate.clear()
        writer.close()
        await until(lambda: not engine.live)
        made = engine.made
        engine.gate.set()
        await until(lambda: caplog.records)
        assert engine.made == made < 400
        [line] = [record.getMessage() for record in caplog.records]
        assert " 499 " in line and line.endswith(f" made={made}")


async def test_a_client_that_closes_its_half_has_left(serve):
    engine = FakeEngine(says("x" * 400), pace=0.005)
    async with serve(engine) as served:
        reader, writer = await connect(served)
        writer.write(whole(CHAT | {"stream": True}))
        await reader.readuntil(b'"content":"x"')
        writer.write_eof()
        await until(lambda: not engine.live)
        assert engine.made < 400 and b"[DONE]" not in await rest(reader)
        writer.close()


async def test_a_reader_that_stalls_and_closes_its_half_has_left_too(serve):
    engine = FakeEngine(says("x" * 4000), context=5000)
    async with serve(engine, limits={"stall_seconds": 1000}) as served:
        _, writer = await full(served)
        writer.write_eof()
        await until(lambda: not engine.live)  # long before stall_seconds
        writer.close()


async def test_a_client_that_waits_in_the_queue_may_leave_it(serve):
    engine = FakeEngine(most_rows=1)
    engine.gate.clear()
    async with serve(engine) as served:
        clients = [await connect(served) for _ in range(3)]
        for i, (_, writer) in enumerate(clients):
            writer.write(whole(CHAT))
            await until(lambda i=i: len(engine.live) == i + 1)
        clients[1][1].close()
        await until(lambda: len(engine.live) == 2)
        assert served.app.desk.waiting == 2
        engine.gate.set()
        for i in (0, 2):
            assert (await clients[i][0].readline()).startswith(b"HTTP/1.1 200")
            clients[i][1].close()


async def test_a_slow_reader_is_paused_and_not_buffered(serve):
    engine = FakeEngine(says("x" * 4000), context=5000)
    async with serve(engine) as served:
        reader, writer = await full(served)
        made = engine.made
        assert 100 < made < 2000
        [slow] = served.server.listener.open
        assert slow.transport.get_write_buffer_size() < 40_000
        status, _, _ = await served.get("/livez")
        assert status == 200 and engine.made == made  # nobody else minds
        text = await _until_done(reader)
        assert text.count(b'"content":"x"') == 4000
        writer.close()


async def _until_done(reader):
    text = b""
    while b"[DONE]" not in text[-200:]:
        text += await reader.read(1 << 16)
    return text


async def test_a_reader_that_stalls_is_cut(serve):
    engine = FakeEngine(says("x" * 4000), context=5000)
    async with serve(engine, limits={"stall_seconds": 0.3}) as served:
        _, writer = await connect(served, buffer=4096)
        writer.write(whole(CHAT | {"stream": True}))
        await until(lambda: engine.requests)
        await until(lambda: not engine.live and not served.server.listener.open)
        assert 100 < engine.made < 2000
        writer.close()


async def test_a_reader_of_a_whole_answer_may_stall_as_little(serve):
    engine = FakeEngine(says("x" * 3_000), context=40_000)
    async with serve(engine, limits={"stall_seconds": 0.3}) as served:
        _, writer = await connect(served, buffer=4096)
        writer.write(whole(CHAT | {"logprobs": True, "top_logprobs": 20}))
        await until(lambda: engine.made == 3_001)
        await until(lambda: not served.server.listener.open)
        writer.close()


async def test_pipelined_requests_are_answered_in_order(serve):
    async with serve() as served:
        reader, writer = await connect(served)
        writer.write(whole(CHAT) + whole(CHAT | {"stream": True}) + b"GET /livez HTTP/1.1\r\nHost: x.localhost\r\n\r\n")
        text = await reader.readuntil(b"HTTP/1.1 403")
        assert text.count(b"HTTP/1.1 200") == 2 and text.index(b"chat.completion") < text.index(b"[DONE]")
        writer.close()


async def test_http_1_0_has_no_chunks(serve):
    async with serve(FakeEngine(says("Hi"))) as served:
        reader, writer = await connect(served)
        writer.write(whole(CHAT | {"stream": True}).replace(b"HTTP/1.1", b"HTTP/1.0"))
        text = await rest(reader)
        assert text.endswith(b"\n\ndata: [DONE]\n\n") and b"chunked" not in text.lower()
        writer.close()


# --- the engine


async def test_a_crash_is_one_error_to_each_caller(serve):
    engine = FakeEngine(says("x" * 400), pace=0.005)
    async with serve(engine) as served:
        reader, writer = await connect(served)
        writer.write(whole(CHAT | {"stream": True}))
        await reader.readuntil(b'"content":"x"')
        plain = asyncio.ensure_future(served.post("/v1/chat/completions", CHAT))
        await until(lambda: len(engine.live) == 2)
        engine.crash()
        text = await reader.readuntil(b"0\r\n\r\n")  # the stream ends as HTTP wants it
        event = json.loads(text[text.rindex(b"data: ") + 6 :].split(b"\n\n")[0])
        assert event["error"]["code"] == "engine_error" and event["error"]["type"] == "server_error"
        status, answer, headers = await plain
        assert status == 503 and answer["error"]["code"] == "engine_error" and headers["Retry-After"]
        assert (await served.get("/readyz"))[0] == 503 and (await served.get("/livez"))[0] == 200
        engine.alive = True
        assert (await served.get("/readyz"))[0] == 200
        assert (await served.post("/v1/chat/completions", CHAT | {"max_tokens": 5}))[0] == 200
        writer.close()


async def test_an_engine_that_ends_without_a_last_token_is_an_error(serve):
    engine = FakeEngine(lambda stage, request: [[]])
    async with serve(engine) as served:
        assert (await served.post("/v1/chat/completions", CHAT))[0] == 503
        assert (await served.post("/v1/completions", {"prompt": "x"}))[0] == 503


async def test_an_error_of_the_server_itself_says_nothing_of_its_inside(serve, caplog):
    def broken(stage, request):
        raise ZeroDivisionError("secret")

    async with serve(FakeEngine(broken)) as served:
        status, answer, _ = await served.post("/v1/chat/completions", CHAT)
        assert status == 500 and "secret" not in json.dumps(answer)
        assert "ZeroDivisionError" in caplog.text


async def test_a_full_queue_is_429_with_a_time_to_retry(serve):
    engine = FakeEngine(most_rows=1)
    engine.gate.clear()
    async with serve(engine, limits={"queue_requests": 3}) as served:
        tasks = [asyncio.ensure_future(served.post("/v1/chat/completions", CHAT)) for _ in range(3)]
        await until(lambda: len(engine.live) == 3)
        status, answer, headers = await served.post("/v1/chat/completions", CHAT)
        assert status == 429 and 1 <= int(headers["Retry-After"]) <= 60
        assert answer["error"]["type"] == "rate_limit_error" and "the most are 3" in answer["error"]["message"]
        assert b'rejected_total{reason="queue_requests"} 1.0' in (await served.get("/metrics"))[1]
        engine.gate.set()
        assert [status for status, _, _ in await asyncio.gather(*tasks)] == [200] * 3
        assert (await served.post("/v1/chat/completions", CHAT))[0] == 200


async def test_tokens_that_wait_are_limited_too(serve):
    engine = FakeEngine()
    engine.gate.clear()
    async with serve(engine, limits={"queue_tokens": 1500}) as served:
        task = asyncio.ensure_future(served.post("/v1/chat/completions", CHAT))
        await until(lambda: engine.live)
        status, answer, _ = await served.post("/v1/completions", {"prompt": "x", "max_tokens": 200, "n": 8})
        assert status == 429 and "1,500" in answer["error"]["message"]
        assert (await asyncio.wait([asyncio.ensure_future(served.get("/stats"))]))[0]
        engine.gate.set()
        assert (await task)[0] == 200
        assert served.app.desk.waiting_tokens == 0


async def test_one_large_request_is_taken_in_where_nobody_waits(serve):
    async with serve(limits={"queue_tokens": 100, "queue_requests": 1}) as served:
        status, answer, _ = await served.post("/v1/completions", {"prompt": ["a", "b"], "max_tokens": 400})
        assert status == 200 and len(answer["choices"]) == 2
