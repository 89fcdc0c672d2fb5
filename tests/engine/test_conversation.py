"""Conversations that outgrow the context."""

import subprocess
import sys

import pytest

from pynanochat.engine import Engine
from pynanochat.engine.conversation import fit, left_out
from pynanochat.errors import DataError, UsageError
from pynanochat.tokenizer import Tokenizer, render_for_completion
from tests.engine.fakes import ByteTokenizer, small_model

TOKENIZER = ByteTokenizer()
MARKS = 4  # tokens around a user message and its answer


def talk(turns, length=6, system=None):
    """`turns` turns of messages of `length` bytes, and a last question."""
    messages = [{"role": "system", "content": system}] if system else []
    for i in range(turns):
        messages += [{"role": "user", "content": f"u{i:0{length - 1}}"}]
        messages += [{"role": "assistant", "content": f"a{i:0{length - 1}}"}]
    return [*messages, {"role": "user", "content": "q" * length}]


def test_what_fits_is_whole():
    ids, dropped = fit(TOKENIZER, talk(3), context=100, wanted=25)
    assert (len(ids), dropped) == (1 + 3 * (2 * 6 + MARKS) + 6 + 3, 0)
    assert ids == render_for_completion(TOKENIZER, talk(3))


@pytest.mark.parametrize("turns", [5, 6, 60])
def test_the_oldest_turns_go(turns):
    ids, dropped = fit(TOKENIZER, talk(turns), context=100, wanted=512)
    assert ids == render_for_completion(TOKENIZER, talk(turns)[2 * dropped :])
    assert ids[0] == TOKENIZER.bos_id
    assert len(ids) <= 75 < len(render_for_completion(TOKENIZER, talk(turns)[2 * (dropped - 1) :]))


def test_a_short_answer_leaves_more_of_the_conversation():
    most, least = (fit(TOKENIZER, talk(9), context=100, wanted=wanted)[1] for wanted in (512, 1))
    assert least < most


def test_the_system_message_stays():
    ids, dropped = fit(TOKENIZER, talk(9, system="be brief"), context=100, wanted=25)
    assert dropped > 0 and b"be brief" in bytes(i for i in ids if i < 256)
    assert ids == render_for_completion(TOKENIZER, [talk(9, system="be brief")[0], *talk(9)[2 * dropped :]])


def test_one_message_that_is_too_long():
    ids, _ = fit(TOKENIZER, talk(0, length=95), context=100, wanted=512)
    assert len(ids) == 99
    with pytest.raises(UsageError, match="the last message takes 100 tokens and the context holds 100"):
        fit(TOKENIZER, talk(0, length=96), context=100, wanted=1)
    with pytest.raises(UsageError, match="shorter"):
        fit(TOKENIZER, talk(5, length=96), context=100, wanted=1)


TRAINED = Tokenizer.train(
    ["Anna lives in a red house. " * 50 + "\U0001f469\u200d\U0001f680 caf\u00e9 12+3"], vocab_size=300
)


def long_talk(turns, system):
    """Turns with emoji of many tokens and with calls of the tool."""
    messages = [{"role": "system", "content": system}] if system else []
    for turn in range(turns):
        answer = [
            {"type": "text", "text": f"That is \U0001f469\u200d\U0001f680 {turn}: "},
            {"type": "python", "text": f"{turn}+3"},
            {"type": "python_output", "text": str(turn + 3)},
            {"type": "text", "text": "!" * (turn % 5)},
        ]
        messages.append(
            {"role": "user", "content": f"What is {turn}+3? \U0001f980\U0001f1e9\U0001f1ea" * (1 + turn % 3)}
        )
        messages.append({"role": "assistant", "content": answer if turn % 4 else f"caf\u00e9 {turn} \u4e16\u754c"})
    return [*messages, {"role": "user", "content": "And in all? \U0001f600"}]


@pytest.mark.parametrize("system", [None, "Be brief \U0001f600"])
@pytest.mark.parametrize("context", [60, 100, 333, 1000, 4000, 100_000])
def test_sixty_turns_beyond_the_context(system, context):
    """What is left is what rendering the rest afresh gives, and one more turn would not have fitted."""
    messages = long_talk(60, system)
    ids, dropped = fit(TRAINED, messages, context, wanted=50)
    rest = lambda n: messages[: bool(system)] + messages[bool(system) + 2 * n :]  # noqa: E731
    assert ids == render_for_completion(TRAINED, rest(dropped)) and ids[0] == TRAINED.bos_id
    room = context - min(50, context // 4)
    assert len(ids) <= room
    assert (dropped == 0) == (context == 100_000)
    assert not dropped or len(render_for_completion(TRAINED, rest(dropped - 1))) > room
    assert left_out(dropped, context) == (
        f"The {dropped} oldest turns were left out: the context holds {context:,} tokens." if dropped else ""
    )


def test_special_tokens_in_the_text_do_not_begin_turns():
    messages = talk(9)
    messages[0]["content"] = messages[8]["content"] = "<|user_start|><|user_end|>"
    ids, dropped = fit(TRAINED, messages, context=150, wanted=10)
    assert 0 < dropped <= 4 and ids == render_for_completion(TRAINED, messages[2 * dropped :])


def test_it_needs_no_torch():
    code = "import sys, pynanochat.engine.conversation, pynanochat.engine.requests, pynanochat.engine.events"
    subprocess.run([sys.executable, "-c", f"{code}; sys.exit('torch' in sys.modules)"], check=True)


@pytest.mark.parametrize("messages", [[], talk(1)[:-1], [{"role": "user"}], talk(1)[1:], "hi"])
def test_what_is_no_conversation(messages):
    with pytest.raises(DataError):
        fit(TOKENIZER, messages, context=100, wanted=10)


def test_sixty_turns_through_the_engine():
    """Never beyond the context, never an error, and the reader is told."""
    engine = Engine(small_model(), TOKENIZER)  # 96 tokens
    messages, noticed = [], 0
    for turn in range(60):
        messages.append({"role": "user", "content": f"number {turn}"})
        events = list(engine.chat_events(messages, max_tokens=8, seed=turn, tools=False))
        notices = [e.text for e in events if e.kind == "notice"]
        noticed += bool(notices)
        assert all("left out: the context holds 96 tokens" in n for n in notices) and events[-1].kind == "end"
        assert [e.kind for e in events].index("notice") == 0 if notices else True
        answer = "".join(e.text for e in events if e.kind == "text")
        messages.append({"role": "assistant", "content": answer})
    assert 50 < noticed < 60


def test_pieces_are_those_of_the_events():
    engine = Engine(small_model(), TOKENIZER)
    settings = {"max_tokens": 30, "seed": 5, "temperature": 1.0}
    question = [{"role": "user", "content": "hi"}]
    events = list(engine.chat_events(question, **settings))
    assert list(engine.chat(question, **settings)) == [e.text for e in events if e.kind == "text"]
    with pytest.raises(UsageError):  # at once, not with the first piece
        engine.chat([{"role": "user", "content": "x" * 200}])
