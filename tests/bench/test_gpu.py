"""`pynanochat bench gpu` without a GPU: what it makes of the outcomes of a real pytest run, and the file it writes."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pynanochat.bench import gpu, gpu_tests
from pynanochat.errors import BackendError, UsageError
from pynanochat.ops import backends, fingerprints
from pynanochat.ops.fingerprints import fingerprint

TESTS = Path(__file__).with_name("rms_norm_tests.txt").read_text()
UNNAMED = "\n\ndef test_of_no_op():\n    assert False\n"


@pytest.fixture(autouse=True)
def _plain_pytest(monkeypatch):
    """The runs below need none of the installed plugins, whose import takes longer than the tests."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def checkout(folder: Path, tests: str) -> Path:
    (folder / "tests").mkdir()
    (folder / "tests" / "test_rms_norm.py").write_text(tests)
    (folder / "pyproject.toml").write_text('[tool.pytest.ini_options]\nmarkers = ["gpu: needs a GPU"]\n')
    return folder


def test_only_what_passed_whole_is_verified(tmp_path):
    (run,) = gpu_tests.run_tests(checkout(tmp_path, TESTS), 120)
    assert run.finished and run.op == "rms_norm" and len(run.outcomes) == 5
    assert gpu_tests.verified_pairs([run]) == [{"op": "rms_norm", "backend": "triton", "tests": 2}]
    assert gpu_tests.failed_pairs([run]) == [{"op": "rms_norm", "backend": "cuda"}]
    summary = gpu_tests.summary([run])
    assert (summary["passed"], summary["failed"], summary["skipped"]) == (3, 1, 1) and not summary["unfinished"]
    assert [name.split("::")[1] for name in summary["failures"]] == ["test_first[cuda]"]


def test_a_failure_that_names_no_op_verifies_nothing(tmp_path):
    (run,) = gpu_tests.run_tests(checkout(tmp_path, TESTS + UNNAMED), 120)
    assert run.finished and gpu_tests.verified_pairs([run]) == []


@pytest.mark.parametrize(
    ("breaks", "seconds"), [("import os; os._exit(7)", 120), ("syntax error", 120), ("import time; time.sleep(90)", 25)]
)
def test_a_file_that_breaks_off_takes_its_own_op_away(tmp_path, capsys, breaks, seconds):
    folder = checkout(tmp_path, TESTS)
    other = TESTS.replace('"rms_norm"', '"smear"')
    (folder / "tests" / "test_smear.py").write_text(other)
    (folder / "tests" / "test_rms_norm_cuda.py").write_text(TESTS + "\n" + breaks + "\n")
    (folder / "tests" / "test_plain.py").write_text("def test_of_no_gpu():\n    assert False\n")
    runs = gpu_tests.run_tests(folder, seconds)
    assert sorted((run.path.stem, run.finished) for run in runs) == [
        ("test_rms_norm", True),
        ("test_rms_norm_cuda", False),
        ("test_smear", True),
    ]
    assert gpu_tests.verified_pairs(runs) == [{"op": "smear", "backend": "triton", "tests": 2}]
    assert gpu_tests.summary(runs)["unfinished"] == ["test_rms_norm_cuda.py"]
    assert "test_rms_norm_cuda.py: not finished" in capsys.readouterr().out


def test_a_file_in_parts(tmp_path, monkeypatch):
    """Each test runs once, those of one backend together; a part that breaks off takes the op away, and only it."""
    monkeypatch.setitem(gpu_tests.PARTS, "test_rms_norm.py", 2)
    folder = checkout(tmp_path, TESTS.replace('assert backend == "triton", "wrong answer"', "pass"))
    seen = []
    runs = gpu_tests.run_tests(folder, 120, done=lambda runs: seen.append([run.ended for run in runs]))
    assert [run.name for run in runs] == ["test_rms_norm.py 1/2", "test_rms_norm.py 2/2"]
    assert sorted(seen[0]) == ["finished", "time"] and seen[1] == ["finished"] * 2
    tests = [o.test.split("::")[1] for run in runs for o in run.outcomes]
    assert len(tests) == len(set(tests)) == 5
    assert [{o.backend for o in run.outcomes} for run in runs] == [{"cuda"}, {"torch", "triton"}]
    assert {pair["backend"] for pair in gpu_tests.verified_pairs(runs)} == {"cuda", "triton"}
    broken = [runs[0], replace(runs[1], outcomes=[], ended="broke off")]
    assert gpu_tests.verified_pairs(broken) == []
    assert gpu_tests.failed_pairs(broken) == [{"op": "rms_norm", "backend": "triton"}]


