"""Conversations into batches: masks as written by hand, each conversation once an epoch, exact resumption."""

import random
from collections import Counter

import numpy as np
import pytest

from pynanochat.data.conversations import PackedConversations, PaddedConversations, batches_in, render
from pynanochat.data.prefetch import Prefetch
from pynanochat.errors import DataError

SPECIALS = ("bos", "user_start", "user_end", "assistant_start", "assistant_end", "python_start", "python_end")
BOS, US, UE, AS, AE, PS, PE, OS, OE = range(256, 265)


class ByteTokenizer:
    """ids = UTF-8 bytes, then the nine specials."""

    bos_id = BOS

    def encode(self, text):
        return list(text.encode())

    def special_id(self, name):
        return 256 + [*SPECIALS, "output_start", "output_end"].index(name.strip("<|>"))


TOKENIZER = ByteTokenizer()


def talk(question, answer):
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def mixture_of(count, seed=0, longest=30):
    """Conversations that can be told apart by their first three characters."""
    rng = random.Random(seed)
    return [talk(f"{i:03d}" + "q" * rng.randint(0, longest), "a" * rng.randint(1, longest)) for i in range(count)]


def padded(mixture, **settings):
    return PaddedConversations(mixture, TOKENIZER, **{"batch_size": 2, "seq_len": 64, **settings})


def packed(mixture, **settings):
    return PackedConversations(mixture, TOKENIZER, **{"batch_size": 2, "seq_len": 64, **settings})


def letters(text):
    return list(text.encode())


def names_in(ids):
    """The conversations whose beginning stands in `ids`."""
    starts = [i for i, token in enumerate(ids) if token == US]
    return [bytes(int(c) for c in ids[i + 1 : i + 4]).decode() for i in starts if i + 4 <= len(ids)]


# --- masks


def test_the_targets_are_those_of_a_hand_written_mask():
    tool = [
        {"type": "text", "text": "so "},
        {"type": "python", "text": "1+1"},
        {"type": "python_output", "text": "2"},
        {"type": "text", "text": "two"},
    ]
    mixture = [talk("hi", "yo"), talk("1+1?", tool)]
    batch = next(padded(mixture, batch_size=1, seq_len=60, epochs=1))
    # The longer one is taken first.
    tokens = [BOS, US, *letters("1+1?"), UE, AS, *letters("so "), PS, *letters("1+1"), PE, OS, *letters("2"), OE]
    tokens += [*letters("two"), AE, BOS, US, *letters("hi"), UE, AS, *letters("yo"), AE]
    said = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1]
    assert len(tokens) == len(said)
    used = len(tokens) - 1
    assert batch.inputs[0, :used].tolist() == tokens[:-1]
    expected = [token if mark else -1 for token, mark in zip(tokens[1:], said[1:], strict=True)]
    assert batch.targets[0, :used].tolist() == expected
    assert (batch.inputs[0, used:] == BOS).all() and (batch.targets[0, used:] == -1).all()
    assert batch.inputs.shape == batch.targets.shape == (1, 60) and batch.tokens == used


def test_without_the_mask_only_padding_is_left_out():
    batch = next(padded([talk("hi", "yo")], batch_size=1, seq_len=20, masked=False, epochs=1))
    tokens = [BOS, US, *letters("hi"), UE, AS, *letters("yo"), AE]
    assert batch.targets[0].tolist() == tokens[1:] + [-1] * (20 - len(tokens) + 1)


def test_one_conversation_a_row_in_order_as_long_as_the_longest():
    mixture = mixture_of(9)
    loader = padded(mixture, batch_size=4, packed=False, epochs=1)
    batches = list(loader)
    assert [len(b.inputs) for b in batches] == [4, 4, 1]
    assert [names_in(row) for b in batches for row in b.inputs] == [[f"{i:03d}"] for i in range(9)]
    for batch in batches:
        assert batch.inputs.shape[1] == max((row != -1).nonzero()[0].max() for row in batch.targets) + 1


def test_an_overlong_conversation_is_truncated_and_may_have_nothing_to_say():
    batch = next(padded([talk("q" * 100, "a")], batch_size=1, seq_len=16, epochs=1))
    assert batch.inputs[0].tolist() == [BOS, US, *letters("q" * 14)] and (batch.targets == -1).all()
    batch = next(padded([talk("q", "a" * 100)], batch_size=1, seq_len=16, epochs=1))
    assert batch.targets[0].tolist() == [-1] * 4 + letters("a" * 12)
    rows = next(packed([talk("q" * 100, "a")], batch_size=3, seq_len=16))
    assert (rows == [BOS, US, *letters("q" * 15)]).all()


# --- packing


