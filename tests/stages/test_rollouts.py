"""Rollouts: counts, order, masks, advantages, micro-batches, and a loss whose gradient is REINFORCE's."""

import copy
from collections import Counter

import pytest
import torch

from pynanochat.engine import Engine
from pynanochat.engine.engine import Generated
from pynanochat.errors import DataError
from pynanochat.stages.rollouts import (
    Questions,
    Sampling,
    advantages,
    micro_batches,
    policy_loss,
    roll_out,
    row,
    said,
    seed_of,
    trained_tokens,
)
from pynanochat.tasks.base import Task
from tests.engine.fakes import ByteTokenizer, small_model

TOKENIZER = ByteTokenizer()
SPECIAL = TOKENIZER.special_tokens
END = SPECIAL["<|assistant_end|>"]


class Asking(Task):
    """Pays 1 for an answer that contains the wanted letter, of which each question names another."""

    kind = "generate"

    def __init__(self, name="Asking", size=5, question="letter {}?"):
        self.name, self.size, self.question = name, size, question

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        letter = chr(ord("a") + index)
        question = {"role": "user", "content": self.question.format(letter)}
        return {"messages": [question, {"role": "assistant", "content": letter}], "letter": letter}

    def grade(self, conversation, answer):
        return conversation["letter"] in answer


class Flat(Asking):
    """Pays every answer alike."""

    def reward(self, conversation, answer):
        return 0.1


def questions_of(*tasks, seed=0, longest_prompt=64):
    return Questions(list(tasks), TOKENIZER, seed=seed, longest_prompt=longest_prompt)


def answer(text, *, stop=END, tool=""):
    """A Generated that says `text`, then calls a tool on `tool` whose output "3" is forced in."""
    ids, forced = list(text.encode()), [False] * len(text)
    if tool:
        call = [SPECIAL["<|python_start|>"], *tool.encode(), SPECIAL["<|python_end|>"]]
        output = [SPECIAL["<|output_start|>"], *b"3", SPECIAL["<|output_end|>"]]
        ids, forced = ids + call + output, forced + [False] * len(call) + [True] * len(output)
    return Generated(ids, forced, "length" if stop is None else "stop", stop)


def scripted(*texts):
    """A generate that gives these answers to every question."""

    def generate(prompts, *, samples, max_tokens, temperature, top_k, seed):
        assert len(seed) == len(prompts) and samples == len(texts)
        return [[answer(text) if isinstance(text, str) else text for text in texts] for _ in prompts]

    return generate


def roll(tasks, *texts, count=2, **options):
    questions = questions_of(*tasks)
    asked = [questions[n] for n in range(count)]
    return roll_out(asked, scripted(*texts), TOKENIZER, Sampling(len(texts)), seed=0, **options)


# --- questions