def test_every_file_with_gpu_tests_is_found():
    names = {path.name for path in gpu_tests.test_files(gpu.find_checkout())}
    assert {"test_attention.py", "test_muon_step_cuda.py", "test_rms_norm.py", "test_graphs.py"} <= names
    assert not names & {"test_compiles.py", "test_on_cpu.py", "test_gpt.py", Path(__file__).name}


def test_results_file(tmp_path, monkeypatch):
    result = {"device": "NVIDIA H100 80GB HBM3", "architecture": "sm_90", "verified": [{"op": "a", "backend": "cuda"}]}
    path = gpu.write_results(tmp_path / "results", result)
    assert path.name == "NVIDIA-H100-80GB-HBM3.json" and json.loads(path.read_text()) == result
    gpu.write_results(tmp_path / "results", result | {"verified": []})
    assert json.loads(path.read_text())["verified"] == [] and len(list(path.parent.iterdir())) == 1


def test_a_result_also_goes_where_the_installation_looks(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "__file__", str(tmp_path / "site-packages" / "bench" / "gpu.py"))
    result = {"device": "x", "architecture": "sm_90", "verified": []}
    path = gpu.publish(tmp_path / "checkout", result)
    assert path == tmp_path / "checkout" / "x.json"
    assert json.loads((tmp_path / "site-packages/bench/results/x.json").read_text()) == result
    monkeypatch.setattr(gpu, "__file__", "/proc/bench/gpu.py")
    gpu.publish(tmp_path / "checkout", result)
    assert "install again from the checkout" in capsys.readouterr().out


@pytest.fixture
def results_in(tmp_path, monkeypatch):
    """A function that writes results files and gives what backends then has for sm_90."""
    monkeypatch.setattr(backends.importlib.resources, "files", lambda package: tmp_path)
    monkeypatch.setattr(backends, "fingerprint", lambda op, backend: f"code of {op}")

    def entries(text):
        return [{"op": name[0], "backend": "cuda", "code": f"code of {name}"} for name in text.split()]

    def write(name, verified, failed="", device="x", date="2026-01-01"):
        (tmp_path / "results").mkdir(exist_ok=True)
        result = {"device": device, "date": date, "architecture": "sm_90"}
        result |= {"verified": entries(verified), "failed": entries(failed)}
        (tmp_path / "results" / name).write_text(json.dumps(result))
        backends.verified.cache_clear()
        return {op for op, _ in backends.verified("sm_90")}

    yield write
    backends.verified.cache_clear()


def test_backends_read_what_was_verified(results_in, tmp_path):
    assert results_in("a.json", "a b") == {"a", "b"} and backends.verified("sm_80") == frozenset()
    (tmp_path / "results" / "damaged.json").write_text("{")
    assert results_in("a.json", "a") == {"a"}


def test_what_has_changed_since_is_neither_verified_nor_failed(results_in):
    assert results_in("a.json", "a b-as-it-was", failed="c-as-it-was") == {"a"}
    assert results_in("b.json", "c", device="y") == {"a", "c"}
    assert [result["stale"] for result in backends.results()] == [{("b", "cuda")}, set()]


def test_what_failed_on_one_card_is_not_verified_by_another_of_its_architecture(results_in):
    results_in("a.json", "a b")
    assert results_in("b.json", "", failed="b", device="y") == {"a"}


def test_of_one_device_the_newest_file_counts(results_in):
    results_in("a.json", "a b", date="2026-02-03")
    assert results_in("b.json", "a", failed="b", date="2026-03-01") == {"a"}
    assert results_in("c.json", "c", date="2026-01-01") == {"a"}


