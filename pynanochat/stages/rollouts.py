"""Rollouts: answers that a model samples to reward tasks, what they are paid, and the rows that teach it.

    questions = Questions(tasks, tokenizer, seed=0, longest_prompt=256)
    asked = [questions[n] for n in range(16)]                     the n-th question of an endless, fixed order
    groups = roll_out(asked, generate, tokenizer, Sampling(samples=16), seed=0)
    batches = micro_batches(groups, rows=32, count=8, pad=0)      rows whose group gives a signal, padded alike

`generate(prompts, *, samples, max_tokens, temperature, top_k, seed) -> list[list[Generated]]` is handed in: it is the
engine's generate_batch. An answer's advantage is its reward less the mean of its group, the answers to the same
question; a group whose answers are all paid alike teaches nothing and is left out of the rows.

B rows of a micro-batch, T positions.
"""

import hashlib
import statistics
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import torch

from pynanochat.data.mixture import order
from pynanochat.engine.events import answer_events
from pynanochat.errors import DataError
from pynanochat.tokenizer.chat import render_for_completion

IGNORED = -1  # a target that is not trained on


class Question(NamedTuple):
    """One question of a reward task."""

    task: object
    """Its Task, whose `reward` pays."""
    conversation: dict
    prompt: list[int]
    """What the model reads: up to and with <|assistant_start|>."""
    number: int
    """Its place in the order, which seeds its answers."""


class Questions:
    """The questions of `tasks` in an endless order that the seed fixes: [n] is the n-th.

    The tasks take turns; each is gone through in a new shuffle every time. A question whose prompt has more than
    `longest_prompt` tokens gives its place to the next one of its task. Raises DataError where all are too long.
    """

    def __init__(self, tasks: list, tokenizer, *, seed: int, longest_prompt: int):
        self.tasks, self.tokenizer, self.seed, self.longest_prompt = tasks, tokenizer, seed, longest_prompt
        if not tasks or not all(len(task) for task in tasks):
            empty = ", ".join(task.name for task in tasks) or "none are named"
            raise DataError(f"no questions to learn from in the reward tasks ({empty}); name others with --tasks")
        self._order = lru_cache(maxsize=2 * len(tasks))(self._shuffled)

    @property
    def epoch(self) -> int:
        """Questions until the smallest task has been asked once."""
        return len(self.tasks) * min(len(task) for task in self.tasks)

    def __getitem__(self, number: int) -> Question:
        place, which = divmod(number, len(self.tasks))
        task = self.tasks[which]
        for at in range(place, place + len(task)):
            turn, index = divmod(at, len(task))
            conversation = task[int(self._order(which, turn)[index])]
            prompt = render_for_completion(self.tokenizer, conversation["messages"][:-1])
            if len(prompt) <= self.longest_prompt:
                return Question(task, conversation, prompt, number)
        raise DataError(
            f"{task.name}: every question has more than the {self.longest_prompt} tokens that leave room for an "
            "answer; use fewer --max-new-tokens or leave the task out of --tasks"
        )

    def _shuffled(self, which: int, turn: int):
        seed = _digest(f"questions/{self.seed}/{which}/{turn}")
        return order(len(self.tasks[which]), seed)


@dataclass
class Answer:
    """One sampled answer, paid."""

    inputs: list[int]
    """Prompt and answer without the last token."""
    targets: list[int]
    """The token after each input, or -1 where the model did not choose it: in the prompt and in a tool's output."""
    text: str
    """What it says, without tool calls."""
    length: int
    """Tokens, a tool's output and the stop token included."""
    tool_calls: int
    finish: str
    reward: float
    advantage: float = 0.0


@dataclass
class Group:
    """The answers to one question."""

    question: Question
    answers: list[Answer] = field(default_factory=list)

    @property
    def signal(self) -> bool:
        return any(answer.advantage for answer in self.answers)


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn."""

    samples: int = 16
    """Answers to each question."""
    max_tokens: int = 256
    temperature: float = 1.0
    top_k: int = 50


def roll_out(
    questions: list[Question], generate, tokenizer, sampling: Sampling, *, seed: int, divide_by_std: bool = False
) -> list[Group]:
    """Exactly sampling.samples answers to each question, with their rewards and advantages.

    The random numbers of a question are those of (seed, its number): they do not depend on what else is asked with it.
    """
    answers = generate(
        [question.prompt for question in questions],
        **vars(sampling),
        seed=[seed_of(seed, question.number) for question in questions],
    )
    groups = []
    for question, generated in zip(questions, answers, strict=True):
        group = Group(question, [_paid(question, one, tokenizer) for one in generated])
        gains = advantages([answer.reward for answer in group.answers], divide_by_std)
        for answer, gain in zip(group.answers, gains, strict=True):
            answer.advantage = gain
        groups.append(group)
    return groups


def seed_of(seed: int, number: int) -> int:
    """A seed of 63 bits for question `number` of a run with `seed`."""
    return _digest(f"answers/{seed}/{number}")


def _digest(text: str) -> int:
    """63 bits of a hash of `text`."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def advantages(rewards: list[float], divide_by_std: bool = False) -> list[float]:
    """Each reward less the mean of all; over their standard deviation if wanted. All zero where all are alike."""
    if min(rewards) == max(rewards):  # the mean of equal numbers may differ from them in the last digit
        return [0.0] * len(rewards)
    mean = statistics.fmean(rewards)
    scale = statistics.pstdev(rewards) if divide_by_std else 1.0
    return [(reward - mean) / scale for reward in rewards]


