"""Products in 8 bits through the training loop: resumption, ranks, bad steps, memory that runs out, refusals."""

import json
import math
import os
import subprocess
import sys
import textwrap

import pytest
import torch

from pynanochat import checkpoint
from pynanochat.errors import CheckpointError, Interrupted, UsageError
from pynanochat.model.fp8 import MEASURED, Fp8, unable
from pynanochat.stages import fp8, pretrain
from tests.stages.fakes import make_base, make_run
from tests.stages.test_loop import losses, make_loop, same, weights
from tests.stages.test_out_of_memory import SmallCard

STEPS = MEASURED + 4
QUIET = {"steps": STEPS, "eval_every": 0, "sample_every": 0, "save_every": 0}


def loop_of(folder, **how):
    loop = make_loop(folder, **QUIET | how)
    loop.model.fp8 = Fp8(loop.model)
    return loop


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    loop_of(folder).run()
    return folder


def scales(folder):
    return checkpoint.latest(folder).tensors("fp8")


def test_the_loss_is_that_of_fp32_but_for_a_little(whole, tmp_path):
    make_loop(tmp_path, **QUIET).run()
    plain, ours = losses(tmp_path), losses(whole)
    assert list(ours.values()) == pytest.approx(list(plain.values()), abs=0.01) and ours != plain
    assert not checkpoint.latest(tmp_path).has("fp8")
    assert scales(whole)["updates"] == STEPS and scales(whole)["history"][:STEPS].all(1).any()
    assert weights(whole).keys() == weights(tmp_path).keys()


@pytest.mark.parametrize("stop", [1, MEASURED, MEASURED + 2])
def test_stopped_and_resumed_equals_uninterrupted(whole, tmp_path, stop):
    """While the scales are measured, at the first step that is not, and later."""
    with pytest.raises(Interrupted):
        loop_of(tmp_path, stop_after=stop).run()
    loop_of(tmp_path).run()
    assert losses(tmp_path) == losses(whole)
    assert same(weights(tmp_path), weights(whole)) and same(scales(tmp_path), scales(whole))


def test_a_checkpoint_without_scales_begins_to_measure(tmp_path):
    with pytest.raises(Interrupted):
        make_loop(tmp_path, **QUIET, stop_after=5).run()
    loop_of(tmp_path).run()
    assert scales(tmp_path)["updates"] == STEPS - 5
    assert all(math.isfinite(loss) for loss in losses(tmp_path).values())


def test_a_run_with_another_switch_is_refused(tmp_path):
    with pytest.raises(Interrupted):
        loop_of(tmp_path, identity={"fp8": True}, stop_after=1).run()
    for identity in ({"fp8": False}, {"depth": 2}):
        with pytest.raises(CheckpointError, match="fp8 True -> False"):
            make_loop(tmp_path, identity=identity).run()


def test_bad_steps_leave_no_magnitudes_behind_and_a_rollback_takes_the_scales_back(tmp_path, monkeypatch):
    loop = loop_of(tmp_path, steps=7, save_every=2, max_bad_steps=2)
    plain, seen = loop.gradients.add_up, []

    def add_up(streams):
        loss, tokens = plain(streams)
        if loop.step in (4, 5):
            for scale in loop.model.fp8.scales:
                scale.amax.fill_(1e30)
            loss = loss * float("nan")
        return loss, tokens

    def move(finite, before=loop.gradients.move_scales):
        before(finite)
        seen.append({name: tensor.clone() for name, tensor in loop.model.fp8.state().items()})

    monkeypatch.setattr(loop.gradients, "add_up", add_up)
    monkeypatch.setattr(loop.gradients, "move_scales", move)
    summary = loop.run()
    assert summary["skipped_steps"] == 2 and loop.rollbacks == 1
    assert same(seen[3], seen[4]) and same(seen[4], seen[5])
    assert seen[6]["updates"] == 5 and not same(seen[5], seen[6])  # of the checkpoint at step 4, and one
    assert seen[6]["history"].max() < 1e6