@pytest.mark.parametrize(
    "content",
    ["[1]", "{", "null", '{"verified": null, "failed": ["x"]}', '{"verified": [{"op": "smear", "backend": "triton"}]}'],
)
def test_a_damaged_or_older_file_is_as_good_as_none(tmp_path, monkeypatch, content):
    monkeypatch.setattr(gpu, "installed_folder", lambda: tmp_path / "none")
    device = {"device": "x", "architecture": "sm_90", "commit": "1"}
    gpu.results_file(tmp_path, "x").write_text(content)
    begun = gpu.begun(tmp_path, device, whole=False)
    assert not begun.get("verified") and not begun.get("failed") and begun.items() >= device.items()
    passed = gpu_tests.Outcome("test", "smear", "triton", "passed")
    tested = gpu.tested(begun, [gpu_tests.FileRun(tmp_path / "test_smear.py", "smear", [passed], "finished")])
    assert [e["op"] for e in tested["verified"]] == ["smear"]


def test_another_folder_goes_on_from_what_is_installed(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "installed_folder", lambda: tmp_path / "installed")
    device = {"device": "x", "architecture": "sm_90", "commit": "1"}
    known = device | {"tiles": {"case": {"ROWS": 64}}}
    gpu.write_results(tmp_path / "installed", known)
    assert gpu.begun(tmp_path / "empty", device, whole=True) == known


@pytest.mark.parametrize("name", fingerprints.OTHERS)
def test_what_is_no_op_has_a_file_and_fails_where_that_breaks_off(name):
    (path,) = [path for path in gpu_tests.test_files(gpu.find_checkout()) if gpu_tests.op_of(path) == name]
    broken = gpu_tests.FileRun(path, name, [], "broke off")
    assert gpu_tests.failed_pairs([broken]) == [{"op": name, "backend": "cuda"}]


def test_ops_without_tests_are_refused(tmp_path):
    with pytest.raises(UsageError, match="--ops nothing: has no tests for a GPU; use some of rms_norm"):
        gpu_tests.run_tests(checkout(tmp_path, TESTS), 1, ["nothing"])


def test_a_piece_of_a_run_leaves_the_rest_as_it_was(tmp_path):
    device = {"device": "x", "architecture": "sm_90", "commit": "1"}
    path = tmp_path / "test_rms_norm.py"
    code = fingerprint("smear", "triton")
    entry = {"op": "smear", "backend": "triton", "tests": 3}
    rows = [{"op": "smear", "case": "d12", "ms": 1.0}, {"op": "rms_norm", "case": "d12", "ms": 2.0}]
    known = device | {"verified": [entry | {"code": code}, entry | {"op": "attention", "code": "older"}], "rows": rows}
    gpu.write_results(tmp_path, known)
    assert gpu.begun(tmp_path, device, whole=True) == device | {"verified": known["verified"]}
    assert "rows" not in gpu.begun(tmp_path, device | {"commit": "2"}, whole=False)
    result = gpu.begun(tmp_path, device, whole=False)
    assert result == known

    passed = gpu_tests.Outcome("test", "rms_norm", "triton", "passed")
    tested = gpu.tested(result, [gpu_tests.FileRun(path, "rms_norm", [passed], "finished")])
    assert [(e["op"], e["code"] != "older") for e in tested["verified"]] == [("rms_norm", True), ("smear", True)]
    failed = gpu_tests.Outcome("test", "smear", "triton", "failed")
    tested = gpu.tested(result, [gpu_tests.FileRun(path, "rms_norm", [passed, failed], "finished")])
    assert [e["op"] for e in tested["verified"]] == ["rms_norm"]
    assert tested["failed"] == [{"op": "smear", "backend": "triton", "code": code}]
    waiting = gpu.tested(result, [gpu_tests.FileRun(path.with_name("test_smear.py"), "smear", [], "time")])
    assert [e["op"] for e in waiting["verified"]] == ["smear"], "not tested again yet"

    part = {"rows": [{"op": "smear", "case": "d12", "ms": 0.5}], "not_measured": {"attention d12": "the time was up"}}
    measured = gpu.measured(result, part)
    assert sorted(row["ms"] for row in measured["rows"]) == [0.5, 2.0]
    again = gpu.measured(measured, {"rows": [{"op": "attention", "case": "d12", "ms": 3.0}], "not_measured": {}})
    assert again["not_measured"] == {} and len(again["rows"]) == 3