def test_each_epoch_asks_every_question_once_in_another_order():
    questions = questions_of(Asking(size=7))
    epochs = [[questions[7 * e + i].conversation["letter"] for i in range(7)] for e in range(3)]
    assert all(sorted(epoch) == list("abcdefg") for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    again = questions_of(Asking(size=7))
    assert [again[7 + i].conversation["letter"] for i in range(7)] == epochs[1]  # from anywhere
    assert [questions_of(Asking(size=7), seed=1)[i].conversation["letter"] for i in range(7)] != epochs[0]


def test_tasks_take_turns_whatever_their_sizes():
    questions = questions_of(Asking("Small", 3), Asking("Large", 20))
    assert [questions[n].task.name for n in range(6)] == ["Small", "Large"] * 3
    assert questions.epoch == 6


def test_a_prompt_ends_where_the_assistant_begins():
    prompt = questions_of(Asking(size=1))[0].prompt
    assert prompt == [
        SPECIAL["<|bos|>"],
        SPECIAL["<|user_start|>"],
        *b"letter a?",
        SPECIAL["<|user_end|>"],
        SPECIAL["<|assistant_start|>"],
    ]


def test_overlong_questions_give_their_place_to_others():
    class Uneven(Asking):
        def __getitem__(self, index):
            made = super().__getitem__(index)
            made["messages"][0]["content"] += "!" * 40 * (index % 2)
            return made

    questions = questions_of(Uneven(size=6), longest_prompt=20)
    assert {questions[n].conversation["letter"] for n in range(12)} == {"a", "c", "e"}
    with pytest.raises(DataError, match="--max-new-tokens"):
        questions_of(Asking(), longest_prompt=5)[0]
    with pytest.raises(DataError, match="Empty"):
        questions_of(Asking("Empty", 0))


# --- answers


@pytest.mark.parametrize("rows", [1, 5, 64])
def test_exact_counts_and_equal_answers_however_they_are_batched(rows):
    engine = Engine(small_model(), TOKENIZER)

    def generate(prompts, **settings):
        return engine.generate_batch(prompts, rows=rows, **settings)

    questions = questions_of(Asking())
    sampling = Sampling(samples=6, max_tokens=8)
    together = roll_out([questions[n] for n in range(4)], generate, TOKENIZER, sampling, seed=3)
    assert [len(group.answers) for group in together] == [6] * 4
    for n, group in enumerate(together):
        [alone] = roll_out([questions[n]], generate, TOKENIZER, sampling, seed=3)
        assert [a.inputs for a in alone.answers] == [a.inputs for a in group.answers]
        assert len({tuple(a.inputs) for a in group.answers}) > 1
    first = [[a.text for a in group.answers] for group in together]
    other = roll_out([questions[n] for n in range(4)], generate, TOKENIZER, sampling, seed=4)
    assert [[a.text for a in group.answers] for group in other] != first


def test_questions_draw_different_numbers():
    assert len({seed_of(seed, number) for seed in range(20) for number in range(20)}) == 400
    assert all(0 <= seed_of(0, n) < 2**63 for n in range(50))


def test_the_mask_leaves_out_prompt_and_tool_output_and_keeps_the_stop_token():
    said_then_called = answer("ab", tool="1+2")
    inputs, targets = row([1, 2, 3], said_then_called)
    call = [SPECIAL["<|python_start|>"], *b"1+2", SPECIAL["<|python_end|>"]]
    output = [SPECIAL["<|output_start|>"], *b"3", SPECIAL["<|output_end|>"]]
    assert inputs == [1, 2, 3, *b"ab", *call, *output]
    assert targets == [-1, -1, *b"ab", *call, -1, -1, -1, END]
    inputs, targets = row([1, 2, 3], answer("ab", stop=None))
    assert (inputs, targets) == ([1, 2, 3, *b"a"], [-1, -1, *b"ab"])


def test_tasks_see_what_was_said_without_tool_calls():
    assert said(TOKENIZER, answer("it is ", tool="1+2")) == "it is "
    [group] = roll([Asking(size=1)], answer("b", tool="a"), "a", count=1)
    assert [a.reward for a in group.answers] == [0.0, 1.0]
    assert [a.tool_calls for a in group.answers] == [1, 0]
    assert [a.length for a in group.answers] == [1 + 3 + 3 + 1, 2]


def test_advantages_are_rewards_less_their_mean():
    assert advantages([1, 0, 0, 0]) == [0.75, -0.25, -0.25, -0.25]
    assert advantages([3.0, 1.0], divide_by_std=True) == [1.0, -1.0]
    for divide in (False, True):
        assert advantages([0.1] * 7, divide) == [0.0] * 7


# --- rows


def test_micro_batches_hold_what_gives_a_signal_and_nothing_else():
    groups = roll([Asking(size=1), Flat(size=1)], "a", "bbbb", "c", count=2)
    assert [group.signal for group in groups] == [True, False]
    batches = micro_batches(groups, rows=2, count=3, pad=7)
    assert [tuple(b.ids.shape) for b in batches] == [(2, 17), (1, 14), (1, 1)]
    longest = batches[0]
    assert longest.targets[0].tolist() == [-1] * 12 + [*b"bbbb", END]
    assert longest.targets[1].tolist() == [-1] * 12 + [*b"a", END, -1, -1, -1]
    assert longest.ids[1, -3:].tolist() == [7] * 3
    torch.testing.assert_close(longest.advantages, torch.tensor([-1 / 3, 2 / 3]))
    assert batches[2].targets.tolist() == [[-1]]
    assert trained_tokens(groups) == 2 * (2 + 5 + 2)
    everything = micro_batches(groups, rows=2, count=3, pad=7, all_rows=True)
    assert sum(b.ids.size(0) for b in everything) == 6


# --- the loss


def sampled_batches(model, rows=3, count=4, **options):
    """Micro-batches of real samples with made-up advantages, so that all of them count."""
    questions = questions_of(Asking())
    generate = Engine(model, TOKENIZER).generate_batch
    asked = [questions[n] for n in range(3)]
    groups = roll_out(asked, generate, TOKENIZER, Sampling(samples=4, max_tokens=9, top_k=0), seed=1)
    for i, one in enumerate(a for group in groups for a in group.answers):
        one.advantage = (i % 5 - 2) / 3
    batches = micro_batches(groups, rows=rows, count=count, pad=END)
    for batch in batches:
        batch.scale = 1 / trained_tokens(groups)
    return groups, batches


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def assert_same_gradients(a, b):
    for name, gradient in a.items():
        torch.testing.assert_close(b[name], gradient, rtol=1e-3, atol=1e-6, msg=lambda m, name=name: f"{name}: {m}")


def reinforce_by_hand(model, groups):
    """-Σ advantage · log p(token | what stands before it) over chosen tokens / their number, one answer at a time."""
    total, count = 0.0, 0
    for group in groups:
        for one in group.answers:
            logp = model(torch.tensor([one.inputs])).log_softmax(-1)[0]
            for position, target in enumerate(one.targets):
                if target != -1:
                    total = total - one.advantage * logp[position, target]
                    count += 1
    return total / count


def test_the_gradient_is_reinforce_by_hand():
    model = small_model()
    groups, batches = sampled_batches(model)
    by_hand = gradients(model, reinforce_by_hand(model, groups))
    ours = gradients(model, sum(policy_loss(model, batch) for batch in batches))
    assert max(g.abs().max() for g in by_hand.values()) > 1e-3
    assert_same_gradients(by_hand, ours)


def test_on_policy_the_clip_changes_nothing():
    model = small_model()
    _, batches = sampled_batches(model)
    plain = gradients(model, sum(policy_loss(model, batch) for batch in batches))
    clipped = gradients(model, sum(policy_loss(model, batch, clip=0.2) for batch in batches))
    assert_same_gradients(plain, clipped)


def test_off_policy_the_clip_stops_what_went_too_far():
    """With log-ratios of ±1 the objective is flat where the advantage asks for more of the same."""
    model = small_model()
    _, [batch, *_] = sampled_batches(model)
    nll = model(batch.ids, batch.targets, reduction="none").detach()
    for shift, kept in ((1.0, batch.advantages < 0), (-1.0, batch.advantages > 0)):
        batch.sampled = nll + shift  # the ratio is e or 1/e
        clipped = gradients(model, policy_loss(model, batch, clip=0.2))
        part = copy.copy(batch)
        part.advantages = torch.where(kept, batch.advantages, 0.0) * torch.e**shift
        assert_same_gradients(gradients(model, policy_loss(model, part)), clipped)


def test_kl_is_zero_at_the_reference_and_pulls_back_to_it():
    model, reference = small_model(), small_model(seed=5)
    _, [batch, *_] = sampled_batches(model)
    batch.advantages = torch.zeros_like(batch.advantages)
    batch.reference = model(batch.ids, batch.targets, reduction="none").detach()
    loss = policy_loss(model, batch, kl=1.0)
    assert loss.item() == 0.0 and all(g.abs().max() < 1e-6 for g in gradients(model, loss).values())
    batch.reference = reference(batch.ids, batch.targets, reduction="none").detach()
    before = policy_loss(model, batch, kl=1.0)
    assert before > 0
    step = gradients(model, before)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter -= 1e-3 * step[name] / sum(g.norm() ** 2 for g in step.values()).sqrt()
    assert policy_loss(model, batch, kl=1.0) < before


def test_rows_without_a_target_give_no_loss_and_no_nan():
    model = small_model()
    batches = micro_batches(roll([Flat(size=2)], "a", "b"), rows=2, count=2, pad=0)
    for batch in batches:
        batch.scale = 1.0
        for options in ({}, {"clip": 0.2}):
            loss = policy_loss(model, batch, **options)
            assert loss.item() == 0.0
            assert Counter(bool(g.any()) for g in gradients(model, loss).values()).keys() == {False}
