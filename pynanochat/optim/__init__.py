"""Optimizer and schedules: `build_optimizer(model, "2026")` and `SCHEDULES["2026"]["pretrain"].at(step, total)`."""

from pynanochat.optim.muon_adamw import MuonAdamW
from pynanochat.optim.recipes import RECIPES, build_optimizer
from pynanochat.optim.schedule import SCHEDULES, Schedule, ScheduleValues

__all__ = ["RECIPES", "SCHEDULES", "MuonAdamW", "Schedule", "ScheduleValues", "build_optimizer"]
