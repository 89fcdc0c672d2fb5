"""Making a conversation fit the context: whole oldest turns go, <|bos|>, the system message and the last question stay.

    ids, dropped = fit(tokenizer, messages, context=2048, wanted=512)
    print(left_out(dropped, 2048))          what the reader is told; "" where nothing had to go

The answer's own growth needs no such care: an answer ends where the context does.
"""

from pynanochat.errors import UsageError
from pynanochat.tokenizer import render_conversation, render_for_completion


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
        turns = [at for at, id in enumerate(ids) if id == tokenizer.special_id("<|user_start|>")]
        whole = ids
        while len(ids) > room and dropped + 1 < len(turns):
            dropped += 1
            ids = _from_turn(tokenizer, whole, turns[dropped], [*system, messages[len(system) + 2 * dropped]])
    if len(ids) >= context:
        raise UsageError(
            f"the last message takes {len(ids):,} tokens and the context holds {context:,}, "
            f"the answer included: send a shorter message"
        )
    return ids, dropped


def left_out(dropped: int, context: int) -> str:
    """The sentence that tells the reader of dropped turns, "" where there are none."""
    if not dropped:
        return ""
    turns = "The oldest turn was" if dropped == 1 else f"The {dropped} oldest turns were"
    return f"{turns} left out: the context holds {context:,} tokens."


def _from_turn(tokenizer, ids, start, opening):
    """The conversation of `ids` from the turn that begins at `start`, whose first messages are now `opening`.

    Only those are encoded again, since the system message becomes part of the first question: a long conversation
    costs no more than its length.
    """
    first, _ = render_conversation(tokenizer, opening)
    end = ids.index(tokenizer.special_id("<|user_end|>"), start)
    return [*first, *ids[end + 1 :]]
