"""The main job as a user runs it, on a toy world small enough for a test."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from pynanochat import checkpoint
from pynanochat import speedrun as job
from pynanochat.errors import UsageError

SMALL = [
    "--preset", "toy", "--toyworld-megabytes", "0.3", "--vocab-size", "400", "--depth", "2", "--head-dim", "16",
    "--sequence-len", "64", "--batch-tokens", "256", "--device-rows", "2", "--steps", "12", "--eval-tokens", "1024",
    "--lr-scale", "8", "--eval-every", "5", "--sample-every", "6", "--save-every", "4", "--buffer-documents", "50",
    "--stages", "tokenizer,pretrain",
]  # fmt: skip
LATER = [
    flag
    for stage in ("midtrain", "sft")
    for name, value in (("steps", 3), ("eval-tokens", 500), ("buffer-conversations", 20))
    for flag in (f"--{stage}-{name}", str(value))
]
RESULT = [f"pretrain/checkpoints/step_000012/{name}.safetensors" for name in ("model", "optimizer")]


def speedrun(folder, *flags, **kwargs):
    return subprocess.run(command(folder, *flags), capture_output=True, text=True, **kwargs)


def command(folder, *flags):
    return [sys.executable, "-m", "pynanochat.speedrun", "--run", str(folder), *SMALL, *flags]


def losses(folder):
    lines = [json.loads(line) for line in (folder / "pretrain/metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"]) for line in lines if "loss" in line]


def same_result(a, b):
    assert losses(a) == losses(b)
    for name in RESULT:
        assert (a / name).read_bytes() == (b / name).read_bytes(), name


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    done = speedrun(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done


def test_it_ends_with_the_report_and_the_next_command(whole):
    folder, done = whole
    assert f"report: {folder / 'report.md'}" in done.stdout
    assert "pynanochat chat --run" in done.stdout
    assert (folder / "report.html").stat().st_size > 1000
    settings = json.loads((folder / "settings.json").read_text())
    assert settings["pretrain"]["depth"] == 2
    state = checkpoint.latest(folder / "pretrain").state("state")
    assert state["identity"]["tokenizer_hash"] and state["identity"]["data_hash"] and "seed" in state["identity"]


def test_the_loss_falls(whole):
    curve = [loss for _, loss in losses(whole[0])]
    assert curve[-1] < curve[0] - 0.1


def test_done_stages_are_skipped(whole):
    again = speedrun(whole[0])
    assert again.returncode == 0
    assert "tokenizer: already done" in again.stdout and "pretrain: already done" in again.stdout


def test_other_settings_for_a_finished_run_are_refused(whole):
    before = (whole[0] / "settings.json").read_text()
    other = speedrun(whole[0], "--depth", "3")
    assert other.returncode == 2
    assert "depth 2 -> 3" in other.stderr and "--fresh" in other.stderr and other.stderr.count("\n") == 1
    assert (whole[0] / "settings.json").read_text() == before


def test_fresh_begins_anew_and_gives_the_same(whole, tmp_path):
    folder = tmp_path / "run"
    assert speedrun(folder, "--steps", "3").returncode == 0
    assert speedrun(folder, "--fresh").returncode == 0
    same_result(folder, whole[0])


@pytest.mark.slow
def test_ten_kills_at_random_moments_change_nothing(whole, tmp_path):
    folder = tmp_path / "run"
    moments = random.Random(7)
    kills = 0
    for _ in range(60):
        process = subprocess.Popen(command(folder), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        if kills < 10:
            # Wait until the run writes something of its own, then a little longer: kills fall all over the work.
            before = progress(folder)
            while progress(folder) == before and process.poll() is None:
                time.sleep(0.01)
            time.sleep(moments.random() * 0.4)
            if process.poll() is None:
                process.kill()
                kills += 1
                process.communicate()
                continue
        _, errors = process.communicate()
        assert process.returncode == 0, errors.decode()
        break
    assert kills == 10
    same_result(folder, whole[0])


def progress(folder):
    return sorted((str(f), f.stat().st_mtime_ns) for f in folder.rglob("*") if f.is_file()) if folder.exists() else []


@pytest.mark.slow
def test_ctrl_c_saves_and_the_same_command_goes_on(whole, tmp_path):
    folder = tmp_path / "run"
    process = subprocess.Popen(command(folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (folder / "pretrain/metrics.jsonl").exists() or len(losses(folder)) < 2:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate()
    if process.returncode:  # it may just have finished
        assert process.returncode == 130 and "the same command goes on" in errors and errors.count("\n") == 1
    assert speedrun(folder).returncode == 0
    same_result(folder, whole[0])


@pytest.mark.slow
def test_two_processes_train_the_same_model(whole, tmp_path):
    folder = tmp_path / "run"
    done = speedrun(folder, "--processes", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    for (step, one), (_, two) in zip(losses(whole[0]), losses(folder), strict=True):
        assert abs(one - two) < 5e-3, step


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_on_two_ranks_saves_and_goes_on_with_one(whole, tmp_path, number):
    folder = tmp_path / "run"
    long = ["--processes", "2", "--steps", "100", "--save-every", "1000"]
    process = subprocess.Popen(command(folder, *long), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while not (folder / "pretrain/metrics.jsonl").exists() or len(losses(folder)) < 2:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    os.kill(process.pid, number)
    _, errors = process.communicate()
    assert process.returncode == 130 and "the same command goes on" in errors and errors.count("\n") == 1, errors
    reached = checkpoint.steps(folder / "pretrain")[-1][0]
    assert 2 <= reached < 100
    before = losses(folder)
    assert before[-1][0] == reached
    again = speedrun(folder, "--steps", "100", "--stop-after", "2")
    assert again.returncode == 130, again.stderr
    assert [step for step, _ in losses(folder)] == list(range(1, reached + 3))
    assert losses(folder)[:reached] == before


@pytest.mark.slow
def test_an_error_of_the_ranks_is_one_line(whole, tmp_path):
    folder = tmp_path / "run"
    assert speedrun(folder, "--stop-after", "5").returncode == 130
    newest = checkpoint.steps(folder / "pretrain")[-1][1] / "loader_1.json"
    newest.write_text("{")
    broken = speedrun(folder, "--processes", "2")
    assert broken.returncode == 2 and "loader_1.json" in broken.stderr and broken.stderr.count("\n") == 1


def test_fresh_with_bad_data_or_settings_loses_nothing(whole):
    before = progress(whole[0] / "pretrain")
    for bad in (["--data", "no/such"], ["--depth", "0"], ["--processes", "3"]):
        assert speedrun(whole[0], "--fresh", *bad).returncode == 2
    assert progress(whole[0] / "pretrain") == before


def test_a_validation_split_of_one_long_word_is_sampled(tmp_path):
    shards = tmp_path / "data/pretrain"
    shards.mkdir(parents=True)
    lines = (json.dumps({"text": f"day {i} in the life of a cat called {i * 7}. " * 5}) + "\n" for i in range(200))
    (shards / "a.jsonl").write_text("".join(lines))
    (shards / "val.jsonl").write_text(json.dumps({"text": "가나다라" * 3000}) + "\n")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}  # nor must a terminal without such letters stop it
    done = speedrun(tmp_path / "run", "--data", str(tmp_path / "data"), "--steps", "3", env=environment)
    assert done.returncode == 0, done.stderr


def test_the_later_stages_follow_and_resume_alone(tmp_path):
    data = tmp_path / "data"
    for part in ("pretrain", "sft"):
        (data / part).mkdir(parents=True)
    words = ["".join(random.Random(i).choices("abdeilmnorst", k=6)) for i in range(100)]
    texts = (" ".join(random.Random(i).choices(words, k=40)) for i in range(200))
    pages = (json.dumps({"text": text}) + "\n" for text in texts)
    (data / "pretrain/a.jsonl").write_text("".join(pages))
    turns = lambda i: [{"role": "user", "content": f"day {i}?"}, {"role": "assistant", "content": f"cat {i * 7}"}]  # noqa: E731
    (data / "sft/a.jsonl").write_text("".join(json.dumps({"messages": turns(i)}) + "\n" for i in range(60)))
    folder = tmp_path / "run"
    stages = ["--stages", "tokenizer,pretrain,midtrain,sft"]
    done = speedrun(folder, "--data", str(data), *stages, *LATER, "--sft-stop-after", "2")
    assert done.returncode == 130 and "sft stopped at step 2 of 3" in done.stderr, done.stderr
    settings = json.loads((folder / "settings.json").read_text())
    assert settings["pretrain"]["steps"] == 12 and settings["sft"]["steps"] == 3
    alone = [sys.executable, "-m", "pynanochat", "sft", "--run", str(folder), "--stop-after", "0"]
    again = subprocess.run(alone, capture_output=True, text=True)
    assert again.returncode == 0 and "going on from step 2 of 3" in again.stdout, again.stderr
    for stage in ("midtrain", "sft"):
        summary = json.loads((folder / stage / "summary.json").read_text())
        assert summary["steps"] == 3 and summary["conversations"] > 60


def test_a_dry_run_names_every_stage_and_makes_nothing(tmp_path, capsys):
    plan = ["--run", str(tmp_path / "run"), *SMALL[:-2], "--dry-run"]
    job.main([*plan, "--sft-steps", "7", "--midtrain-batch-tokens", "512", "--rl-steps", "9"])
    said = capsys.readouterr().out
    assert "stages tokenizer, pretrain, midtrain, sft, rl, eval, report" in said
    assert "rl: 9 steps of " in said
    assert "midtrain: 1 x its conversations, in steps of 512 tokens" in said and "sft: 7 steps of 256 tokens" in said
    job.main([*plan, "--merged"])
    said = capsys.readouterr().out
    assert "midtrain" not in said and "sft" in said
    with pytest.raises(UsageError, match="--stages midtrain: not a stage of this run"):
        job.main([*plan, "--merged", "--stages", "pretrain,midtrain"])
    assert not (tmp_path / "run").exists()