def _paid(question: Question, generated, tokenizer) -> Answer:
    text = said(tokenizer, generated)
    inputs, targets = row(question.prompt, generated)
    return Answer(
        inputs=inputs,
        targets=targets,
        text=text,
        length=len(inputs) + 1 - len(question.prompt),
        tool_calls=generated.ids.count(tokenizer.special_tokens["<|python_start|>"]),
        finish=generated.finish,
        reward=float(question.task.reward(question.conversation, text)),
    )


def said(tokenizer, generated) -> str:
    """The text of an answer as tasks judge it: without tool calls and their outputs."""
    events = answer_events(tokenizer, generated.ids, generated.forced)
    return "".join(event.text for event in events if event.kind == "text")


def row(prompt: list[int], generated) -> tuple[list[int], list[int]]:
    """(inputs, targets) of one answer, equally long. Trained on is what the model chose: its tokens, and the stop token
    that ended it; not the prompt and not what a tool put in."""
    stop = [] if generated.stop_id is None else [generated.stop_id]
    whole = [*prompt, *generated.ids, *stop]
    chosen = [not forced for forced in generated.forced] + [True] * len(stop)
    targets = [IGNORED] * (len(prompt) - 1)
    targets += [id if mine else IGNORED for id, mine in zip(whole[len(prompt) :], chosen, strict=True)]
    return whole[:-1], targets


def trained_tokens(groups: list[Group]) -> int:
    """Tokens that the model chose, over all answers of all groups, those without a signal too."""
    return sum(t != IGNORED for group in groups for answer in group.answers for t in answer.targets)


@dataclass
class MicroBatch:
    """Rows (B, T) that go through the model together. `scale` is what a sum over its tokens is multiplied by."""

    ids: torch.Tensor
    targets: torch.Tensor
    advantages: torch.Tensor  # (B,)
    tokens: int  # that go through the model, without padding
    scale: float = 0.0
    sampled: torch.Tensor | None = None  # (B, T) -log p of the targets when they were sampled
    reference: torch.Tensor | None = None  # (B, T) -log p of the targets under the starting policy

    def to(self, device) -> "MicroBatch":
        moved = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, torch.Tensor)}
        return MicroBatch(**vars(self) | moved)


def micro_batches(groups: list[Group], *, rows: int, count: int, pad: int, all_rows: bool = False) -> list[MicroBatch]:
    """`count` micro-batches of at most `rows` rows: the answers that give a signal, longest with longest, padded with
    `pad`. Those that are not needed hold one ignored token. `all_rows` keeps answers without a signal too."""
    answers = [answer for group in groups if all_rows or group.signal for answer in group.answers]
    answers.sort(key=lambda answer: -len(answer.inputs))
    assert len(answers) <= rows * count
    return [_padded(answers[at : at + rows], pad) for at in range(0, rows * count, rows)]


def _padded(answers: list[Answer], pad: int) -> MicroBatch:
    shape = max(1, len(answers)), max((len(answer.inputs) for answer in answers), default=1)
    ids = torch.full(shape, pad, dtype=torch.int64)
    targets = torch.full(shape, IGNORED, dtype=torch.int64)
    for i, answer in enumerate(answers):
        ids[i, : len(answer.inputs)] = torch.tensor(answer.inputs)
        targets[i, : len(answer.targets)] = torch.tensor(answer.targets)
    gains = [answer.advantage for answer in answers] or [0.0]
    tokens = sum(len(answer.inputs) for answer in answers)
    return MicroBatch(ids, targets, torch.tensor(gains, dtype=torch.float32), tokens)


def policy_loss(forward, batch: MicroBatch, *, clip: float = 0.0, kl: float = 0.0):
    """The loss whose gradient is REINFORCE's: `scale` · Σ over trained tokens of -advantage · ∇ log p.

    forward(ids, targets, reduction="none") gives -log p (B, T) fp32, 0 where ignored. With `clip` it is PPO's objective
    for the ratio of p to what it was when the batch was first used, held within 1 ± clip. With `kl` the estimate
    exp(-d) + d - 1 of the divergence from the starting policy is added, d = log p - log p of the reference.
    """
    nll = forward(batch.ids, batch.targets, reduction="none")
    gains = batch.advantages[:, None]
    if clip:
        if batch.sampled is None:
            batch.sampled = nll.detach()
        ratio = (batch.sampled - nll).exp()
        loss = -torch.minimum(ratio * gains, ratio.clamp(1 - clip, 1 + clip) * gains)
    else:
        loss = gains * nll
    if kl:
        difference = batch.reference - nll  # log p - log p of the reference
        loss = loss + kl * ((-difference).exp() + difference - 1)
    return (loss * (batch.targets != IGNORED)).sum() * batch.scale
