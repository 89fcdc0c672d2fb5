"""The official client talks to the server as to OpenAI's."""

import asyncio
import contextlib

import openai
import pytest

from pynanochat.serve.gate import Access
from tests.serve.fakes import LOGPROB, FakeEngine, echo, ids_of, says

HI = [{"role": "user", "content": "hi"}]


@contextlib.asynccontextmanager
async def client_of(served, key="unused", retries=0):
    async with openai.AsyncOpenAI(base_url=served.address + "/v1", api_key=key, max_retries=retries) as client:
        yield client


async def test_models(serve):
    async with serve() as served, client_of(served) as client:
        models = [model async for model in await client.models.list()]
        assert [model.id for model in models] == ["toy", "toy:pretrain", "toy:sft"]
        assert models[0].pynanochat["default"] and models[0].pynanochat["stage"] == "sft"


async def test_chat(serve):
    async with serve(FakeEngine(says("Hello \U0001f680"))) as served, client_of(served) as client:
        answer = await client.chat.completions.create(model="toy", messages=HI, n=2, seed=1, max_tokens=50, user="me")
        assert [c.message.content for c in answer.choices] == ["Hello \U0001f680"] * 2
        assert [c.index for c in answer.choices] == [0, 1] and answer.choices[0].finish_reason == "stop"
        assert answer.usage.completion_tokens == 2 * 11 and answer._request_id.startswith("req_")
        cut = await client.chat.completions.create(model="toy", messages=HI, max_completion_tokens=3)
        assert cut.choices[0].message.content == "Hel" and cut.choices[0].finish_reason == "length"


async def test_a_stream_of_several_answers(serve):
    def script(stage, request):
        return [ids_of(f"answer {i} is" + " long" * i + "{assistant_end}") for i in range(request.samples)]

    async with serve(FakeEngine(script)) as served, client_of(served) as client:
        stream = await client.chat.completions.create(
            model="toy", messages=HI, n=3, stream=True, stream_options={"include_usage": True}
        )
        texts, ends, usage = ["", "", ""], {}, None
        async for chunk in stream:
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
                if choice.finish_reason:
                    ends[choice.index] = choice.finish_reason
            usage = chunk.usage or usage
        assert texts == ["answer 0 is", "answer 1 is long", "answer 2 is long long"]
        assert ends == {0: "stop", 1: "stop", 2: "stop"} and usage.completion_tokens == 12 + 17 + 22


async def test_stop_strings(serve):
    async with serve(FakeEngine(says("one two three four"))) as served, client_of(served) as client:
        for stop, text in ((" th", "one two"), (["four", "two"], "one "), ("zzz", "one two three four")):
            answer = await client.chat.completions.create(model="toy", messages=HI, stop=stop)
            assert answer.choices[0].message.content == text and answer.choices[0].finish_reason == "stop"
            stream = await client.chat.completions.create(model="toy", messages=HI, stop=stop, stream=True)
            assert "".join([c.choices[0].delta.content or "" async for c in stream]) == text
            await served.idle()  # the engine works no more on what is cut off


ENDS = ("one END and more and more", "the second END and more", "three")
READ = len("one END") + len("the second END") + len("three") + 1


def with_ends(stage, request):
    return [ids_of(text + "{assistant_end}") for text in ENDS]


async def test_an_answer_that_met_its_stop_string_ends_alone(serve):
    async with serve(FakeEngine(with_ends)) as served, client_of(served) as client:
        answer = await client.chat.completions.create(model="toy", messages=HI, stop="END", n=3)
        assert [choice.message.content for choice in answer.choices] == ["one ", "the second ", "three"]
        assert answer.usage.completion_tokens == served.engine.made == READ  # the engine was told
        answer = await client.completions.create(model="toy", prompt="x", stop="END", n=3)
        assert [choice.text for choice in answer.choices] == ["one ", "the second ", "three"]
        assert answer.usage.completion_tokens == served.engine.made - READ == READ
        answer = await client.completions.create(model="toy", prompt=["x", "y"], stop="END", n=3)
        assert answer.usage.completion_tokens == 2 * READ
        assert served.engine.made - 2 * READ <= 2 * (READ + 4)  # it was told a little later, where requests take turns


async def test_what_was_on_its_way_behind_a_stop_string_does_not_count(serve):
    class AllAtOnce(FakeEngine):
        async def generate(self, stage, request, ended=frozenset()):
            async with contextlib.aclosing(super().generate(stage, request)) as steps:
                yield [token async for tokens in steps for token in tokens]

    async with serve(AllAtOnce(with_ends)) as served, client_of(served) as client:
        stream = await client.chat.completions.create(
            model="toy", messages=HI, stop="END", n=3, stream=True, stream_options={"include_usage": True}
        )
        *_, last = [chunk async for chunk in stream]
        assert last.usage.completion_tokens == READ < served.engine.made


async def test_log_probabilities(serve):
    async with serve(FakeEngine(says("H\u00e9"))) as served, client_of(served) as client:
        answer = await client.chat.completions.create(model="toy", messages=HI, logprobs=True, top_logprobs=2)
        content = answer.choices[0].logprobs.content
        assert [bytes(one.bytes) for one in content] == [b"H", b"\xc3", b"\xa9"]
        assert {one.logprob for one in content} == {LOGPROB} and [len(one.top_logprobs) for one in content] == [2] * 3
        assert content[0].token == content[0].top_logprobs[0].token == "H"
        stream = await client.chat.completions.create(model="toy", messages=HI, logprobs=True, stream=True)
        parts = [c.choices[0].logprobs.content async for c in stream if c.choices[0].logprobs]
        assert [bytes(one.bytes) for part in parts for one in part] == [b"H", b"\xc3", b"\xa9"]


