"""Making a conversation fit the context: whole oldest turns go, the system message and the last question stay."""

from pynanochat.errors import UsageError
from pynanochat.tokenizer import render_for_completion


def fit(tokenizer, messages: list[dict], context: int, wanted: int) -> tuple[list[int], int]:
    """The prompt of the conversation and how many of its oldest turns had to go.

    The prompt leaves room for `wanted` tokens of answer, but for no more than a quarter of the context where that
    would cost turns. Raises UsageError where the last message alone leaves no room at all, DataError for messages that
    are no conversation.
    """
    ids = render_for_completion(tokenizer, messages)
    room = context - min(wanted, context // 4)
    dropped = 0
    if len(ids) > room:
        system = messages[:1] if messages[0]["role"] == "system" else []
        turns = messages[len(system) :]
        while len(ids) > room and len(turns) > 1:
            turns = turns[2:]  # a user message and its answer
            dropped += 1
            ids = render_for_completion(tokenizer, system + turns)
    if len(ids) >= context:
        raise UsageError(
            f"the last message takes {len(ids):,} tokens and the context holds {context:,}, "
            f"the answer included: send a shorter message"
        )
    return ids, dropped
