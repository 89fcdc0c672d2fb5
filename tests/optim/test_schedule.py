"""The curves of both recipes at the steps where they bend, and in runs too short for them."""

import itertools

import pytest

from pynanochat.errors import UsageError
from pynanochat.optim import SCHEDULES, Schedule


def curve(schedule, total):
    return [schedule.at(step, total) for step in range(total)]


def test_2025_pretraining():
    lr, momentum, decay = zip(*curve(SCHEDULES["2025"]["pretrain"], 1000), strict=True)
    assert lr[:801] == (1.0,) * 801
    assert lr[900] == pytest.approx(0.5)
    assert lr[999] == pytest.approx(1 / 200)
    assert (momentum[0], momentum[150], momentum[300], momentum[999]) == pytest.approx((0.85, 0.90, 0.95, 0.95))
    assert set(decay) == {1.0}


def test_2026_pretraining():
    lr, momentum, decay = zip(*curve(SCHEDULES["2026"]["pretrain"], 2000), strict=True)
    assert (lr[0], lr[19], lr[39], lr[40], lr[700]) == pytest.approx((1 / 40, 0.5, 1, 1, 1))
    assert lr[1350] == pytest.approx(0.5 + 0.5 * 0.05)
    assert lr[1999] == pytest.approx(0.05 + 0.95 / 1300)
    assert (momentum[0], momentum[200], momentum[400], momentum[700]) == pytest.approx((0.85, 0.91, 0.97, 0.97))
    assert (momentum[1350], momentum[1999]) == pytest.approx((0.935, 0.90), abs=1e-4)
    assert (decay[0], decay[1000]) == pytest.approx((1, 0.5))
    assert 0 < decay[1999] < 1e-5


@pytest.mark.parametrize("recipe", ["2025", "2026"])
@pytest.mark.parametrize("total", [1, 2, 3, 7, 20, 39, 41, 399, 1143])
def test_short_runs_climb_then_fall(recipe, total):
    lr, momentum, _ = zip(*curve(SCHEDULES[recipe]["pretrain"], total), strict=True)
    assert max(lr) == 1.0
    assert min(lr) > 0
    top = lr.index(1.0)
    assert list(lr[: top + 1]) == sorted(lr[: top + 1])
    assert list(lr[top:]) == sorted(lr[top:], reverse=True)
    assert top <= total // 10
    assert all(0.85 <= m <= 0.97 for m in momentum)
    jumps = [abs(b - a) for a, b in itertools.pairwise(momentum)]
    assert max(jumps, default=0) <= 0.12 / max(1, 0.3 * total - 1) + 1e-9 or total < 8


def test_later_stages():
    mid = SCHEDULES["2025"]["midtrain"]
    assert [mid.at(s, 100).lr for s in (0, 80, 90, 99)] == pytest.approx([1, 1, 0.5, 0.05])
    sft = SCHEDULES["2025"]["sft"]
    assert [sft.at(s, 100).lr for s in (0, 50, 99)] == pytest.approx([0.02, 0.01, 0.0002])
    assert sft.at(0, 100).momentum == 0.95
    assert SCHEDULES["2025"]["rl"].at(0, 10).lr == pytest.approx(0.05)
    merged = SCHEDULES["2026"]["sft"]
    assert [merged.at(s, 100).lr for s in (0, 50, 75)] == pytest.approx([0.8, 0.8, 0.4])


@pytest.mark.parametrize("step", [-1, 10, 11])
def test_a_step_outside_the_run_is_named(step):
    with pytest.raises(UsageError, match=f"step {step} is outside a run of 10"):
        Schedule().at(step, 10)
