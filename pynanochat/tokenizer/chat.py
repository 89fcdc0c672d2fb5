"""Conversations to token ids, with the mask that says which of them the assistant is trained to say.

    ids, mask = render_conversation(tokenizer, {"messages": [{"role": "user", "content": "hi"}, ...]})
    ids = render_for_completion(tokenizer, messages)          # ends with <|assistant_start|>

A conversation is `{"messages": [...]}` or the list itself. Messages alternate user and assistant, user first; one
system message may stand before them and is joined to the first user message with a blank line. `content` is a str;
an assistant's may be a list of parts `{"type": "text" | "python" | "python_output", "text": str}`. All content is
ordinary text: a special token written in it is just letters.
"""

from pynanochat.errors import DataError, shown

# The delimiters of each kind of part and whether the assistant says it, delimiters included.
_PARTS = {
    "text": (None, None, 1),
    "python": ("<|python_start|>", "<|python_end|>", 1),
    "python_output": ("<|output_start|>", "<|output_end|>", 0),
}


def render_conversation(tokenizer, conversation, max_tokens: int | None = None) -> tuple[list[int], list[int]]:
    """(ids, mask), equally long and at most `max_tokens`. The mask is 1 on what the assistant says: its text, its
    python parts and <|assistant_end|>. Raises DataError for a malformed conversation."""
    messages = _checked(conversation)
    ids, mask = [tokenizer.bos_id], [0]

    def add(new: list[int], said: int) -> None:
        ids.extend(new)
        mask.extend([said] * len(new))

    for role, parts in messages:
        add([tokenizer.special_id(f"<|{role}_start|>")], 0)
        for kind, text in parts:
            start, end, said = _PARTS[kind]
            said = said if role == "assistant" else 0
            if start:
                add([tokenizer.special_id(start)], said)
            add(tokenizer.encode(text), said)
            if end:
                add([tokenizer.special_id(end)], said)
        add([tokenizer.special_id(f"<|{role}_end|>")], 1 if role == "assistant" else 0)
    return ids[:max_tokens], mask[:max_tokens]


def render_for_completion(tokenizer, messages) -> list[int]:
    """The ids of a conversation that ends with a user message, and <|assistant_start|>: the model answers next."""
    if _checked(messages)[-1][0] != "user":
        raise DataError("the last message is the assistant's; drop it, so that there is a user message to answer")
    ids, _ = render_conversation(tokenizer, messages)
    return [*ids, tokenizer.special_id("<|assistant_start|>")]


def _checked(conversation) -> list[tuple[str, list[tuple[str, str]]]]:
    """[(role, [(kind, text), ...]), ...] without a system message."""
    messages = conversation.get("messages") if isinstance(conversation, dict) else conversation
    if not isinstance(messages, list) or not messages:
        raise DataError(
            f'a conversation is {shown(conversation, 60)}; it must be {{"messages": [one or more messages]}}'
        )
    for number, message in enumerate(messages):
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise DataError(f'message {number} is {shown(message, 60)}; it must be {{"role": ..., "content": ...}}')
    system = messages[0]["content"] if messages[0]["role"] == "system" else None
    if system is not None:
        messages = messages[1:]
        if not isinstance(system, str) or not messages:
            raise DataError("a system message must be a str with a user message after it; add one")
    result = []
    for number, message in enumerate(messages):
        role = ("user", "assistant")[number % 2]
        if message["role"] != role:
            raise DataError(
                f"message {number} has role {shown(message['role'], 60)}, not {role}; roles must alternate user, "
                "assistant, after at most one system message at the start"
            )
        result.append((role, _parts(role, message["content"], number)))
    if system is not None:
        result[0] = ("user", [("text", f"{system}\n\n{result[0][1][0][1]}")])
    return result


def _parts(role: str, content, number: int) -> list[tuple[str, str]]:
    if isinstance(content, str):
        return [("text", content)]
    if role == "user" or not isinstance(content, list):
        wanted = "a str" if role == "user" else "a str or a list of parts"
        raise DataError(f"message {number} ({role}) has content {shown(content, 60)}; it must be {wanted}")
    for part in content:
        if not isinstance(part, dict) or part.get("type") not in _PARTS or not isinstance(part.get("text"), str):
            raise DataError(
                f"message {number} has a part {shown(part, 60)}; "
                f'it must be {{"type": "{"|".join(_PARTS)}", "text": str}}'
            )
    return [(part["type"], part["text"]) for part in content]
