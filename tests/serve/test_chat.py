"""/v1/chat/completions in OpenAI's shape, over a real socket."""

import json

from tests.serve.fakes import FakeEngine, says

HELLO = {"messages": [{"role": "user", "content": "hi"}]}


async def events_of(served, path, body):
    """The events of a stream; the last is [DONE]."""
    async with served.client.post(served.address + path, json=body) as response:
        text = (await response.read()).decode()
        assert response.status == 200 and response.headers["Content-Type"].startswith("text/event-stream"), text
    parts = text.split("\n\n")
    assert parts[-1] == "" and all(part.startswith("data: ") for part in parts[:-1])
    return [part[6:] if part == "data: [DONE]" else json.loads(part[6:]) for part in parts[:-1]]


async def test_a_whole_answer(serve):
    async with serve(FakeEngine(says("Hello!"))) as served:
        status, answer, headers = await served.post("/v1/chat/completions", HELLO | {"model": "toy:sft"})
        assert status == 200 and headers["X-Request-Id"].startswith("req_")
        assert answer["object"] == "chat.completion" and answer["model"] == "toy:sft"
        [choice] = answer["choices"]
        assert choice["message"] == {"role": "assistant", "content": "Hello!", "refusal": None}
        assert choice["finish_reason"] == "stop" and choice["logprobs"] is None
        assert choice["pynanochat"] == {"events": [{"kind": "text", "text": "Hello!"}]}
        prompt = len(served.engine.requests[0][1].prompt)
        assert answer["usage"] == {"prompt_tokens": prompt, "completion_tokens": 7, "total_tokens": prompt + 7}


async def test_a_stream(serve):
    async with serve(FakeEngine(says("Hello!"))) as served:
        body = HELLO | {"stream": True, "stream_options": {"include_usage": True}}
        *chunks, usage, done = await events_of(served, "/v1/chat/completions", body)
        assert done == "[DONE]"
        assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == "Hello!"
        assert [c["choices"][0]["finish_reason"] for c in chunks] == [None] * (len(chunks) - 1) + ["stop"]
        assert usage["choices"] == [] and usage["usage"]["completion_tokens"] == 7
        assert set(usage["pynanochat"]) == {"context", "dropped_turns", "ttft_ms", "tokens_per_second"}
        assert len({chunk["id"] for chunk in [*chunks, usage]}) == 1