def test_the_whole_run_and_a_piece(tmp_path, monkeypatch, capsys):
    """Every part with what it needs of the others; the file has all that there is after each step."""
    path = tmp_path / "x.json"
    now = lambda: json.loads(path.read_text())  # noqa: E731
    outcome = gpu_tests.Outcome("t", "smear", "triton", "passed")
    passed = gpu_tests.FileRun(Path("test_smear.py"), "smear", [outcome], "finished")
    row = {"op": "smear", "case": "d12", "backend": "triton", "ms": 1.0}

    def run_tests(checkout, seconds, ops, done):
        done([passed])
        assert [entry["op"] for entry in now()["verified"]] == ["smear"] and 0 < seconds <= 60
        return [passed]

    def measure_ops(verified, deadline, ops, done):
        assert verified == [{"op": "smear", "backend": "triton"}]
        done({"roofline": {"bf16_tflops": 2.0, "copy_gbs": 3.0}, "rows": [row], "not_measured": {}})
        assert now()["rows"] == [row]
        return {"roofline": {"bf16_tflops": 2.0, "copy_gbs": 3.0}, "rows": [row], "not_measured": {"smear d24": "why"}}

    def measure_steps(verified, rate, deadline, done):
        assert rate["copy_gbs"] == 3.0
        return {"rows": [row | {"op": "train_step"}], "not_measured": {"decode_step": "why"}}

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu, "about_device", lambda _: {"device": "x", "architecture": "sm_90", "commit": "1"})
    monkeypatch.setattr(gpu, "__file__", str(tmp_path / "site-packages" / "bench" / "gpu.py"))
    monkeypatch.setattr(gpu_tests, "run_tests", run_tests)
    monkeypatch.setattr("pynanochat.bench.gpu_ops.measure", measure_ops)
    monkeypatch.setattr("pynanochat.bench.gpu_steps.measure", measure_steps)
    monkeypatch.setattr("pynanochat.bench.gpu_decode_step.measure", lambda *_: {"rows": [], "not_measured": {}})
    clean = {"memcheck": "clean", "racecheck": "clean"}
    monkeypatch.setattr("pynanochat.bench.gpu_memcheck.run_memcheck", lambda *_: clean)
    gpu.main(["--output", str(tmp_path), "--minutes", "1"])
    assert [row["op"] for row in now()["rows"]] == ["smear", "train_step"] and now()["memcheck"] == "clean"
    assert set(now()["not_measured"]) == {"smear d24", "decode_step"}
    assert "verified on sm_90: smear (triton)" in capsys.readouterr().out

    monkeypatch.setattr(gpu_tests, "run_tests", None)
    gpu.main(["--output", str(tmp_path), "--only", "steps"])
    assert len(now()["rows"]) == 2 and now()["memcheck"] == "clean" and len(now()["verified"]) == 1


def test_options():
    options = gpu.options_of(["--only", "tests,ops", "--ops", "smear", "--minutes", "2.5"])
    assert (options.only, options.ops, options.minutes) == (["tests", "ops"], ["smear"], 2.5)
    assert set(gpu.options_of([]).only) == set(gpu.PARTS) and gpu.options_of([]).ops is None
    with pytest.raises(UsageError, match="--only test: not a part"):
        gpu.options_of(["--only", "test"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_it_says_so_in_one_line():
    with pytest.raises(BackendError, match="no GPU to check here"):
        gpu.main([])
    command = [sys.executable, "-m", "pynanochat", "bench", "gpu"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 2 and run.stdout == "" and len(run.stderr.strip().splitlines()) == 1


def test_needs_a_checkout(tmp_path, monkeypatch):
    assert gpu.find_checkout().joinpath("tests/kernels").is_dir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gpu, "__file__", str(tmp_path / "site-packages" / "bench" / "gpu.py"))
    with pytest.raises(UsageError, match="from a checkout"):
        gpu.find_checkout()


def test_commit_says_when_files_were_changed(tmp_path):
    assert gpu.commit(tmp_path) == "unknown"
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "f").write_text("1")
    for words in (["init", "-q"], ["add", "f"], ["commit", "-qm", "f"]):
        subprocess.run([*git, *words], check=True, timeout=60)
    head = gpu.commit(tmp_path)
    assert len(head) == 40
    (tmp_path / "f").write_text("2")
    assert gpu.commit(tmp_path) == head + "+changes"