def test_memory_that_runs_out_changes_no_more_than_the_rounding(whole, tmp_path):
    """Of 2 rows that a micro-batch has one fits; while the tensors are measured, the model runs as it is."""
    loop = loop_of(tmp_path)
    loop.gradients.forward = SmallCard(loop.model, 1, backward=True)
    loop.run()
    assert loop.gradients.pieces == 2 and loop.gradients.forward.failures == 1
    found, expected = losses(tmp_path), losses(whole)
    assert [found[step] for step in range(1, MEASURED + 1)] == [expected[step] for step in range(1, MEASURED + 1)]
    assert list(found.values()) == pytest.approx(list(expected.values()), abs=0.01)


RANK = """
import sys, torch
from pathlib import Path
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[2])
from pynanochat import runtime
from tests.stages.test_fp8 import loop_of, STEPS
ranks = runtime.Ranks.from_environment()
runtime.init_distributed(ranks, torch.device("cpu"))
loop = loop_of(Path(sys.argv[1]), ranks=ranks)
loop.run()
torch.save(loop.model.fp8.state(), sys.argv[1] + f"/rank{ranks.rank}.pt")
"""


def test_two_ranks_have_the_same_scales_and_the_losses_of_one_process(whole, tmp_path):
    script, folder = tmp_path / "rank.py", tmp_path / "two"
    script.write_text(textwrap.dedent(RANK))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    done = subprocess.run([*command, str(folder), root], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(folder / f"rank{rank}.pt") for rank in (0, 1))
    assert same(first, second) and same(first, scales(folder))
    assert list(losses(folder).values()) == pytest.approx(list(losses(whole).values()), abs=0.01)
    seen = scales(whole)["history"][:STEPS]  # what one process saw of both streams, the ranks saw together
    torch.testing.assert_close(first["history"][STEPS - 1], seen[-1])  # the first step, of the same weights


# --- stages


def test_a_cpu_is_refused_in_one_line(tmp_path):
    run = make_run(tmp_path, fp8=True)
    with pytest.raises(UsageError, match="^--fp8: cpu is no GPU; .* compute capability 8.9 .* use --no-fp8 here$"):
        pretrain.check_plan(run, 320, 1, begun=False)
    with pytest.raises(UsageError, match="--fp8: cpu is no GPU"):
        pretrain.describe_plan(run.tables["pretrain"], 320, torch.device("cpu"), run.settings, 1)


def test_pretraining_and_sft_train_in_8_bits_and_say_so(tmp_path, monkeypatch, capsys):
    """As on a GPU that can; the base model of the run is told from one without."""
    from pynanochat.stages import sft

    monkeypatch.setattr(fp8, "unable", lambda device: "")
    run = make_base(tmp_path, fp8=True, merged=True, sft_steps=2)
    assert run.done("pretrain")["identity"]["fp8"] is True
    with pytest.raises(UsageError, match="fp8 True -> False"):
        make_run(tmp_path, merged=True).check(pretrain)
    assert run.done("pretrain")["summary"]["dtype"] == "float32 and fp8"
    with monkeypatch.context() as patch:  # on another machine, what is done stays done and the rest is refused
        patch.setattr(fp8, "unable", unable)
        pretrain.check_plan(run, 320, 1, begun=True)
        with pytest.raises(UsageError, match="--fp8: cpu is no GPU"):
            sft.check_plan(run)
    run.carry_out(sft)
    said = capsys.readouterr().out
    for stage in ("pretrain", "sft"):
        assert f"{stage}: the blocks' products are in fp8, by plain torch's casts" in said
    for stage in ("pretrain", "sft"):
        assert scales(run.stage_folder(stage))["scale"].ne(1).any()
        assert all(math.isfinite(loss) for loss in losses(run.stage_folder(stage)).values())
    assert json.loads((tmp_path / "settings.json").read_text())["run"]["fp8"] is True
