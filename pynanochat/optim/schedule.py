"""How learning rate, Muon's momentum and weight decay move over a stage.

    schedule = SCHEDULES["2026"]["pretrain"]
    lr_multiplier, momentum, decay_multiplier = schedule.at(step, total)    # step counts from 0 to total - 1

The learning rate climbs linearly over `warmup_steps` (step s runs at (s+1)/warmup), stays at 1, and falls linearly to
`final` over the last `warmdown` of the run (step s of n runs at (n-s)/warmdown steps: the first step of the fall
still runs at 1, the last one just above `final`). All of it is times `scale`.

Short runs: the warmup takes at most a tenth of the run, and the ramp of the momentum ends no later than the warmdown
begins. So 2026 pretraining is the family's exactly from 1,143 steps on, and a 20-step run still warms up (2 steps),
peaks and warms down. A run of one step runs at the full rate.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from pynanochat.errors import UsageError


class ScheduleValues(NamedTuple):
    """What a step runs at: multiplier of every learning rate, Muon's momentum, multiplier of Muon's weight decay."""

    lr: float
    momentum: float
    weight_decay: float


@dataclass(frozen=True)
class Schedule:
    """One stage's curves; see the module's docstring."""

    warmup_steps: int = 0
    """steps of linear warmup"""
    warmdown: float = 0.2
    """fraction of the run over which the rate falls, 0 to 1"""
    final: float = 0.0
    """rate at the end of the fall, as a fraction of the peak"""
    scale: float = 1.0
    """multiplier of the whole curve"""
    momentum_start: float = 0.85
    """Muon's momentum at step 0"""
    momentum_peak: float = 0.95
    """Muon's momentum after the ramp"""
    momentum_ramp: int = 300
    """steps of that ramp; 0 starts at the peak"""
    momentum_final: float | None = None
    """Muon's momentum at the end of the warmdown; None keeps the peak"""
    decay: str = "constant"
    """weight decay over the run: "constant", or "cosine" to fall from 1 to 0"""

    def at(self, step: int, total: int) -> ScheduleValues:
        """The values for step `step` (from 0) of `total`. Raises UsageError for a step outside the run."""
        if not 0 <= step < total:
            raise UsageError(f"step {step} is outside a run of {total} steps; steps count from 0 to {total - 1}")
        fall = round(self.warmdown * total)
        fall_begins = total - fall
        fallen = max(0, step - fall_begins) / fall if fall else 0.0
        lr = (1 - fallen) + fallen * self.final
        warmup = min(self.warmup_steps, total // 10)
        if step < warmup:
            lr = min(lr, (step + 1) / warmup)
        return ScheduleValues(lr * self.scale, self._momentum(step, fall_begins, fallen), self._decay(step, total))

    def _momentum(self, step: int, fall_begins: int, fallen: float) -> float:
        ramp = min(self.momentum_ramp, fall_begins)
        climbed = min(1.0, step / ramp) if ramp else 1.0
        momentum = (1 - climbed) * self.momentum_start + climbed * self.momentum_peak
        if self.momentum_final is None:
            return momentum
        return (1 - fallen) * momentum + fallen * self.momentum_final

    def _decay(self, step: int, total: int) -> float:
        return 0.5 * (1 + math.cos(math.pi * step / total)) if self.decay == "cosine" else 1.0


SCHEDULES = {
    "2025": {
        "pretrain": Schedule(),
        "midtrain": Schedule(),
        "sft": Schedule(warmdown=1.0, scale=0.02, momentum_ramp=0),
        "rl": Schedule(warmdown=1.0, scale=0.05, momentum_ramp=0),
    },
    "2026": {
        "pretrain": Schedule(
            warmup_steps=40,
            warmdown=0.65,
            final=0.05,
            momentum_peak=0.97,
            momentum_ramp=400,
            momentum_final=0.90,
            decay="cosine",
        ),
        "midtrain": Schedule(),
        "sft": Schedule(warmdown=0.5, scale=0.8),
        "rl": Schedule(warmdown=1.0, scale=0.05, momentum_ramp=0),
    },
}
"""Stage schedules by recipe. 2025 midtraining is flat for 80 % and falls to 0, as its pretraining is. The 2026 recipe
merges midtraining into SFT; a 2026 midtraining, where one is run, falls as in 2025."""
