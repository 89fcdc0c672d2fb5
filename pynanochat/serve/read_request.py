"""Bodies of requests to what is to be done: every field is checked here, before the engine hears of anything.

    call = read_chat(body, limits, defaults)          a ChatCall: messages and Wishes
    call = read_completion(body, limits, defaults)    a CompletionCall: prompts and Wishes

Both raise Fault (400) with the name of the field at fault.
"""

import secrets
from dataclasses import dataclass

from pynanochat.engine.requests import Request
from pynanochat.engine.sampling import Sampling
from pynanochat.serve.faults import bad, brief
from pynanochat.serve.fields import Fields
from pynanochat.serve.limits import LOWEST_AND_HIGHEST_PENALTY, Defaults, Limits

SEEDS = 2**63
COMPLETION_TOKENS = 16  # OpenAI's default of /v1/completions
_ASSISTANT_PARTS = ("text", "python", "python_output")
_IGNORED = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")


@dataclass(frozen=True)
class Wishes:
    """What a request asks for, but for its text."""

    model: str | None
    max_tokens: int
    """0 only where a completion echoes its prompt and adds nothing."""
    n: int
    sampling: Sampling
    seed: int
    stop: tuple[str, ...] = ()
    tools: bool = True
    top: int | None = None
    """Alternatives to show for each token; None for no log-probabilities."""
    stream: bool = False
    usage: bool = False
    """A chunk with the usage ends the stream."""

    def request(self, prompt, context: int, prompt_logprobs: bool = False) -> Request:
        """The engine's request for one prompt of token ids, which leaves room in the context."""
        return Request(
            tuple(prompt),
            samples=self.n,
            max_tokens=max(1, min(self.max_tokens, context - len(prompt))),
            sampling=self.sampling,
            seed=self.seed,
            tools=self.tools,
            logprobs=self.top,
            prompt_logprobs=prompt_logprobs,
        )


@dataclass(frozen=True)
class ChatCall:
    messages: list[dict]
    """As the tokenizer's render_for_completion takes them."""
    wishes: Wishes


@dataclass(frozen=True)
class CompletionCall:
    prompts: list[str | list[int]]
    echo: bool
    wishes: Wishes


def read_chat(body, limits: Limits, defaults: Defaults) -> ChatCall:
    """POST /v1/chat/completions."""
    fields = Fields(_object(body))
    messages = read_messages(fields, limits)
    most = fields.integer("max_completion_tokens", None, 1, limits.max_tokens)
    tokens = fields.integer("max_tokens", most or defaults.max_tokens, 1, limits.max_tokens)
    shown = fields.boolean("logprobs")
    top = fields.integer("top_logprobs", None, 0, limits.top_logprobs)
    if top is not None and not shown:
        raise bad("top_logprobs", f"{top} given without log-probabilities; add logprobs: true")
    fields.neutral("tools", [])
    fields.neutral("tool_choice", "none", "auto")
    fields.neutral("parallel_tool_calls", True, False)
    fields.neutral("functions", [])
    fields.neutral("response_format", {"type": "text"})
    fields.neutral("modalities", ["text"])
    fields.ignore("reasoning_effort", "verbosity")
    return ChatCall(messages, _wishes(fields, limits, defaults, tokens, (top or 0) if shown else None))


def read_completion(body, limits: Limits, defaults: Defaults) -> CompletionCall:
    """POST /v1/completions."""
    fields = Fields(_object(body))
    prompts = read_prompts(fields, limits)
    echo = fields.boolean("echo")
    tokens = fields.integer("max_tokens", COMPLETION_TOKENS, 0 if echo else 1, limits.max_tokens)
    top = fields.integer("logprobs", None, 0, limits.top_logprobs)
    fields.neutral("suffix", "")
    fields.neutral("best_of", 1)
    return CompletionCall(prompts, echo, _wishes(fields, limits, defaults, tokens, top))


def read_family(body, limits: Limits, defaults: Defaults) -> ChatCall:
    """POST /chat/completions: the family's fields, always a stream."""
    fields = Fields(_object(body))
    messages = read_messages(fields, limits)
    tokens = fields.integer("max_tokens", defaults.max_tokens, 1, limits.max_tokens)
    fields.ignore("stream", "n")
    return ChatCall(messages, _wishes(fields, limits, defaults, tokens, None))


def _wishes(fields: Fields, limits: Limits, defaults: Defaults, max_tokens: int, top: int | None) -> Wishes:
    """The fields that both kinds of request have; nothing may be left after them."""
    sampling = Sampling(
        fields.number("temperature", defaults.temperature, 0, limits.temperature),
        fields.integer("top_k", defaults.top_k, 0, limits.top_k),
        fields.number("top_p", defaults.top_p, 1e-6, 1),
        fields.number("min_p", defaults.min_p, 0, 1),
        fields.number("repetition_penalty", defaults.repetition_penalty, *LOWEST_AND_HIGHEST_PENALTY),
    )
    seed = fields.integer("seed", None, -SEEDS, SEEDS - 1)
    wishes = Wishes(
        model=fields.text("model"),
        max_tokens=max_tokens,
        n=fields.integer("n", 1, 1, limits.n),
        sampling=sampling,
        seed=secrets.randbits(63) if seed is None else seed,
        stop=fields.strings("stop", limits.stop, limits.stop_characters),
        tools=fields.boolean("tools_enabled", True),
        top=top,
        stream=fields.boolean("stream"),
        usage=_wants_usage(fields),
    )
    fields.neutral("presence_penalty", 0)
    fields.neutral("frequency_penalty", 0)
    fields.neutral("logit_bias", {})
    fields.ignore(*_IGNORED)
    fields.end()
    return wishes


