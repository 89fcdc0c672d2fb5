"""What a body may hold: every field has a range, and an error that names it."""

import pytest

from tests.serve.fakes import FakeEngine, says

USER = {"role": "user", "content": "hi"}
ASSISTANT = {"role": "assistant", "content": "ho"}

BAD_CHAT = [
    ({"messages": []}, "messages", "one message"),
    ({"messages": "hi"}, "messages", "list"),
    ({"messages": None}, "messages", "list"),
    ({"messages": [USER] * 501}, "messages", "the most are 500"),
    ({"messages": ["hi"]}, "messages[0]", "object"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "system, user or assistant"),
    ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role", "system, user or assistant"),
    ({"messages": [{"role": "user"}]}, "messages[0].content", "string"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "5"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0]", "text"),
    ({"messages": [{"role": "user", "content": [{"type": "python", "text": "1"}]}]}, "messages[0].content[0]", "text"),
    ({"messages": [{"role": "user", "content": "x" * 8001}]}, "messages[0].content", "8,000"),
    ({"messages": [{"role": "user", "content": "x" * 8000}, ASSISTANT] * 4 + [USER]}, "messages", "32,000"),
    ({"messages": [USER, USER]}, "messages[1].role", "assistant is due"),
    ({"messages": [ASSISTANT]}, "messages[0].role", "user is due"),
    ({"messages": [USER, ASSISTANT]}, "messages", "user's"),
    ({"messages": [{"role": "system", "content": "x"}]}, "messages", "user's"),
    ({"messages": [USER, ASSISTANT, {"role": "system", "content": "x"}]}, "messages[2].role", "user is due"),
    ({"messages": [USER | {"tool_calls": [1]}]}, "messages[0].tool_calls", "not supported"),
    ({"messages": [USER | {"nonsense": 1}]}, "messages[0].nonsense", "unknown"),
    ({"temperature": 2.1}, "temperature", "0 to 2"),
    ({"temperature": -1}, "temperature", "0 to 2"),
    ({"temperature": "hot"}, "temperature", "number"),
    ({"temperature": True}, "temperature", "number"),
    ({"temperature": 10**400}, "temperature", "0 to 2"),
    ({"top_p": 0}, "top_p", "to 1"),
    ({"top_p": 1.5}, "top_p", "to 1"),
    ({"min_p": 2}, "min_p", "0 to 1"),
    ({"top_k": 201}, "top_k", "0 to 200"),
    ({"top_k": 1.5}, "top_k", "whole number"),
    ({"repetition_penalty": 0}, "repetition_penalty", "0.1"),
    ({"max_tokens": 0}, "max_tokens", "1 to 4,096"),
    ({"max_tokens": 4097}, "max_tokens", "4,096"),
    ({"max_completion_tokens": 4097}, "max_completion_tokens", "4,096"),
    ({"n": 0}, "n", "1 to 8"),
    ({"n": 9}, "n", "1 to 8"),
    ({"seed": 2**63}, "seed", "whole number"),
    ({"seed": "x"}, "seed", "whole number"),
    ({"stop": ""}, "stop", "not empty"),
    ({"stop": ["a"] * 9}, "stop", "the most are 8"),
    ({"stop": ["x" * 201]}, "stop", "200"),
    ({"stop": [1]}, "stop", "string"),
    ({"stream": "yes"}, "stream", "true or false"),
    ({"stream_options": True}, "stream_options", "object"),
    ({"stream_options": {"x": 1}}, "stream_options.x", "unknown"),
    ({"logprobs": 3}, "logprobs", "true or false"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "0 to 20"),
    ({"top_logprobs": 2}, "top_logprobs", "logprobs: true"),
    ({"tools": [{"type": "function"}]}, "tools", "not supported"),
    ({"response_format": {"type": "json_object"}}, "response_format", "not supported"),
    ({"presence_penalty": 0.5}, "presence_penalty", "not supported"),
    ({"logit_bias": {"5": 1}}, "logit_bias", "not supported"),
    ({"model": 5}, "model", "string"),
    ({"tools_enabled": 1}, "tools_enabled", "true or false"),
    ({"temprature": 1}, "temprature", "unknown"),
]
BAD_TEXT = [
    ({"prompt": None}, "prompt", "string"),
    ({"prompt": []}, "prompt", "string"),
    ({"prompt": [1, "a"]}, "prompt[0]", "token ids"),
    ({"prompt": [[]]}, "prompt[0]", "token ids"),
    ({"prompt": [True]}, "prompt[0]", "token ids"),
    ({"prompt": ["x"] * 33}, "prompt", "the most are 32"),
    ({"prompt": "x" * 32_001}, "prompt", "32,000"),
    ({"prompt": [265]}, "prompt", "0 to 264"),
    ({"prompt": [[1], [-1]]}, "prompt[1]", "0 to 264"),
    ({"max_tokens": 0}, "max_tokens", "1 to"),
    ({"logprobs": 21}, "logprobs", "0 to 20"),
    ({"logprobs": True}, "logprobs", "whole number"),
    ({"best_of": 3}, "best_of", "not supported"),
    ({"suffix": "x"}, "suffix", "not supported"),
    ({"messages": []}, "messages", "unknown"),
]


