"""Rollouts as the training loop's streams: every rank samples its questions of a step at once and deals the rows out.

    shared = StepRollouts(questions, generate, tokenizer, sampling, questions_per_step=16, rows=32, streams=8, ...)
    streams = {i: Stream(shared, i) for i in shared.mine}

The rollouts of a step depend on the seed, the step and the weights alone: a stream's state is its step, and a run that
goes on from a checkpoint samples what an uninterrupted one does. With `uses` above 1 a set of rollouts serves several
steps; then the rows under way are part of the state.
"""

import statistics

import numpy as np
import torch

from pynanochat.evals.ranks import gather
from pynanochat.runtime import Ranks
from pynanochat.stages.rollouts import Group, MicroBatch, Questions, Sampling, micro_batches, roll_out, trained_tokens


class StepRollouts:
    """What this rank samples, set by set.

    generate: see rollouts.py. questions_per_step: over all ranks. rows: of a micro-batch. streams: micro-batches of a
    step over all ranks. reference: a frozen model; rows then carry its -log p, and those without a signal stay in.
    """

    def __init__(
        self,
        questions: Questions,
        generate,
        tokenizer,
        sampling: Sampling,
        *,
        seed: int,
        questions_per_step: int,
        rows: int,
        streams: int,
        device,
        ranks: Ranks | None = None,
        divide_by_std: bool = False,
        reference=None,
    ):
        self.questions, self.generate, self.tokenizer, self.sampling = questions, generate, tokenizer, sampling
        self.seed, self.questions_per_step, self.rows, self.stream_count = seed, questions_per_step, rows, streams
        self.device, self.ranks, self.divide_by_std, self.reference = device, ranks or Ranks(), divide_by_std, reference
        self.mine = range(self.ranks.rank, streams, self.ranks.world_size)
        self.metrics: dict[str, float] = {}
        self._drawn, self._batches = -1, {}

    def batch(self, draw: int, stream: int) -> MicroBatch:
        """The micro-batch of `stream` in set number `draw`; the first stream that asks has the set sampled."""
        if draw != self._drawn:
            self._batches = dict(zip(self.mine, self._sample(draw), strict=True))
            self._drawn = draw
        return self._batches[stream]

    def _sample(self, draw: int) -> list[MicroBatch]:
        first = draw * self.questions_per_step
        numbers = range(first + self.ranks.rank, first + self.questions_per_step, self.ranks.world_size)
        groups = roll_out(
            [self.questions[n] for n in numbers],
            self.generate,
            self.tokenizer,
            self.sampling,
            seed=self.seed,
            divide_by_std=self.divide_by_std,
        )
        batches = micro_batches(
            groups,
            rows=self.rows,
            count=len(self.mine),
            pad=self.tokenizer.bos_id,
            all_rows=self.reference is not None,
        )
        facts = gather([facts_of(group) for group in groups], self.ranks, self.device)
        self.metrics = summary(facts)
        # The loop takes the mean over the streams; a step's loss is the sum over all its tokens, over their number.
        scale = self.stream_count / max(1, sum(fact["trained_tokens"] for fact in facts))
        batches = [batch.to(self.device) for batch in batches]
        for batch in batches:
            batch.scale = scale
            if self.reference is not None:
                with torch.no_grad():
                    batch.reference = self.reference(batch.ids, batch.targets, reduction="none")
        return batches


class Stream:
    """One micro-batch of each step; `uses` steps share a set of rollouts."""

    def __init__(self, shared: StepRollouts, number: int, uses: int = 1):
        self.shared, self.number, self.uses = shared, number, uses
        self.step, self._batch = 0, None

    def __next__(self) -> MicroBatch:
        draw, use = divmod(self.step, self.uses)
        if use == 0:
            self._batch = self.shared.batch(draw, self.number)
        self.step += 1
        return self._batch

    def metrics(self) -> dict[str, float]:
        return self.shared.metrics

    def state_dict(self) -> dict:
        state = {"step": self.step}
        if self.step % self.uses:
            kept = {k: v for k, v in vars(self._batch).items() if v is not None}
            state |= {k: v.cpu().numpy() if isinstance(v, torch.Tensor) else v for k, v in kept.items()}
            state["metrics"] = self.shared.metrics
        return state

    def load_state_dict(self, state: dict) -> None:
        state = dict(state)
        self.step = state.pop("step")
        self._batch = None
        if state:
            self.shared.metrics = state.pop("metrics")
            tensors = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in state.items()}
            self._batch = MicroBatch(**tensors).to(self.shared.device)


def facts_of(group: Group) -> dict:
    """What is counted of a group, ready for JSON."""
    return {
        "task": group.question.task.name,
        "number": group.question.number,
        "rewards": [answer.reward for answer in group.answers],
        "lengths": [answer.length for answer in group.answers],
        "tool_calls": [answer.tool_calls for answer in group.answers],
        "stopped": [answer.finish == "stop" for answer in group.answers],
        "signal": group.signal,
        "trained_tokens": trained_tokens([group]),
    }


def summary(facts: list[dict]) -> dict[str, float]:
    """Means over all answers: reward (also of each task), the share of groups with a signal, tokens, tool calls, and
    the share of answers that ended by themselves."""
    facts = sorted(facts, key=lambda fact: fact["number"])  # so that ranks sum in the order of one process

    def mean(name: str, those: list[dict] = facts) -> float:
        return statistics.fmean(value for fact in those for value in fact[name])

    found = {"reward": mean("rewards")}
    tasks = sorted({fact["task"] for fact in facts})
    if len(tasks) > 1:
        found |= {f"reward/{task}": mean("rewards", [f for f in facts if f["task"] == task]) for task in tasks}
    found["signal"] = statistics.fmean(fact["signal"] for fact in facts)
    return found | {
        "answer_tokens": mean("lengths"),
        "tool_calls": mean("tool_calls"),
        "stopped": mean("stopped"),
    }
