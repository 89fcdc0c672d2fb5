"""Who may ask: keys, origins, host names; what every answer carries; what the log says."""

import logging

import pytest

from pynanochat.serve.gate import Access, host_name

CHAT = {"messages": [{"role": "user", "content": "a secret question"}]}


async def test_every_answer_has_the_security_headers(serve):
    async with serve() as served:
        for path in ("/livez", "/nothing", "/v1/models", "/stats", "/metrics"):
            _, _, headers = await served.get(path)
            assert headers["X-Content-Type-Options"] == "nosniff" and headers["X-Frame-Options"] == "DENY"
            assert headers["Content-Security-Policy"].startswith("default-src 'none'")
            assert headers["Referrer-Policy"] == "no-referrer" and headers["X-Request-Id"].startswith("req_")
            assert "aiohttp" not in headers["Server"] and "Access-Control-Allow-Origin" not in headers


async def test_paths_and_methods(serve):
    async with serve() as served:
        status, answer, _ = await served.post("/v1/nothing", {})
        assert status == 404 and answer["error"]["type"] == "invalid_request_error"
        async with served.client.get(served.address + "/v1/chat/completions") as response:
            assert response.status == 405 and response.headers["Allow"] == "POST"
        async with served.client.head(served.address + "/livez") as response:
            assert response.status == 200 and response.headers["Content-Length"] == "16"
            assert await response.read() == b""
        async with served.client.request("PUT", served.address + "/livez") as response:
            assert response.status == 405


async def test_a_key_opens_everything_but_pages_and_health(serve):
    async with serve(access=Access(key="s3cret-\u00e9")) as served:
        for headers in (
            {},
            {"Authorization": "Bearer wrong"},
            {"Authorization": "Basic s3cret-\u00e9"},
            {"Authorization": "Bearer "},
        ):
            status, answer, back = await served.post("/v1/chat/completions", CHAT, headers=headers)
            assert (
                status == 401 and answer["error"]["code"] == "invalid_api_key" and back["WWW-Authenticate"] == "Bearer"
            )
            for path in ("/v1/models", "/stats", "/metrics", "/watch/data"):
                assert (await served.get(path, headers=headers))[0] == 401
            for path in ("/livez", "/readyz", "/health"):
                assert (await served.get(path, headers=headers))[0] == 200
        assert not served.engine.requests
        status, _, _ = await served.post(
            "/v1/chat/completions", CHAT, headers={"Authorization": "bearer s3cret-\u00e9"}
        )
        assert status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "", "[::1", "localhost.", "10.0.0.1"]
)
async def test_another_host_name_is_refused(serve, host):
    async with serve() as served:
        status, body, _ = await served.get("/livez", headers={"Host": host})
        assert status == 403 and b"--allow-host" in body
        assert (await served.post("/v1/chat/completions", CHAT, headers={"Host": host}))[0] == 403
        assert not served.engine.requests


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]", "[::1]:8000"])
async def test_the_loopback_has_these_names(serve, host):
    async with serve() as served:
        assert (await served.get("/livez", headers={"Host": host}))[0] == 200


def test_names_of_hosts():
    assert [host_name(h) for h in ("a:1", "A", "[::1]:5", "[::1]", "a:b")] == ["a", "a", "[::1]", "[::1]", "a:b"]


async def test_pages_of_other_origins_may_not_ask(serve):
    async with serve() as served:
        own = {"Origin": served.address}
        assert (await served.post("/v1/chat/completions", CHAT, headers=own))[0] == 200
        for origin in ("http://evil.example", "null", "http://localhost:1", "file://"):
            status, answer, headers = await served.post("/v1/chat/completions", CHAT, headers={"Origin": origin})
            assert status == 403 and "--cors-origin" in answer["error"]["message"], origin
            assert "Access-Control-Allow-Origin" not in headers
        async with served.client.options(
            served.address + "/v1/models", headers={"Origin": "http://evil.example"}
        ) as response:
            assert response.status == 403
        assert len(served.engine.requests) == 1