def _wants_usage(fields):
    options = fields.mapping("stream_options")
    usage = options.boolean("include_usage")
    options.ignore("include_obfuscation")
    options.end()
    return usage


def _object(body) -> dict:
    if not isinstance(body, dict):
        raise bad(None, f"the body is {brief(body)}; it must be a JSON object")
    return body


def read_messages(fields: Fields, limits: Limits) -> list[dict]:
    """The conversation; its last message is the user's."""
    messages = fields.take("messages")
    if not isinstance(messages, list) or not messages:
        raise bad("messages", f"{brief(messages)} given; use a list of one message or more")
    if len(messages) > limits.messages:
        raise bad("messages", f"{len(messages)} messages; the most are {limits.messages}: drop the oldest")
    read = [_message(message, f"messages[{i}]", limits) for i, message in enumerate(messages)]
    total = sum(_characters(message["content"]) for message in read)
    if total > limits.conversation_characters:
        raise bad(
            "messages",
            f"{total:,} characters in all; the most are {limits.conversation_characters:,}: drop the oldest messages",
            "context_length_exceeded",
        )
    turns = read[1:] if read[0]["role"] == "system" else read
    for i, message in enumerate(turns, len(read) - len(turns)):
        wanted = ("user", "assistant")[(i - len(read) + len(turns)) % 2]
        if message["role"] != wanted:
            raise bad(
                f"messages[{i}].role",
                f"{message['role']} given, {wanted} is due; user and assistant take turns, after at most one "
                "system message at the start",
            )
    if not turns or turns[-1]["role"] != "user":
        raise bad("messages", "the last message must be the user's, which the model answers; add one")
    return read


def _message(message, where: str, limits: Limits) -> dict:
    if not isinstance(message, dict):
        raise bad(where, f"{brief(message)} given; use an object with role and content")
    fields = Fields(message, where + ".")
    role = fields.take("role")
    role = "system" if role == "developer" else role
    if role not in ("system", "user", "assistant"):
        raise bad(f"{where}.role", f"{brief(role)} given; use system, user or assistant")
    content = _content(role, fields.take("content"), f"{where}.content")
    if _characters(content) > limits.message_characters:
        raise bad(
            f"{where}.content",
            f"{_characters(content):,} characters; the most are {limits.message_characters:,}: shorten it or split it",
        )
    fields.ignore("name", "refusal", "annotations", "audio", "pynanochat")
    fields.neutral("tool_calls", [])
    fields.neutral("function_call")
    fields.end()
    return {"role": role, "content": content}


def _content(role, content, where):
    """A str, or for the assistant a list of parts."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise bad(where, f"{brief(content)} given; use a string or a list of parts")
    kinds = _ASSISTANT_PARTS if role == "assistant" else ("text",)
    parts = [_part(part, kinds, f"{where}[{i}]") for i, part in enumerate(content)]
    return parts if role == "assistant" else "".join(part["text"] for part in parts)


def _part(part, kinds, where):
    wanted = f'{{"type": {" or ".join(kinds)}, "text": a string}}'
    if not isinstance(part, dict) or part.get("type") not in kinds or not isinstance(part.get("text"), str):
        raise bad(where, f"{brief(part)} given; use {wanted}")
    return {"type": part["type"], "text": part["text"]}


def _characters(content) -> int:
    return len(content) if isinstance(content, str) else sum(len(part["text"]) for part in content)


def read_prompts(fields: Fields, limits: Limits) -> list[str | list[int]]:
    """The prompts of a completion: a string, token ids, or a list of either."""
    prompt = fields.take("prompt")
    if isinstance(prompt, str) or (isinstance(prompt, list) and prompt and all(_is_id(one) for one in prompt)):
        prompt = [prompt]
    if not isinstance(prompt, list) or not prompt:
        raise bad("prompt", f"{brief(prompt)} given; use a string, a list of strings, or token ids")
    if len(prompt) > limits.prompts:
        raise bad("prompt", f"{len(prompt)} prompts; the most are {limits.prompts}: send several requests")
    for i, one in enumerate(prompt):
        if not isinstance(one, str) and not (isinstance(one, list) and one and all(_is_id(id) for id in one)):
            raise bad(f"prompt[{i}]", f"{brief(one)} given; use a string or a list of token ids")
    total = sum(len(one) for one in prompt)
    if total > limits.conversation_characters:
        raise bad(
            "prompt",
            f"{total:,} characters in all; the most are {limits.conversation_characters:,}: send less",
            "context_length_exceeded",
        )
    return prompt


def _is_id(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
