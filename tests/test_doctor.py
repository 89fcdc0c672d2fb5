"""`pynanochat doctor` reports whatever it meets, and never with a traceback."""

import os
import subprocess
import sys

import pytest

from pynanochat import doctor
from pynanochat.ops import backends
from pynanochat.tools import sandbox


def run(*flags, **environment):
    command = [sys.executable, "-m", "pynanochat", "doctor", *flags]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def test_report():
    report = run()
    assert report.returncode == 0 and report.stderr == ""
    for word in ("python", "torch", "CPU", "CUDA kernels", "triton", "--fp8", *backends.ops()):
        assert word in report.stdout
    assert "\x1b" not in report.stdout, "colours where there is no terminal"


def test_bad_setting_is_a_problem_with_a_remedy():
    report = run(PYNANOCHAT_BACKEND="gpu")
    assert "problem: PYNANOCHAT_BACKEND=gpu" in report.stdout and "remedy:" in report.stdout
    assert "Traceback" not in report.stdout + report.stderr


def test_each_op_says_what_it_uses():
    rows = {row[0]: row for row in doctor.examine().ops}
    assert set(rows) == set(backends.ops())
    assert all(len(row) == len(doctor.op_columns(doctor.examine())) for row in rows.values())


@pytest.mark.parametrize("raised", [RuntimeError("two\nlines"), ImportError("undefined symbol: x"), SystemExit(3)])
def test_a_broken_part_does_not_hide_the_others(monkeypatch, capsys, raised):
    def broken(findings):
        raise raised

    looks = [(name, broken if name == "the extension" else look, remedy) for name, look, remedy in doctor.LOOKS]
    monkeypatch.setattr(doctor, "LOOKS", looks)
    with pytest.raises(SystemExit) as stopped:
        doctor.main([])
    said = capsys.readouterr().out
    assert stopped.value.code == 1
    assert "problem: looking at the extension failed" in said and "remedy: reinstall" in said and "rms_norm" in said


@pytest.mark.parametrize(("tier", "problem"), [("namespaces+landlock+seccomp", False), ("rlimits only", True)])
def test_it_says_how_programs_are_cut_off(monkeypatch, capsys, tier, problem):
    monkeypatch.setattr(sandbox, "active_tier", lambda: tier)
    doctor.print_plain(doctor.examine())
    said = capsys.readouterr().out
    assert any(line.split() == ["sandbox", *tier.split()] for line in said.splitlines())
    assert ("(HumanEval) are not cut off" in said) == problem


def test_table_in_a_terminal(capsys):
    doctor.print_rich(doctor.examine())
    said = capsys.readouterr().out
    assert "rms_norm" in said and "torch" in said


def result(architecture="sm_90", failed=0, stale=frozenset(), **fields):
    tests = {"failed": failed, "failures": ["tests.kernels::test_x"] * failed, "unfinished": []}
    file = {"device": "NVIDIA H100", "date": "2026-01-02 03:04 UTC", "commit": "abc" * 12, "tests": tests} | fields
    said = {"verified": {("rotary_qk_norm", "triton")}, "failed": set(), "stale": stale}
    return {"architecture": architecture, **said, "file": file}


@pytest.fixture
def on_an_h100(monkeypatch):
    """Findings of look_at_results where torch sees an H100 and these results lie there."""

    def look(*results):
        monkeypatch.setattr("torch.cuda.is_available", lambda: True)
        monkeypatch.setattr(backends, "architecture", lambda index: "sm_90")
        monkeypatch.setattr(backends, "results", lambda: list(results))
        backends.verified.cache_clear()
        findings = doctor.Findings()
        doctor.look_at_results(findings)
        backends.verified.cache_clear()
        return findings

    return look


def test_it_says_what_was_checked_on_which_gpu_and_what_was_not(on_an_h100):
    findings = on_an_h100(result())
    facts = dict(findings.facts)
    assert facts["checked"] == (
        "NVIDIA H100 (sm_90), 2026-01-02 03:04 UTC, commit abcabcabcabc: 1 verified, 0 tests failed"
    )
    left = facts["not verified on sm_90"].split(", ")
    assert "decode_ahead (cuda)" in left
    assert "rotary_qk_norm (cuda)" in left and "rotary_qk_norm (triton)" not in left and not findings.problems
    assert "rotary_qk_norm (triton)" in dict(on_an_h100(result("sm_80")).facts)["not verified on sm_90"]


def test_tests_that_failed_on_this_gpu_are_a_problem(on_an_h100):
    ((what, remedy),) = on_an_h100(result(failed=2)).problems
    assert "NVIDIA H100" in what and "test_x" in what and "bench gpu" in remedy
    assert on_an_h100(result("sm_80", failed=2)).problems == []
    ((what, _),) = on_an_h100(result(tests={"unfinished": ["test_y.py"]})).problems
    assert "test_y.py" in what


def test_what_has_changed_since_it_was_verified_is_a_problem(on_an_h100):
    ((what, remedy),) = on_an_h100(result(stale={("smear", "triton")})).problems
    assert "smear (triton)" in what and "changed" in what and "bench gpu" in remedy
    assert on_an_h100(result("sm_80", stale={("smear", "triton")})).problems == []