async def test_an_origin_that_is_named_may(serve):
    origin = "https://friend.example"
    async with serve(access=Access(key="k", origins=frozenset([origin]))) as served:
        asks = {
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization",
        }
        async with served.client.options(served.address + "/v1/chat/completions", headers=asks) as response:
            assert response.status == 204 and response.headers["Access-Control-Allow-Origin"] == origin
            assert (
                "authorization" in response.headers["Access-Control-Allow-Headers"]
                and response.headers["Vary"] == "Origin"
            )
        headers = {"Origin": origin, "Authorization": "Bearer k"}
        status, _, back = await served.post("/v1/chat/completions", CHAT, headers=headers)
        assert status == 200 and back["Access-Control-Allow-Origin"] == origin
        status, _, back = await served.post("/v1/chat/completions", CHAT, headers={"Origin": origin})
        assert status == 401 and back["Access-Control-Allow-Origin"] == origin  # so that the page can read why
        assert (await served.post("/v1/chat/completions", CHAT, headers={"Origin": "https://x.example"}))[0] == 403


async def test_the_log_has_one_line_a_request_and_no_secrets(serve, caplog):
    caplog.set_level(logging.INFO, "pynanochat.serve")
    async with serve(access=Access(key="s3cret")) as served:
        headers = {"Authorization": "Bearer s3cret"}
        await served.post("/v1/chat/completions?api_key=hidden", CHAT, headers=headers)
        await served.get("/nothing%0d%0aforged%20line?token=hidden", headers=headers)
        await served.post("/v1/completions", {"prompt": 5, "a secret": "question"}, headers=headers)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 3
    assert lines[0].startswith("POST /v1/chat/completions 200 ") and lines[0].endswith(" prompt=21 made=7")
    assert lines[1].startswith("GET /nothing%0D%0Aforged%20line 404 ")
    assert not any(
        secret in line for line in lines for secret in ("s3cret", "secret question", "hidden", "\n", "a secret")
    )


async def test_metrics_count_what_happened(serve):
    async with serve() as served:
        await served.post("/v1/chat/completions", CHAT)
        await served.post("/v1/chat/completions", {})
        await served.get("/some/random/path")
        _, body, headers = await served.get("/metrics")
        text = body.decode()
        assert headers["Content-Type"].startswith("text/plain")
        for line in (
            'pynanochat_requests_total{endpoint="/v1/chat/completions",status="200"} 1.0',
            'pynanochat_requests_total{endpoint="/v1/chat/completions",status="400"} 1.0',
            'pynanochat_requests_total{endpoint="none",status="404"} 1.0',
            "pynanochat_generated_tokens_total 7.0",
            "pynanochat_prompt_tokens_total 21.0",
            "pynanochat_time_to_first_token_seconds_count 1.0",
            "pynanochat_inter_token_seconds_count 6.0",
            "pynanochat_active_requests 0.0",
            "pynanochat_engine_pages 100.0",
            "pynanochat_engine_prefix_hit_tokens 0.0",
            "pynanochat_engine_alive 1.0",
        ):
            assert line in text.splitlines(), line
        assert "random" not in text
        _, _, headers = await served.get("/metrics", headers={"Accept": "application/openmetrics-text;version=1.0.0"})
        assert headers["Content-Type"].startswith("application/openmetrics-text")


async def test_stats_and_health(serve):
    async with serve() as served:
        async with served.client.get(served.address + "/stats") as response:
            stats = await response.json()
        assert stats["run"] == "toy" and stats["limits"]["messages"] == 500 and stats["defaults"]["max_tokens"] == 512
        assert stats["engine"]["alive"] and stats["requests"]["active"] == 0
        async with served.client.get(served.address + "/health") as response:
            health = await response.json()
        assert health == {"status": "ok", "ready": True, "num_gpus": 1, "available_workers": 1}


async def test_before_the_model_is_loaded(serve):
    async with serve(ready=False) as served:
        assert (await served.get("/livez"))[0] == 200
        for path in ("/readyz", "/v1/models"):
            status, body, headers = await served.get(path)
            assert status == 503 and headers["Retry-After"] and b"loading" in body
        assert (await served.post("/v1/chat/completions", CHAT))[0] == 503
        assert (await served.get("/stats"))[0] == 200 and b'"ready": false' in (await served.get("/health"))[1]