def check(answer, status, wanted, param, words):
    error = answer["error"]
    assert status == wanted, answer
    assert error["param"] == param and words in error["message"] and "\n" not in error["message"], error
    assert set(error) == {"message", "type", "param", "code"} and error["type"] == "invalid_request_error"


async def test_bad_fields_of_a_chat(serve):
    async with serve() as served:
        for body, param, words in BAD_CHAT:
            status, answer, _ = await served.post("/v1/chat/completions", {"messages": [USER]} | body)
            check(answer, status, 400, param, words)
        assert not served.engine.requests


async def test_bad_fields_of_a_completion(serve):
    async with serve() as served:
        for body, param, words in BAD_TEXT:
            status, answer, _ = await served.post("/v1/completions", {"prompt": "hi"} | body)
            check(answer, status, 400, param, words)
        assert not served.engine.requests


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"5", b'"x"', b"null", b'{"messages": NaN}', b"[" * 100_000, b"\xff\xfe", b"1" * 5000],
    ids=lambda b: repr(b[:12]),
)
async def test_bodies_that_are_no_json_object(serve, body):
    async with serve() as served:
        headers = {"Content-Type": "application/json"}
        async with served.client.post(served.address + "/v1/completions", data=body, headers=headers) as response:
            check(await response.json(), response.status, 400, None, "body")


async def test_the_context_is_a_limit_too(serve):
    chat = {"messages": [{"role": "user", "content": "x" * 64}]}
    async with serve(FakeEngine(context=64)) as served:
        for path, body, param in (
            ("/v1/chat/completions", chat, "messages"),
            ("/v1/chat/completions", chat | {"model": "toy:pretrain"}, "messages"),
            ("/v1/completions", {"prompt": "x" * 64}, "prompt"),
            ("/v1/completions", {"prompt": ["x", "x" * 64]}, "prompt[1]"),
        ):  # fmt: skip
            status, answer, _ = await served.post(path, body)
            check(answer, status, 400, param, "64")
            assert answer["error"]["code"] == "context_length_exceeded"


async def test_an_unknown_model_is_named_with_the_known_ones(serve):
    async with serve() as served:
        for model in ("gpt-4", "toy:rl", "sft", "other:sft"):
            status, answer, _ = await served.post("/v1/chat/completions", {"messages": [USER], "model": model})
            check(answer, status, 404, "model", "toy:pretrain")
            assert answer["error"]["code"] == "model_not_found"


async def test_the_longest_answer_is_what_the_context_leaves(serve):
    async with serve(FakeEngine(context=100)) as served:
        await served.post("/v1/completions", {"prompt": "x" * 50, "max_tokens": 4096})
        assert served.engine.requests[0][1].max_tokens == 100 - 51


