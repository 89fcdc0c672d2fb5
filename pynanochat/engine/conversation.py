"""Making a conversation fit the context: whole oldest turns go, the system message and the last question stay."""

from pynanochat.errors import UsageError


def fit(tokenizer, messages: list[dict], context: int, wanted: int) -> tuple[list[int], int]:
    """The prompt of the conversation and how many of its oldest turns had to go.

    The prompt leaves room for `wanted` tokens of answer, but for no more than a quarter of the context where that
    would cost turns. Raises UsageError where the last message alone leaves no room at all.
    """
    from pynanochat.tokenizer.chat import render_for_completion

    system, turns = _turns(messages)
    room = context - min(wanted, context // 4)
    dropped = 0
    while True:
        ids = render_for_completion(tokenizer, system + [m for turn in turns[dropped:] for m in turn])
        if len(ids) <= room or dropped == len(turns) - 1:
            break
        dropped += 1
    if len(ids) >= context:
        raise UsageError(
            f"the last message takes {len(ids):,} tokens and the context holds {context:,}, "
            f"the answer included: send a shorter message"
        )
    return ids, dropped


def _turns(messages):
    """The leading system message, if any, and the turns: a user message and what follows up to the next."""
    system = [message for message in messages[:1] if message["role"] == "system"]
    turns = []
    for message in messages[len(system) :]:
        if message["role"] == "user" or not turns:
            turns.append([])
        turns[-1].append(message)
    if not turns or turns[-1][-1]["role"] != "user":
        raise UsageError("the conversation must end with a message of the user")
    return system, turns