async def test_tool_calls_are_events(serve):
    said = "It is {python_start}2*21{python_end}{output_start}42{output_end}, so 42.{assistant_end}"
    wanted = [
        {"kind": "text", "text": "It is "},
        {"kind": "tool_call", "text": "2*21"},
        {"kind": "tool_output", "text": "42", "forced": True},
        {"kind": "text", "text": ", so 42."},
    ]
    async with serve(FakeEngine(says(said))) as served, client_of(served) as client:
        answer = await client.chat.completions.create(model="toy", messages=HI)
        assert answer.choices[0].message.content == "It is , so 42."
        assert answer.choices[0].pynanochat["events"] == wanted
        stream = await client.chat.completions.create(model="toy", messages=HI, stream=True)
        events = []
        async for chunk in stream:
            events += (getattr(chunk.choices[0], "pynanochat", None) or {}).get("events", [])
        assert events == wanted[1:3]


async def test_completions(serve):
    async with serve(FakeEngine(says("xyz"))) as served, client_of(served) as client:
        answer = await client.completions.create(model="toy", prompt=["ab", "c"], n=2, echo=True, logprobs=1)
        assert [choice.text for choice in answer.choices] == ["abxyz", "abxyz", "cxyz", "cxyz"]
        first = answer.choices[0].logprobs
        assert first.tokens == list("abxyz") and first.text_offset == [0, 1, 2, 3, 4]
        assert first.token_logprobs == [LOGPROB] * 5 and first.top_logprobs[2] == {"x": LOGPROB}
        assert [r.prompt for _, r in served.engine.requests] == [(256, 97, 98), (256, 99)]
        ids = await client.completions.create(model="toy", prompt=[104, 105], max_tokens=2, echo=True, logprobs=0)
        assert ids.choices[0].text == "hixy" and ids.choices[0].finish_reason == "length"
        assert ids.choices[0].logprobs.token_logprobs == [None, LOGPROB, LOGPROB, LOGPROB]
        assert ids.choices[0].logprobs.top_logprobs == [None] + [{token: LOGPROB} for token in "ixy"]
        scored = await client.completions.create(model="toy", prompt="abc", max_tokens=0, echo=True, logprobs=1)
        assert scored.choices[0].text == "abc" and len(scored.choices[0].logprobs.tokens) == 3
        bare = await client.completions.create(model="toy", prompt="abc", stop="z")
        assert bare.choices[0].text == "xy" and bare.choices[0].logprobs is None


async def test_a_stream_of_completions(serve):
    async with serve(FakeEngine(echo)) as served, client_of(served) as client:
        stream = await client.completions.create(
            model="toy",
            prompt=["one", "three", "fifteen"],
            stream=True,
            echo=True,
            stream_options={"include_usage": True},
        )
        texts, ends, usage = ["", "", ""], 0, None
        async for chunk in stream:
            for choice in chunk.choices:
                texts[choice.index] += choice.text
                ends += choice.finish_reason is not None
            usage = chunk.usage or usage
        assert texts == ["oneone", "threethree", "fifteenfifteen"] and ends == 3
        assert usage.prompt_tokens == 15 + 3 and usage.completion_tokens == 15 + 3


async def test_errors_are_the_clients_own(serve):
    async with serve(access=Access(key="right")) as served:
        async with client_of(served, key="wrong") as client:
            with pytest.raises(openai.AuthenticationError):
                await client.models.list()
        async with client_of(served, key="right") as client:
            ask = client.chat.completions.create
            with pytest.raises(openai.BadRequestError) as caught:
                await ask(model="toy", messages=HI, temperature=9)
            assert caught.value.param == "temperature" and caught.value.type == "invalid_request_error"
            with pytest.raises(openai.BadRequestError) as caught:
                await ask(model="toy", messages=[{"role": "user", "content": "x" * 600}])
            assert caught.value.code == "context_length_exceeded"
            with pytest.raises(openai.NotFoundError) as caught:
                await ask(model="gpt-4", messages=HI)
            assert caught.value.code == "model_not_found"


async def test_a_full_queue_and_a_crash(serve):
    engine = FakeEngine(says("x" * 100), pace=0.002)
    async with serve(engine, limits={"queue_requests": 1}) as served, client_of(served) as client:
        engine.gate.clear()
        task = asyncio.ensure_future(client.chat.completions.create(model="toy", messages=HI, stream=True))
        while not engine.live:
            await asyncio.sleep(0.01)
        with pytest.raises(openai.RateLimitError):
            await client.chat.completions.create(model="toy", messages=HI)
        engine.gate.set()
        with pytest.raises(openai.APIError, match="started again"):
            async for chunk in await task:
                if chunk.choices[0].delta.content:
                    engine.crash(alive=True)


async def test_the_client_tries_again_after_429(serve):
    engine = FakeEngine()
    async with serve(engine, limits={"queue_requests": 1}) as served, client_of(served, retries=2) as client:
        engine.gate.clear()
        first = asyncio.ensure_future(client.chat.completions.create(model="toy", messages=HI))
        while not engine.live:
            await asyncio.sleep(0.01)
        second = asyncio.ensure_future(client.chat.completions.create(model="toy", messages=HI))
        while b'rejected_total{reason="queue_requests"} 1.0' not in (await served.get("/metrics"))[1]:
            await asyncio.sleep(0.01)
        engine.gate.set()
        assert (await first).choices[0].message.content == (await second).choices[0].message.content == "Hello!"
