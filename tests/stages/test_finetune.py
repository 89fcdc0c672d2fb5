"""Midtraining and SFT on a tiny run: where they begin, what they refuse, exact resumption, ranks."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

from pynanochat import checkpoint, tasks
from pynanochat.data.conversations import ConversationBatch
from pynanochat.engine import Engine
from pynanochat.errors import CheckpointError, DataError, Interrupted, UsageError
from pynanochat.model import GPT, GPTConfig, lora
from pynanochat.stages import begin, finetune, midtrain, sft
from pynanochat.stages.commands import sft_main
from pynanochat.tasks import Task
from tests.stages.fakes import LATER, Talk, make_base, make_run

STAGES = (midtrain, sft)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base") / "run"
    make_base(folder)
    return folder


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory):
    """The base run with both stages done."""
    folder = copy(base, tmp_path_factory.mktemp("whole"))
    summaries = {stage.NAME: make_run(folder).carry_out(stage) for stage in STAGES}
    return folder, summaries


def copy(run, to):
    import shutil

    return Path(shutil.copytree(run, to / "run"))


def lines_of(folder, stage):
    return [json.loads(line) for line in (folder / stage / "metrics.jsonl").read_text().splitlines()]


def figures(folder, stage):
    """The metrics that do not depend on the clock."""
    clocked = {"tokens_per_second", "mfu", "seconds", "memory_bytes"}
    return [{k: v for k, v in line.items() if k not in clocked} for line in lines_of(folder, stage)]


def same_tensors(a, b, stage):
    for name in ("model", "optimizer"):
        one, two = (checkpoint.latest(folder / stage).tensors(name) for folder in (a, b))
        assert one.keys() == two.keys() and all(torch.equal(one[k], two[k]) for k in one)


# --- the runs


def test_both_stages_learn_and_leave_a_model_that_the_engine_loads(whole):
    folder, summaries = whole
    for stage in STAGES:
        losses = [line["val_loss"] for line in lines_of(folder, stage.NAME) if "val_loss" in line]
        assert losses[-1] < losses[0] - 0.5
        assert summaries[stage.NAME]["val_loss"] == losses[-1] and summaries[stage.NAME]["conversations"] == 40
    assert Engine.load(folder).stage == "sft"
    state = checkpoint.latest(folder / "sft").state("state")
    assert state["identity"]["begins_from"] == "midtrain" and state["identity"]["mixture_hash"] == Talk(40, 1).hash()


def test_one_epoch_is_one_epoch(whole):
    for stage in STAGES:
        epochs = [line["epoch"] for line in lines_of(whole[0], stage.NAME) if "epoch" in line]
        assert 1.0 <= epochs[-1] < 1.2 and epochs == sorted(epochs)
        assert min(epochs[-2:]) < 1.0


def test_tokens_of_sft_leave_padding_out(whole):
    state = whole[1]["sft"]
    assert 0.7 * state["steps"] * 256 < state["tokens"] < state["steps"] * 256


@pytest.mark.parametrize("stage", STAGES, ids=lambda s: s.NAME)
@pytest.mark.parametrize("stop", [1, 4])
def test_stopped_and_resumed_equals_uninterrupted(base, whole, tmp_path, stage, stop):
    folder = copy(base if stage is midtrain else whole[0], tmp_path)
    make_run(folder).forget("sft")
    with pytest.raises(Interrupted):
        make_run(folder, **{f"{stage.NAME}_stop_after": stop}).carry_out(stage)
    make_run(folder).carry_out(stage)
    assert figures(folder, stage.NAME) == figures(whole[0], stage.NAME)
    same_tensors(folder, whole[0], stage.NAME)


KILLED = """
import os, signal, sys, torch
torch.set_num_threads(1)
from pynanochat.stages import sft
from pynanochat.stages.loop import TrainingLoop
from pynanochat.tasks import Task
from tests.stages.fakes import make_run
record = TrainingLoop._record
def die(self, *args):
    record(self, *args)
    if self.step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
