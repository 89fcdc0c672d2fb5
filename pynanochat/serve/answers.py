"""POST /v1/chat/completions, /v1/completions and the family's /chat/completions: from a checked call to what is sent.

Prompts are made in a thread (a long conversation takes milliseconds), admitted at the desk, and read answer by answer.
"""

import asyncio
import contextlib
import time

from pynanochat.engine.conversation import fit, left_out
from pynanochat.errors import DataError, PynanochatError, UsageError
from pynanochat.serve import replies
from pynanochat.serve.answer import Answer, Piece, joined
from pynanochat.serve.desk import Desk, merged
from pynanochat.serve.faults import Fault, bad, brief
from pynanochat.serve.limits import Defaults
from pynanochat.serve.models import Models
from pynanochat.serve.read_request import read_chat, read_completion, read_family
from pynanochat.serve.replies import Reply
from pynanochat.serve.texts import Texts, as_text
from pynanochat.serve.wire import EventStream, read_json, send_json


class Answers:
    def __init__(self, desk: Desk, models: Models, defaults: Defaults):
        self.desk, self.models, self.defaults = desk, models, defaults
        self.engine, self.limits = desk.engine, desk.limits

    # --- chat

    async def chat(self, request):
        arrived = time.monotonic()
        self.desk.check()
        call = read_chat(await read_json(request, self.limits), self.limits, self.defaults)
        prompt, reply, model = await self._chat_prompt(call)
        wishes = call.wishes
        with self._enter(request, reply, [wishes.request(prompt, model.context)], arrived) as visits:
            rows = self._rows(wishes, visits, model.stage)
            if wishes.stream:
                return await self._stream_chat(EventStream(request), reply, visits, rows)
            pieces = [list(reply.notices) for _ in range(wishes.n)]
            ended = {}
            async with contextlib.aclosing(rows):
                async for index, answer, found in rows:
                    pieces[index] += found
                    ended[index] = answer
        tokenizer = self.engine.tokenizer
        choices = [replies.chat_choice(tokenizer, wishes, i, ended[i], found) for i, found in enumerate(pieces)]
        return await send_json(request, reply.whole(choices, visits))

    async def _stream_chat(self, stream, reply, visits, rows):
        tokenizer, wishes = self.engine.tokenizer, reply.wishes
        begun = set()

        async def event(choice):
            await stream.send(reply.chunk([choice]))

        async with contextlib.aclosing(rows), reporting(stream):
            async for index, answer, pieces in rows:
                if index not in begun:
                    begun.add(index)
                    await event(replies.chat_edge(index))
                    pieces = [*reply.notices, *pieces]
                for piece in joined(pieces):
                    await event(replies.chat_delta(tokenizer, wishes, index, piece))
                if answer.finish:
                    await event(replies.chat_edge(index, answer.finish))
            if wishes.usage:
                await stream.send(reply.chunk([], **reply.usage(visits)))
            await stream.send("[DONE]")
        return await stream.end()

    async def _chat_prompt(self, call):
        """The prompt's ids, its Reply and the model."""
        wishes = call.wishes
        model = self.models.find(wishes.model)
        reply = Reply("chat.completion", model.id, wishes, model.context)
        if model.stage == "pretrain":
            text = call.messages[-1]["content"]
            prompt = await asyncio.to_thread(self._encode, text, model.context, "messages")
            words = "This is a base model: it continues the text of the last message and knows no conversation."
            reply.notices.append(Piece("notice", words))
        else:
            prompt, reply.dropped_turns = await asyncio.to_thread(self._fit, call, model.context)
            if words := left_out(reply.dropped_turns, model.context):
                reply.notices.append(Piece("notice", words))
        reply.prompt_tokens = len(prompt)
        return prompt, reply, model

    def _fit(self, call, context):
        try:
            return fit(self.engine.tokenizer, call.messages, context, call.wishes.max_tokens)
        except UsageError as error:
            raise bad("messages", str(error), "context_length_exceeded") from None
        except DataError as error:
            raise bad("messages", str(error)) from None

    def _encode(self, text, context, param):
        """The ids of a text, or of ids, that the model is to continue."""
        tokenizer = self.engine.tokenizer
        ids = [tokenizer.bos_id, *tokenizer.encode(text)] if isinstance(text, str) else text
        if wrong := [id for id in ids if not 0 <= id < len(tokenizer)]:
            raise bad(param, f"token id {brief(wrong[0])} given; the vocabulary has 0 to {len(tokenizer) - 1:,}")
        if len(ids) >= context:
            words = f"{len(ids):,} tokens given; the context holds {context:,}, the answer included: send less"
            raise bad(param, words, "context_length_exceeded")
        return ids

    async def _rows(self, wishes, visits, stage, echoes=None):
        """(index of the choice, its Answer, new pieces) of every choice until all have ended; tokens of prompts go into
        `echoes`, a list for each visit. What the engine made of a row behind its stop string does not count.

        Raises Fault where the engine fails.
        """
        tokenizer, n = self.engine.tokenizer, wishes.n
        answers = [Answer(tokenizer, wishes.stop, wishes.top) for _ in range(n * len(visits))]
        async with contextlib.aclosing(merged([visit.tokens(stage) for visit in visits])) as steps:
            async for number, tokens in steps:
                visit, found = visits[number], {}
                for token in tokens:
                    if token.row < 0:
                        echoes[number].append(token)
                        continue
                    if token.row in visit.ended:
                        continue
                    visit.made += 1
                    index = number * n + token.row
                    found.setdefault(index, []).extend(answers[index].read(token))
                    if answers[index].finish:
                        visit.ended.add(token.row)
                for index, pieces in found.items():
                    yield index, answers[index], pieces
                if all(answer.finish for answer in answers):
                    return
        raise Fault(503, "the engine ended an answer without a last token; try again", code="engine_error")

    # --- the family's chat

    async def family(self, request):
        """Server-sent {"token"} and {"done"}; tool calls stand in the text between their special tokens."""
        arrived = time.monotonic()
        self.desk.check()
        call = read_family(await read_json(request, self.limits), self.limits, self.defaults)
        prompt, reply, model = await self._chat_prompt(call)
        stream = EventStream(request)
        with self._enter(request, reply, [call.wishes.request(prompt, model.context)], arrived) as visits:
            rows = self._rows(call.wishes, visits, model.stage)
            async with contextlib.aclosing(rows), reporting(stream):
                async for _, _, pieces in rows:
                    for piece in joined(pieces):
                        await stream.send({"token": as_text(piece), "gpu": 0})
                await stream.send({"done": True})
        return await stream.end()

    # --- completions

    async def complete(self, request):
        arrived = time.monotonic()
        self.desk.check()
        call = read_completion(await read_json(request, self.limits), self.limits, self.defaults)
        wishes = call.wishes
        model = self.models.find(wishes.model)
        prompts = [
            await asyncio.to_thread(self._encode, prompt, model.context, "prompt" if i == 0 else f"prompt[{i}]")
            for i, prompt in enumerate(call.prompts)
        ]
        reply = Reply("text_completion", model.id, wishes, model.context, sum(map(len, prompts)))
        scored = call.echo and wishes.top is not None
        requests = [wishes.request(prompt, model.context, prompt_logprobs=scored) for prompt in prompts]
        with self._enter(request, reply, requests, arrived) as visits:
            texts = Texts(self.engine.tokenizer, call, prompts)
            rows = self._rows(wishes, visits, model.stage, texts.echoes)
            if wishes.stream:
                return await self._stream_texts(EventStream(request), reply, visits, rows, texts)
            async with contextlib.aclosing(rows):
                async for row in rows:
                    texts.read(*row)
        return await send_json(request, reply.whole(texts.whole(), visits))

    async def _stream_texts(self, stream, reply, visits, rows, texts):
        async with contextlib.aclosing(rows), reporting(stream):
            async for row in rows:
                for choice in texts.read(*row):
                    await stream.send(reply.chunk([choice]))
            if reply.wishes.usage:
                await stream.send(reply.chunk([], **reply.usage(visits)))
            await stream.send("[DONE]")
        return await stream.end()

    @contextlib.contextmanager
    def _enter(self, request, reply, requests, arrived):
        """The visits at the desk; however they end, the log says how much was made."""
        with self.desk.enter(requests, arrived) as visits:
            try:
                yield visits
            finally:
                made = sum(visit.made for visit in visits)
                request.protocol.facts |= {"prompt": reply.prompt_tokens, "made": made}


@contextlib.asynccontextmanager
async def reporting(stream: EventStream):
    """What fails once the stream has begun is told in it, as an event; before that it is the answer itself."""
    try:
        yield
    except (Fault, PynanochatError) as error:
        if stream.response is None:
            raise
        fault = error if isinstance(error, Fault) else Fault(500, str(error))
        await stream.send(fault.body())
