"""The eval stage and its command on a small run: files, resumption, new weights, what cannot be had, damaged files."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from pynanochat import cli
from pynanochat.checkpoint import Writer, folder_of
from pynanochat.errors import DataError, UsageError
from pynanochat.evals.score import Score
from pynanochat.stages import eval_command, evaluate
from pynanochat.stages.commands import open_run
from pynanochat.tasks import TaskData
from pynanochat.tokenizer import Tokenizer
from tests.engine.fakes import small_model
from tests.evals.test_core import some_rows, write_bundle

GSM8K = [{"question": f"What is {n} and 1?", "answer": f"<<{n}+1={n + 1}>>\n#### {n + 1}"} for n in range(7)]
MMLU = [
    {"subject": "s", "question": f"Which is {n}?", "choices": [str(n + d) for d in range(4)], "answer": 0}
    for n in range(9)
]


def save(run_folder, stage, seed, vocab_size, step=10):
    writer = Writer(folder_of(run_folder / stage, step))
    writer.folder.parent.mkdir(parents=True, exist_ok=True)
    writer.begin()
    model = small_model(seed, vocab_size=vocab_size, sequence_len=128)
    writer.tensors("model", model.state_dict())
    writer.state("state", {"model": model.config.to_dict()})
    writer.commit()


@pytest.fixture
def data(tmp_path):
    """A data folder with two chat tasks and a CORE bundle of three small tasks."""
    folder = tmp_path / "data"
    (folder / "tasks").mkdir(parents=True)
    for name, rows in (("gsm8k_test", GSM8K), ("mmlu_test", MMLU)):
        (folder / "tasks" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    kinds = ("multiple_choice", "schema", "language_modeling")
    write_bundle(folder / "core", [(f"c_{k}", k, 2, " ", 20.0, some_rows(k, 8)) for k in kinds])
    return folder


@pytest.fixture
def run(tmp_path, data):
    return make_run(tmp_path / "run", data)


def make_run(folder, data, **flags):
    flags = {"eval_core": True, "eval_max_examples": 5, "eval_core_examples": 4, **flags}
    run = open_run({"preset": "toy", "run": str(folder), "data": str(data), "device": "cpu", "dtype": "fp32", **flags},
                   recorded=False)  # fmt: skip
    if not folder.exists():
        tokenizer = Tokenizer.train(["Which is 3? What is 4 and 1? abc def gh " * 40], vocab_size=280)
        tokenizer.save(folder / "tokenizer")
        (folder / "tokenizer/done.json").write_text('{"identity": {}, "summary": {}}')
        run.save_settings()
        for seed, stage in enumerate(("pretrain", "sft")):
            save(folder, stage, seed, len(tokenizer))
    return run


def results(run):
    folder = run.stage_folder("eval")
    return {str(f.relative_to(folder)): f for f in folder.rglob("*.json") if f.parent != folder}


EXPECTED = {
    *(f"{stage}/{task}.json" for stage in ("pretrain", "sft") for task in ("GSM8K", "MMLU", "ChatCORE")),
    "pretrain/CORE.json",
    *(f"pretrain/core/c_{kind}.json" for kind in ("multiple_choice", "schema", "language_modeling")),
}


def test_every_stage_and_task_has_its_file_and_the_summary_tells_them(run, capsys):
    summary = run.carry_out(evaluate)
    assert set(results(run)) == EXPECTED
    one = json.loads(results(run)["sft/MMLU.json"].read_text())
    assert one["task"] == "MMLU" and one["stage"] == "sft" and one["total"] == 5 and len(one["examples"]) == 5
    assert one["low"] <= one["score"] <= one["high"] and one["baseline"] == 0.25 and one["reliability"]
    assert set(summary["evals"]) == {"pretrain", "sft"}
    assert set(summary["evals"]["sft"]) == {"GSM8K", "MMLU", "ChatCORE (2 of 6 tasks)"}
    assert "CORE (3 of 22 tasks)" in summary["evals"]["pretrain"]
    assert summary["intervals"]["sft"]["MMLU"] == [one["low"], one["high"]] and summary["seconds"] > 0
    assert json.loads((run.stage_folder("eval") / "summary.json").read_text()) == summary
    said = capsys.readouterr().out
    assert (
        "eval sft: MMLU 0." in said
        and "of 5 right" in said
        and said.splitlines()[-5].split() == ["task", "guess", "pretrain", "sft"]
    )


def test_a_stopped_evaluation_goes_on_where_it_was(run, monkeypatch):
    whole = run.carry_out(evaluate)
    for name in ("sft/GSM8K.json", "pretrain/core/c_schema.json"):
        results(run)[name].unlink()
    results(run)["pretrain/MMLU.json"].write_text('{"task": "MMLU", "sco')  # half-written by something else
    asked = []
    for module in (evaluate.chat, evaluate.core):
        original = module.evaluate
        monkeypatch.setattr(module, "evaluate", lambda *a, _f=original, **k: (asked.append(a), _f(*a, **k))[1])
    again = evaluate.train(run)
    assert len(asked) == 3
    timeless = lambda summary: {k: v for k, v in summary.items() if k != "seconds"}  # noqa: E731
    assert timeless(again) == timeless(whole)
    asked.clear()
    run.carry_out(evaluate)  # the call before has left no done.json of its own
    run.carry_out(evaluate)
    assert asked == []


def test_new_weights_and_other_settings_are_evaluated_anew(run, data):
    run.carry_out(evaluate)
    assert run.finished(evaluate) is not None
    before = {name: file.read_text() for name, file in results(run).items()}
    save(run.folder, "sft", 7, len(run.tokenizer()), step=20)
    assert run.finished(evaluate) is None
    run.carry_out(evaluate)
    after = {name: file.read_text() for name, file in results(run).items()}
    same = {name for name in EXPECTED if before[name] == after[name]}
    assert {name for name in EXPECTED if name.startswith("pretrain/") and "CORE" not in name} <= same
    assert not {name for name in same if name.startswith("sft/")}
    other = make_run(run.folder, data, eval_max_examples=3)
    assert other.carry_out(evaluate)["totals"]["sft"]["GSM8K"] == 3


def test_programs_of_the_model_are_not_run_where_nothing_cuts_them_off(run, data, monkeypatch, capsys):
    from pynanochat.tools import sandbox

    problem = {"task_id": "t/0", "prompt": "def f():\n", "entry_point": "f", "canonical_solution": "    return 1\n"}
    problem["test"] = "def check(candidate):\n    assert candidate() == 1\n"
    (data / "tasks/HumanEval.jsonl").write_text(json.dumps(problem) + "\n")
    monkeypatch.setattr(sandbox, "isolated", lambda: False)
    monkeypatch.setattr(sandbox, "active_tier", lambda: "rlimits only")
    summary = run.carry_out(evaluate)
    assert "HumanEval" not in summary["evals"]["sft"] and "GSM8K" in summary["evals"]["sft"]
    assert "HumanEval is left out: HumanEval runs programs that the model writes" in capsys.readouterr().out


def test_another_precision_is_evaluated_anew(tmp_path, data, capsys):
    make_run(tmp_path / "run", data).carry_out(evaluate)
    capsys.readouterr()
    make_run(tmp_path / "run", data, dtype="bf16").carry_out(evaluate)
    assert "already done" not in capsys.readouterr().out


def test_results_of_old_weights_never_stand_beside_new_ones(run):
    run.carry_out(evaluate)
    save(run.folder, "sft", 7, len(run.tokenizer()), step=20)
    cli_eval(run, "--stage", "sft", "--tasks", "MMLU")
    summary = json.loads((run.stage_folder("eval") / "summary.json").read_text())
    assert set(summary["evals"]["sft"]) == {"MMLU", "ChatCORE (1 of 6 tasks)"}
    assert "GSM8K" in summary["evals"]["pretrain"]


def cli_eval(run, *flags):
    eval_command.main(["--run", str(run.folder), "--device", "cpu", *flags])


def test_the_command_does_what_it_is_asked_and_leaves_the_settings(run):
    before = (run.folder / "settings.json").read_text()
    cli_eval(run, "--tasks", "GSM8K,CORE/c_schema", "--stage", "sft", "--max-examples", "2")
    assert set(results(run)) == {f"sft/{name}.json" for name in ("GSM8K", "ChatCORE", "CORE", "core/c_schema")}
    assert json.loads(results(run)["sft/GSM8K.json"].read_text())["total"] == 2
    assert (run.folder / "settings.json").read_text() == before
    assert not (run.stage_folder("eval") / "done.json").exists()


def test_samples(run):
    cli_eval(run, "--tasks", "GSM8K", "--stage", "sft", "--samples", "3", "--temperature", "1.0")
    assert set(json.loads(results(run)["sft/GSM8K.json"].read_text())["pass_at"]) == {"1", "2", "3"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tasks", "Chess"], "--tasks Chess: no such task"),
        (["--tasks", "CORE/chess"], "--tasks CORE/chess: no such task in CORE"),
        (["--tasks", "HumanEval"], "HumanEval"),
        (["--stage", "rl"], "--stage rl: .* has pretrain, sft"),
        (["--stage", "base"], "--stage base: no such stage; use pretrain"),
        (["--samples", "4"], "--samples 4: at --temperature 0"),
        (["--max-examples", "-1"], "--max-examples -1"),
        (["--rows", "0"], "--rows 0"),
    ],
)
def test_what_cannot_be_done_is_one_line(run, flags, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["eval", "--run", str(run.folder), "--device", "cpu", *flags])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert re.search(message, said)


def test_what_is_missing_is_left_out_with_a_word(run, data, capsys):
    (data / "core/core_tasks.json").unlink()
    (data / "tasks/mmlu_test.jsonl").write_text("{\n")
    summary = run.carry_out(evaluate)
    assert set(summary["evals"]["pretrain"]) == {"GSM8K", "ChatCORE (1 of 6 tasks)"}
    said = capsys.readouterr().out
    assert "MMLU is left out" in said and "CORE is left out" in said


@pytest.mark.parametrize("content", ["", '{"task": ', "[1]", "null", "[" * 200_000, "{}", '{"task": []}'])
def test_a_damaged_result_counts_as_none(tmp_path, content):
    (tmp_path / "GSM8K.json").write_text(content)
    assert evaluate.read_scores(tmp_path) == {}


def test_no_core_on_request(tmp_path, data):
    run = make_run(tmp_path / "run", data, eval_core=False)
    run.carry_out(evaluate)
    assert not any("core" in name or "/CORE" in name for name in results(run))


def test_where_the_bundle_comes_from(tmp_path, data, monkeypatch):
    monkeypatch.setenv("PYNANOCHAT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(evaluate, "CORE_URL", "http://localhost:1/eval_bundle.zip")
    assert evaluate.core_folder("", TaskData(str(data))) == data / "core"
    assert evaluate.core_folder("elsewhere", TaskData("hub")) == Path("elsewhere")
    with pytest.raises(DataError, match=r"localhost:1.*out of reach.*--core-bundle FOLDER, or --no-core"):
        evaluate.core_folder("", TaskData("hub"))
    with pytest.raises(DataError, match="--core-bundle"):
        evaluate.core_folder("", TaskData("toyworld"))
    assert not evaluate.has_core(evaluate.EvalSettings(), TaskData("toyworld"))
    assert evaluate.has_core(evaluate.EvalSettings(core_bundle="x"), TaskData("toyworld"))


def test_a_bundle_by_its_url(run, data, tmp_path, monkeypatch):
    monkeypatch.setenv("PYNANOCHAT_CACHE", str(tmp_path / "cache"))
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        for file in (data / "core").iterdir():
            archive.write(file, f"eval_bundle/{file.name}")
    url = (tmp_path / "some.zip").as_uri()
    cli_eval(run, "--tasks", "CORE", "--stage", "pretrain", "--core-bundle", url)
    assert json.loads(results(run)["pretrain/CORE.json"].read_text())["task"] == "CORE (3 of 22 tasks)"


def test_a_task_that_the_data_lack_is_noticed_before_anything_is_trained(tmp_path, data):
    evaluate.check_plan(make_run(tmp_path / "run", data, eval_tasks="MMLU,CORE"))
    (data / "tasks/mmlu_test.jsonl").unlink()
    evaluate.check_plan(make_run(tmp_path / "run", data))
    with pytest.raises(DataError, match="no mmlu_test.*leave MMLU out of --tasks"):
        evaluate.check_plan(make_run(tmp_path / "run", data, eval_tasks="MMLU,CORE"))


def test_a_run_without_a_model(tmp_path, data):
    run = make_run(tmp_path / "run", data)
    for stage in ("pretrain", "sft"):
        shutil.rmtree(run.folder / stage)
    with pytest.raises(UsageError, match="no trained stage"):
        run.carry_out(evaluate)


def test_a_dry_run_asks_nothing(run, capsys):
    cli_eval(run, "--dry-run")
    said = capsys.readouterr().out
    assert "GSM8K, 5 of 7 questions" in said and "CORE" in said
    assert not run.stage_folder("eval").exists()


def test_scores_survive_their_file(run):
    run.carry_out(evaluate)
    for file in results(run).values():
        values = json.loads(file.read_text())
        score = Score.from_dict(values)
        assert values.items() >= score.to_dict().items()


def test_two_ranks_find_what_one_finds(run, tmp_path):
    alone = run.carry_out(evaluate)
    shutil.rmtree(run.stage_folder("eval"))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    ranks = []
    for rank in "01":
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
        command = [sys.executable, "-m", "pynanochat", "eval", "--run", str(run.folder)]
        ranks.append(subprocess.Popen(command, env=os.environ | place, stdout=subprocess.PIPE, text=True))
    said = [rank.communicate(timeout=300)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    assert "eval sft: MMLU" in said[0] and said[1] == ""
    assert run.finished(evaluate)
    together = json.loads((run.stage_folder("eval") / "summary.json").read_text())
    assert {k: v for k, v in together.items() if k != "seconds"} == {k: v for k, v in alone.items() if k != "seconds"}
