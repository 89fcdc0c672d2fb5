"""The sandbox: what passes, what fails, and a list of attacks that must all come to nothing."""

import pytest

from pynanochat.tools.sandbox import active_tier, isolated, passes

ADD = "def add(a, b):\n    return a + b\n"


def test_right_program_passes():
    outcome = passes(ADD, "assert add(2, 3) == 5")
    assert outcome.passed, outcome
    assert (outcome.reason, outcome.output, outcome.tier) == ("passed", "", active_tier())


def test_wrong_program_fails():
    outcome = passes("def add(a, b):\n    return a - b\n", "assert add(2, 3) == 5")
    assert not outcome.passed
    assert outcome.reason == "a test failed"


@pytest.mark.parametrize("tests", ["", "\n", "pass", "def check(candidate):\n    assert candidate(1, 1) == 2\n"])
def test_nothing_checked_is_no_pass(tests):
    outcome = passes(ADD, tests)
    assert not outcome.passed
    assert outcome.reason.startswith("nothing was checked")


def test_tier_is_told():
    assert isolated() == (active_tier() != "rlimits only")