async def test_what_a_chat_asks_for_reaches_the_engine(serve):
    parts = [{"type": "text", "text": "a"}]
    async with serve() as served:
        body = {
            "messages": [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}],
            "temperature": 0.5, "top_k": 7, "top_p": 0.9, "min_p": 0.1, "repetition_penalty": 1.2, "seed": -5, "n": 2,
            "max_completion_tokens": 9, "tools_enabled": False, "logprobs": True, "top_logprobs": 3,
            "user": "x", "presence_penalty": 0, "tools": [], "stop": None, "metadata": {"a": "b"},
        }  # fmt: skip
        status, answer, _ = await served.post("/v1/chat/completions", body)
        assert status == 200, answer
        [(stage, request)] = served.engine.requests
        s = request.sampling
        assert (s.temperature, s.top_k, s.top_p, s.min_p, s.repetition_penalty) == (0.5, 7, 0.9, 0.1, 1.2)
        assert (stage, request.seed, request.samples, request.max_tokens) == ("sft", -5, 2, 9)
        assert (request.tools, request.logprobs, request.prompt_logprobs) == (False, 3, False)
        assert bytes(id for id in request.prompt if id < 256) == b"Be brief.\n\na"


async def test_defaults_are_the_servers(serve):
    async with serve(FakeEngine(context=2000)) as served:
        for _ in range(2):
            await served.post("/v1/chat/completions", {"messages": [USER]})
        await served.post("/v1/completions", {"prompt": "x"})
        chats, text = [r for _, r in served.engine.requests[:2]], served.engine.requests[2][1]
        assert {(r.sampling.temperature, r.sampling.top_k, r.max_tokens, r.tools) for r in chats} == {
            (0.8, 50, 512, True)
        }
        assert chats[0].seed != chats[1].seed and text.max_tokens == 16


async def test_parts_of_an_assistants_message_are_rendered(serve):
    async with serve() as served:
        parts = [
            {"type": "python", "text": "1+1"},
            {"type": "python_output", "text": "2"},
            {"type": "text", "text": "2."},
        ]
        messages = [USER, {"role": "assistant", "content": parts}, USER]
        status, _, _ = await served.post("/v1/chat/completions", {"messages": messages})
        special = served.engine.tokenizer.special_tokens
        prompt = served.engine.requests[0][1].prompt
        assert status == 200 and special["<|python_start|>"] in prompt and special["<|output_end|>"] in prompt


async def test_special_tokens_in_a_message_are_letters(serve):
    async with serve() as served:
        await served.post("/v1/chat/completions", {"messages": [USER | {"content": "<|assistant_end|><|bos|>"}]})
        prompt = served.engine.requests[0][1].prompt
        assert [id for id in prompt if id >= 256] == [256, 257, 258, 259]


async def test_a_base_model_continues_the_last_message(serve):
    async with serve(FakeEngine(says("..."))) as served:
        body = {"messages": [USER, ASSISTANT, USER | {"content": "The capital of"}], "model": "toy:pretrain"}
        _, answer, _ = await served.post("/v1/chat/completions", body)
        notice, text = answer["choices"][0]["pynanochat"]["events"]
        assert notice["kind"] == "notice" and "base model" in notice["text"] and text["text"] == "..."
        assert served.engine.requests[0][1].prompt == (256, *b"The capital of")


async def test_sixty_turns_lose_their_oldest(serve):
    async with serve(FakeEngine(context=200)) as served:
        messages = [USER, ASSISTANT] * 60 + [USER | {"content": "last"}]
        _, answer, _ = await served.post("/v1/chat/completions", {"messages": messages})
        events, facts = answer["choices"][0]["pynanochat"]["events"], answer["pynanochat"]
        prompt = served.engine.requests[0][1].prompt
        assert facts["dropped_turns"] > 30 and f"{facts['dropped_turns']} oldest turns" in events[0]["text"]
        assert prompt[0] == 256 and bytes(prompt[-6:-2]) == b"last" and len(prompt) < 200
