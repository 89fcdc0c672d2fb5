"""The Wilson interval against published values and its own definition; means of centred scores by hand."""

import math

import pytest

from pynanochat.evals.interval import Z, wilson
from pynanochat.evals.score import centred, chat_core, make_score, mean_of, pass_at, reliability


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    [  # 81/263 and 15/148 are the examples of Newcombe (1998), Statistics in Medicine 17, table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_published_intervals(correct, total, low, high):
    assert wilson(correct, total) == pytest.approx((low, high), abs=6e-5)


@pytest.mark.parametrize("total", [1, 2, 7, 100, 5000])
def test_the_ends_are_where_the_score_test_rejects(total):
    for correct in {0, 1, total // 3, total - 1, total}:
        low, high = wilson(correct, total)
        p = correct / total
        assert 0 <= low <= p <= high <= 1
        for end in {low, high} - {0.0, 1.0}:
            assert abs(p - end) / math.sqrt(end * (1 - end) / total) == pytest.approx(Z)


def test_no_trials():
    assert wilson(0, 0) == (0.0, 1.0)


def test_centring_by_hand():
    assert centred(0.25, 0.25) == 0
    assert centred(1.0, 0.62) == 1
    assert centred(0.43, 0.24) == pytest.approx(0.25)
    assert make_score("x", 3, 12, 0.5).centred == pytest.approx(-0.5)


def test_chat_core_needs_all_six():
    names = {"ARC-Easy": 0.25, "ARC-Challenge": 0.25, "MMLU": 0.25, "GSM8K": 0.0, "HumanEval": 0.0, "SpellingBee": 0.0}
    right = {"ARC-Easy": 55, "ARC-Challenge": 40, "MMLU": 25, "GSM8K": 10, "HumanEval": 6, "SpellingBee": 98}
    scores = {name: make_score(name, right[name], 100, baseline) for name, baseline in names.items()}
    whole = chat_core(scores | {"ToyWorld-Facts": make_score("ToyWorld-Facts", 100, 100, 0.0)})
    assert whole.task == "ChatCORE"
    assert whole.score == pytest.approx((0.4 + 0.2 + 0 + 0.1 + 0.06 + 0.98) / 6)
    assert whole.low < whole.score < whole.high
    del scores["HumanEval"]
    assert chat_core(scores).task == "ChatCORE (5 of 6 tasks)"
    assert chat_core({"ToyWorld-Facts": make_score("ToyWorld-Facts", 1, 2, 0.0)}) is None


def test_the_interval_of_a_mean():
    one = make_score("one", 50, 100, 0.5)
    mean = mean_of("mean", [one] * 4)
    assert mean.score == 0
    assert mean.high - mean.low == pytest.approx((one.high - one.low) / 0.5 / 2)  # 4 of them: half as wide


def test_pass_at_k_counts_every_draw():
    from itertools import combinations

    for right in range(6):
        marks = [True] * right + [False] * (5 - right)
        for k in range(1, 6):
            draws = list(combinations(marks, k))
            assert pass_at(k, 5, right) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_reliability_bins():
    bins = reliability([(0.95, True), (0.91, False), (1.0, True), (0.3, False)])
    assert [(b["low"], b["count"]) for b in bins] == [(0.3, 1), (0.9, 3)]
    assert bins[1]["accuracy"] == pytest.approx(2 / 3) and bins[1]["confidence"] == pytest.approx(2.86 / 3)