@pytest.mark.parametrize("form", [{"packed": True}, {"packed": False}])
@pytest.mark.parametrize("world_size", [1, 3])
def test_an_epoch_of_whole_conversations_has_each_once(form, world_size):
    mixture = mixture_of(50)
    found = Counter()
    for rank in range(world_size):
        loader = padded(mixture, rank=rank, world_size=world_size, buffer_conversations=8, epochs=2, **form)
        rows = [row for batch in loader for row in batch.inputs]
        found.update(name for row in rows for name in names_in(row))
        assert loader.metrics() == {"epoch": 2.0}
    assert found == {f"{i:03d}": 2 for i in range(50)}


def test_packing_leaves_little_room():
    batches = list(padded(mixture_of(300), seq_len=256, epochs=1))
    given = sum(b.inputs.size for b in batches)
    assert sum(b.tokens for b in batches) / given > 0.95


def test_packed_rows_have_each_conversation_once_an_epoch_and_no_padding():
    class Read(list):
        def __getitem__(self, index):
            asked.append(index)
            return super().__getitem__(index)

    asked, begun = [], 0
    loader = packed(Read(mixture_of(60)), buffer_conversations=10)
    while loader.epoch < 3:
        rows = next(loader)
        assert rows.dtype == np.int32 and (rows[:, 0] == BOS).all()
        begun += int((rows == BOS).sum())  # cropped or not, each conversation shows its bos
    assert [sorted(asked[i : i + 60]) for i in (0, 60, 120)] == [list(range(60))] * 3
    assert begun == round(loader.metrics()["epoch"] * 60) and 180 <= begun < 190


def test_later_epochs_have_another_order():
    loader = padded(mixture_of(20), packed=False, batch_size=20)
    first, second = ([names_in(row)[0] for row in next(loader).inputs] for _ in range(2))
    assert sorted(first) == sorted(second) and first != second


def test_steps_are_counted_as_they_will_be_taken():
    count = batches_in(packed(mixture_of(40)), epochs=2)
    loader = packed(mixture_of(40))
    for _ in range(count - 1):
        next(loader)
    assert loader.epoch < 2
    next(loader)
    assert loader.epoch >= 2


# --- resumption


@pytest.mark.parametrize("make", [packed, padded, lambda m, **s: padded(m, packed=False, **s)])
@pytest.mark.parametrize("after", [0, 1, 5, 17])
def test_a_loader_that_loads_a_state_goes_on_bit_for_bit(make, after):
    settings = {"buffer_conversations": 7, "rank": 1, "world_size": 2}
    loader = make(mixture_of(30), **settings)
    for _ in range(after):
        next(loader)
    other = make(mixture_of(30), **settings)
    other.load_state_dict(loader.state_dict())
    for _ in range(20):
        a, b = next(loader), next(other)
        for x, y in zip(parts(a), parts(b), strict=True):
            np.testing.assert_array_equal(x, y)
        assert loader.metrics() == other.metrics()


def parts(batch):
    return (batch,) if isinstance(batch, np.ndarray) else (batch.inputs, batch.targets)


def test_states_of_other_settings_are_refused():
    state = padded(mixture_of(30)).state_dict()
    with pytest.raises(DataError, match=r"conversations 30, this run has 31.*--fresh"):
        padded(mixture_of(31)).load_state_dict(state)
    with pytest.raises(DataError, match="world_size 1, this run has 2"):
        padded(mixture_of(30), world_size=2).load_state_dict(state)


def test_prefetched_metrics_are_those_of_the_batch_given():
    plain, ahead = padded(mixture_of(30)), Prefetch(padded(mixture_of(30)))
    for _ in range(4):
        next(plain), next(ahead)
        assert ahead.metrics() == plain.metrics()
    ahead.close()


# --- errors


def test_an_empty_mixture_says_what_to_do():
    with pytest.raises(DataError, match=r"0 conversations.*sft/\*\.jsonl"):
        padded([])
    with pytest.raises(DataError, match="3 conversations for 4 micro-batches"):
        packed(mixture_of(3), world_size=4)


def test_a_malformed_conversation_is_named():
    mixture = [*mixture_of(5), {"messages": [{"role": "assistant", "content": "first"}]}]
    with pytest.raises(DataError, match="conversation 5 of the mixture: message 0 has role"):
        list(padded(mixture, epochs=1))


def test_documents_stand_among_conversations_and_all_of_their_text_is_learned():
    tokenizer = ByteTokenizer()
    ids, mask = render(tokenizer, {"text": "A page."}, 100)
    assert ids == [tokenizer.bos_id, *b"A page."] and mask == [0] + [1] * 7
    assert render(tokenizer, {"text": "A page."}, 3) == (ids[:3], mask[:3])
    talk = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "ans"}]}
    loader = PaddedConversations([{"text": "A page."}, talk], tokenizer, batch_size=1, seq_len=40)
    targets = next(loader).targets[0]
    learned = [t for t in targets.tolist() if t >= 0]
    assert sorted(learned) == sorted([*b"A page.", *b"ans", AE])