TrainingLoop._record = die
make_run(sys.argv[1]).carry_out(sft)
"""


def test_a_killed_sft_goes_on_from_its_checkpoint(whole, tmp_path):
    folder = copy(whole[0], tmp_path)
    make_run(folder).forget("sft")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(folder)], cwd=ROOT, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [step for step, _ in checkpoint.steps(folder / "sft")][-1] == 4
    make_run(folder).carry_out(sft)
    assert figures(folder, "sft") == figures(whole[0], "sft")
    same_tensors(folder, whole[0], "sft")


ROOT = Path(__file__).parent.parent.parent
RANK = """
import sys, torch
torch.set_num_threads(1)
from pynanochat import runtime
from pynanochat.stages import midtrain, sft
from pynanochat.tasks import Task
from tests.stages.fakes import make_run
for stage in (midtrain, sft):
    run = make_run(sys.argv[1])
    run.carry_out(stage)
    runtime.barrier(run.ranks)  # the first rank has written done.json
"""


def test_two_ranks_train_what_one_process_with_two_streams_does(base, whole, tmp_path):
    folder = copy(base, tmp_path)
    script = tmp_path / "rank.py"
    script.write_text(textwrap.dedent(RANK))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(
        [*command, str(folder)], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for stage in STAGES:
        for one, two in zip(figures(whole[0], stage.NAME), figures(folder, stage.NAME), strict=True):
            assert one.keys() == two.keys()
            for name in set(one) - {"samples", "gradient_norm"}:
                assert one[name] == pytest.approx(two[name], rel=1e-3), (stage.NAME, one["step"], name)


def test_merged_sft_begins_from_the_base_model(base, tmp_path):
    folder = copy(base, tmp_path)
    make_run(folder, merged=True, sft_steps=2).carry_out(sft)
    assert checkpoint.latest(folder / "sft").state("state")["identity"]["begins_from"] == "pretrain"


def test_the_2025_form_has_a_row_for_each_conversation(whole, tmp_path):
    folder = copy(whole[0], tmp_path)
    make_run(folder).forget("sft")
    make_run(folder, sft_conversations=4).carry_out(sft)
    assert len([line for line in lines_of(folder, "sft") if "loss" in line]) == 40 // 4


class Letters(Task):
    """A choice between two letters, of which B is always right."""

    name, kind, baseline = "Letters", "choice", 0.5

    def __len__(self):
        return 9

    def __getitem__(self, index):
        messages = [{"role": "user", "content": f"{index}: A or B?"}, {"role": "assistant", "content": "B"}]
        return {"messages": messages, "letters": ["A", "B"]}


@pytest.mark.parametrize("names", ["", "Letters"])
def test_chat_tasks_are_evaluated_while_it_trains(whole, tmp_path, monkeypatch, names):
    folder = copy(whole[0], tmp_path)
    make_run(folder).forget("sft")
    monkeypatch.setattr(tasks, "available", lambda where: ["Letters"])
    monkeypatch.setattr(finetune, "GRADED", ("Letters",))
    monkeypatch.setattr(tasks, "open_task", lambda name, split, where: {("Letters", "test"): Letters()}[name, split])
    chat = {"sft_chat_eval_every": 3, "sft_chat_eval_examples": 5, "sft_chat_eval_tasks": names}
    summary = make_run(folder, **chat, sft_steps=5).carry_out(sft)
    found = {line["step"]: line for line in lines_of(folder, "sft") if "Letters" in line}
    assert sorted(found) == [3, 5]
    for line in found.values():
        assert line["Letters"] * 5 == pytest.approx(round(line["Letters"] * 5))
        assert line["chat_mean"] == pytest.approx((line["Letters"] - 0.5) / 0.5)
    assert summary["Letters"] == found[5]["Letters"]


# --- what a stage begins with


def test_the_weights_and_the_optimizer_begin_as_the_stage_before_ended(base):
    work = finetune.Finetuning(make_run(base), "midtrain")
    before = checkpoint.latest(base / "pretrain")
    weights = work.model.state_dict()
    assert all(torch.equal(v, weights[k]) for k, v in before.tensors("model").items())
    optimizer = work.optimizer(warm=True)
    state = optimizer.named_state(work.model.named_parameters())
    assert all(torch.equal(v, state[k]) for k, v in before.tensors("optimizer").items())
    rates = {g["name"]: g["initial_lr"] for g in optimizer.param_groups}
    for group in before.state("state")["optimizer"]:
        scale = 1.0 if group["name"] == "smear_backout" else LATER["lr_scale"]  # which has a rate of its own
        assert rates[group["name"]] == pytest.approx(group["initial_lr"] * scale)


def test_a_cold_optimizer_is_cold(base):
    work = finetune.Finetuning(make_run(base), "midtrain")
    state = work.optimizer().named_state(work.model.named_parameters())
    assert not any(v.any() for v in state.values())


# --- nothing to say


def test_a_batch_with_nothing_to_say_has_loss_zero_and_no_gradient():
    model = GPT(GPTConfig.from_depth(2, head_dim=16, vocab_size=97, sequence_len=16))
    inputs = np.ones((2, 16), np.int32)
    loss = finetune.conversation_loss(model, ConversationBatch(inputs, np.full_like(inputs, -1), 32))
    loss.backward()
    assert loss.item() == 0.0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


class Silent(Talk):
    """Questions so long that no row holds a word of the answers."""

    def __getitem__(self, index):
        return {"messages": [{"role": "user", "content": "why? " * 99}, {"role": "assistant", "content": "so"}]}


def test_a_mixture_without_an_answer_in_reach_changes_nothing_and_is_never_nan(whole, tmp_path):
    folder = copy(whole[0], tmp_path)
    make_run(folder).forget("sft")
    run = make_run(folder, sft_warm_optimizer=False, sft_steps=2)
    run._mixtures["sft", "train"] = Silent(10)
    summary = run.carry_out(sft)
    assert summary["skipped_steps"] == 0
    assert [line["loss"] for line in lines_of(folder, "sft") if "loss" in line] == [0.0, 0.0]
    assert all(v.isfinite().all() for v in checkpoint.latest(folder / "sft").tensors("model").values())


# --- refusals


def test_a_stage_without_the_one_before_says_which_command_makes_it(base, tmp_path):
    with pytest.raises(CheckpointError, match="sft begins from midtrain.*`pynanochat midtrain --run run`.*--merged"):
        make_run(base).carry_out(sft)
    with pytest.raises(CheckpointError, match="midtrain begins from pretrain.*`pynanochat pretrain --run new`"):
        begin.begin(make_run(tmp_path / "new"), "midtrain")
    with pytest.raises(UsageError, match="--merged.*--no-merged"):
        begin.begin(make_run(base, merged=True), "midtrain")


def test_other_weights_below_a_stage_are_noticed(whole, tmp_path):
    folder = copy(whole[0], tmp_path)
    make_run(folder).forget("midtrain")
    make_run(folder, midtrain_steps=2).carry_out(midtrain)
    with pytest.raises(UsageError, match="weights_hash .* --fresh"):
        make_run(folder).carry_out(sft)


def test_another_mixture_is_noticed(whole):
    run = make_run(whole[0])
    run._mixtures["sft", "train"] = Talk(41, seed=1)
    with pytest.raises(UsageError, match="mixture_hash"):
        run.carry_out(sft)


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("epochs", 0, "--epochs 0: must be above 0"),
        ("lr_scale", float("nan"), "--lr-scale nan"),
        ("batch_tokens", 100, "--batch-tokens 100 does not divide"),
        ("device_rows", 3, "--device-rows 3"),
        ("weight_decay", -1.0, "--weight-decay -1.0: must be 0 or more"),
    ],
)
def test_settings_out_of_range(base, flag, value, message):
    with pytest.raises(UsageError, match=message):
        finetune.Finetuning(make_run(base, **{f"midtrain_{flag}": value}), "midtrain")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"sft_lr_scale": -1.0}, "--lr-scale -1.0"),
        ({"sft_chat_eval_tasks": "GSM8K, MMLUU"}, "--chat-eval-tasks MMLUU: no such task"),
        ({"sft_chat_eval_tasks": "SmolTalk"}, "--chat-eval-tasks SmolTalk: no such task to grade"),
        ({"sft_batch_tokens": 100, "sft_conversations": 0}, "--batch-tokens 100 does not divide"),
        ({"sft_batch_tokens": 128, "sft_conversations": 4}, "--batch-tokens 128 and --conversations 4"),
        ({"sft_lora_rank": -1}, "--lora-rank -1"),
        ({"sft_lora_rank": 2, "sft_lora_lr": float("nan")}, "--lora-lr nan"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_changed(whole, flags, message):
    run = make_run(whole[0], **flags)
    with pytest.raises(UsageError, match=message):
        sft.check_plan(run)


def test_a_refused_command_leaves_the_settings_and_what_is_trained(whole, tmp_path):
    folder = copy(whole[0], tmp_path)
    before = (folder / "settings.json").read_text()
    with pytest.raises(UsageError, match="--lr-scale -1.0"):
        sft_main(["--run", str(folder), "--lr-scale", "-1", "--fresh"])
    assert (folder / "settings.json").read_text() == before
    assert checkpoint.steps(folder / "sft")


def test_an_empty_mixture_is_an_error(base):
    run = make_run(base)
    run._mixtures["midtrain", "train"] = Talk(0)
    with pytest.raises(DataError, match="0 conversations"):
        midtrain.train(run)


# --- LoRA

LORA = {"sft_lora_rank": 4, "sft_lora_lr": 0.01}


@pytest.fixture(scope="module")
def adapted(whole, tmp_path_factory):
    folder = copy(whole[0], tmp_path_factory.mktemp("lora"))
    make_run(folder).forget("sft")
    return folder, make_run(folder, **LORA).carry_out(sft)


def test_adapters_learn_and_the_checkpoint_is_a_plain_model(whole, adapted):
    folder, summary = adapted
    losses = [line["val_loss"] for line in lines_of(folder, "sft") if "val_loss" in line]
    assert losses[-1] < losses[0] - 0.1
    assert summary["trained_parameters"] < summary["parameters"] / 10
    before, after = (checkpoint.latest(folder / stage).tensors("model") for stage in ("midtrain", "sft"))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {n for n in before if n.startswith("transformer.h.") and "ve_gate" not in n}
    engine = Engine.load(folder)
    work = finetune.Finetuning(make_run(folder, **LORA), "sft")
    lora.load_adapters(work.model, checkpoint.latest(folder / "sft").tensors("adapters"))
    ids = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(work.model(ids), engine.model(ids))


def test_adapters_stopped_and_resumed_equal_uninterrupted(whole, adapted, tmp_path):
    folder = copy(whole[0], tmp_path)
    make_run(folder).forget("sft")
    with pytest.raises(Interrupted):
        make_run(folder, **LORA, sft_stop_after=3).carry_out(sft)
    make_run(folder, **LORA).carry_out(sft)
    assert figures(folder, "sft") == figures(adapted[0], "sft")
    same_tensors(folder, adapted[0], "sft")


def test_another_rank_for_a_begun_stage_is_refused(adapted):
    with pytest.raises(UsageError, match="lora_rank 4 -> 8"):
        make_run(adapted[0], **LORA | {"sft_lora_rank": 8}).carry_out(sft)
