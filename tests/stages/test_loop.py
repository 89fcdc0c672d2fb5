"""The training loop: exact resumption, ranks, bad steps, signals, metrics."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch

from pynanochat import checkpoint
from pynanochat.errors import CheckpointError, Interrupted, TrainingError
from pynanochat.model import GPT, GPTConfig
from pynanochat.optim import SCHEDULES, build_optimizer
from pynanochat.runtime import Ranks
from pynanochat.stages.loop import LoopSettings, TrainingLoop, truncate_metrics

CONFIG = GPTConfig.from_depth(2, head_dim=16, vocab_size=97, sequence_len=16)
ROWS = 2


class Stream:
    """Rows of tokens that depend only on the stream's number and its position."""

    def __init__(self, number):
        self.number, self.position = number, 0

    def __next__(self):
        generator = np.random.default_rng((self.number, self.position))
        self.position += 1
        return generator.integers(0, CONFIG.vocab_size, (ROWS, CONFIG.sequence_len + 1), dtype=np.int32)

    def state_dict(self):
        return {"position": self.position, "array": np.arange(self.position)}

    def load_state_dict(self, state):
        assert len(state["array"]) == state["position"]
        self.position = state["position"]


class Pairs:
    """A stage's own kind of batch: rows, of which only the first `known` targets count."""

    def __init__(self, rows, known):
        self.rows, self.known, self.tokens = rows, known, known * len(rows)


class PairStream(Stream):
    """Batches of unequal token counts, and a metric that differs between streams."""

    def __next__(self):
        known = 1 + (self.position * 5 + self.number * 3) % CONFIG.sequence_len
        return Pairs(super().__next__(), known)

    def metrics(self):
        return {"position": float(self.position), "number": float(self.number)}


def pair_loss(forward, batch):
    rows = torch.from_numpy(batch.rows).long()
    targets = rows[:, 1:].clone()
    targets[:, batch.known :] = -1
    return forward(rows[:, :-1], targets)


def make_loop(folder, *, steps=8, streams=2, ranks=None, identity=None, evaluate=None, pairs=False, more=(), **options):
    ranks = ranks or Ranks()
    model = GPT(CONFIG, seed=1)
    return TrainingLoop(
        name="pretrain",
        folder=folder,
        model=model,
        optimizer=build_optimizer(model, "2026"),
        schedule=SCHEDULES["2026"]["pretrain"],
        streams={i: (PairStream if pairs else Stream)(i) for i in range(ranks.rank, streams, ranks.world_size)},
        stream_count=streams,
        total_steps=steps,
        options=LoopSettings(**{"eval_every": 2, "sample_every": 4, "save_every": 3, **options}),
        identity=identity or {"depth": 2},
        flops_per_token=1000,
        peak_flops=1e9,
        evaluate=evaluate or (lambda model: {"val_bpb": 1.0}),
        sample=lambda model: [{"prompt": "a", "text": "b"}],
        ranks=ranks,
        loss=pair_loss if pairs else None,
        more_evaluations=more,
    )


def test_a_compiled_module_may_be_the_forward_pass(tmp_path):
    """torch's own wrapper (`--compile on`) has a length that cannot be asked for, and so no truth value."""
    loop = make_loop(tmp_path, steps=1)
    forward = torch.compile(loop.model, backend="eager")
    again = TrainingLoop(**{**arguments_of(loop), "forward": forward})
    assert again.gradients.forward is forward and loop.gradients.forward is loop.model


def arguments_of(loop):
    names = ("name", "folder", "model", "optimizer", "schedule", "streams", "stream_count", "total_steps", "options")
    return {n: getattr(loop, n) for n in (*names, "identity", "flops_per_token", "peak_flops", "evaluate", "sample")}


def lines_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def losses(folder):
    return {line["step"]: line["loss"] for line in lines_of(folder) if "loss" in line}


def weights(folder):
    return checkpoint.latest(folder).tensors("model")


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    summary = make_loop(folder).run()
    return folder, summary


def test_a_run_leaves_metrics_checkpoints_and_a_summary(whole):
    folder, summary = whole
    assert summary["steps"] == 8 and summary["tokens"] == 8 * 64 and summary["val_bpb"] == 1.0
    assert sorted(losses(folder)) == list(range(1, 9))
    assert [step for step, _ in checkpoint.steps(folder)] == [6, 8]


@pytest.mark.parametrize("stop", [1, 3, 4, 7])
def test_stopped_and_resumed_equals_uninterrupted(whole, tmp_path, stop):
    with pytest.raises(Interrupted, match="the same command"):
        make_loop(tmp_path, stop_after=stop).run()
    make_loop(tmp_path).run()
    assert losses(tmp_path) == losses(whole[0])
    assert same(weights(tmp_path), weights(whole[0]))
    assert same(checkpoint.latest(tmp_path).tensors("optimizer"), checkpoint.latest(whole[0]).tensors("optimizer"))


def test_killed_between_checkpoints_goes_back_to_the_last(whole, tmp_path):
    def die(model):
        if die.calls == 2:
            raise RuntimeError("killed")
        die.calls += 1
        return {"val_bpb": 1.0}

    die.calls = 0
    with pytest.raises(RuntimeError):
        make_loop(tmp_path, evaluate=die).run()  # at step 4, after the checkpoint of step 3
    assert sorted(losses(tmp_path)) == [1, 2, 3, 4]
    make_loop(tmp_path).run()
    assert losses(tmp_path) == losses(whole[0])
    assert same(weights(tmp_path), weights(whole[0]))


def test_other_settings_are_refused_and_named(tmp_path):
    with pytest.raises(Interrupted):
        make_loop(tmp_path, stop_after=2).run()
    with pytest.raises(CheckpointError, match="depth 2 -> 3"):
        make_loop(tmp_path, identity={"depth": 3}).run()


def test_a_bad_step_changes_nothing(tmp_path, monkeypatch):
    loop = make_loop(tmp_path, steps=3)
    poisoned = {1}
    plain = loop.gradients.add_up

    def add_up(streams):
        loss, tokens = plain(streams)
        return (loss * float("nan") if loop.step in poisoned else loss), tokens

    monkeypatch.setattr(loop.gradients, "add_up", add_up)
    before = {}
    original = loop._one_step

    def one_step():
        before[loop.step] = {k: v.clone() for k, v in loop.model.state_dict().items()}
        original()

    monkeypatch.setattr(loop, "_one_step", one_step)
    summary = loop.run()
    assert summary["skipped_steps"] == 1
    assert same(before[1], before[2]) and not same(before[0], before[1])


def test_bad_steps_in_a_row_roll_back_and_then_give_up(tmp_path, monkeypatch):
    loop = make_loop(tmp_path, steps=40, save_every=2, max_bad_steps=2, max_rollbacks=1)
    plain = loop.gradients.add_up

    def add_up(streams):
        loss, tokens = plain(streams)
        return loss * (float("inf") if loop.step >= 3 else 1.0), tokens

    monkeypatch.setattr(loop.gradients, "add_up", add_up)
    with pytest.raises(TrainingError, match="--lr-scale"):
        loop.run()
    assert loop.rollbacks == 2
    assert same(weights(tmp_path), loop.model.state_dict())


def test_sigterm_saves_and_says_how_to_resume(whole, tmp_path):
    def stop(model):
        if loop.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"val_bpb": 1.0}

    loop = make_loop(tmp_path, evaluate=stop)
    with pytest.raises(Interrupted, match="step 5 of 8"):
        loop.run()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    make_loop(tmp_path).run()
    assert same(weights(tmp_path), weights(whole[0]))


def test_metrics_are_cut_to_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 1}\n{"step": 2, "loss": 1}\n{"step": 3}\n{"step": 2, "lo')
    truncate_metrics(path, 2)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


RANK = """
import sys, torch
from pathlib import Path
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[2])
from pynanochat import runtime
from test_loop import make_loop
ranks = runtime.Ranks.from_environment()
runtime.init_distributed(ranks, torch.device("cpu"))
make_loop(Path(sys.argv[1]) / "rows", ranks=ranks).run()
make_loop(Path(sys.argv[1]) / "pairs", ranks=ranks, pairs=True).run()
"""


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """An uninterrupted run with a stage's own batches and loss."""
    folder = tmp_path_factory.mktemp("pairs")
    return folder, make_loop(folder, pairs=True).run()


def test_two_gloo_ranks_give_the_losses_and_metrics_of_one_process(whole, pairs, tmp_path):
    script = tmp_path / "rank.py"
    script.write_text(textwrap.dedent(RANK))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    folder = tmp_path / "two"
    done = subprocess.run([*command, str(folder), os.path.dirname(__file__)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for one, two in ((whole[0], folder / "rows"), (pairs[0], folder / "pairs")):
        assert losses(one).keys() == losses(two).keys()
        np.testing.assert_allclose(list(losses(two).values()), list(losses(one).values()), rtol=2e-4)
        state = checkpoint.latest(two)
        assert {f.name for f in state.folder.iterdir()} >= {"loader_0.json", "loader_1.json"}
        for a, b in zip(lines_of(one), lines_of(two), strict=True):
            for name in ("tokens", "position", "number"):
                assert a.get(name) == b.get(name)


def test_tokens_are_counted_from_the_batches_and_metrics_averaged_over_the_streams(pairs, tmp_path):
    expected, total = [], 0
    for position in range(8):
        total += sum(ROWS * (1 + (position * 5 + number * 3) % CONFIG.sequence_len) for number in (0, 1))
        expected.append(total)
    steps = [line for line in lines_of(pairs[0]) if "loss" in line]
    assert [line["tokens"] for line in steps] == expected and pairs[1]["tokens"] == total
    assert [line["position"] for line in steps] == [float(n) for n in range(1, 9)]
    assert all(line["number"] == 0.5 for line in steps)
    with pytest.raises(Interrupted):
        make_loop(tmp_path, pairs=True, stop_after=3).run()
    assert make_loop(tmp_path, pairs=True).run()["tokens"] == total
    assert losses(tmp_path) == losses(pairs[0]) and same(weights(tmp_path), weights(pairs[0]))


def test_evaluations_count_as_time_spent_but_not_as_training(tmp_path, monkeypatch):
    clock = [0.0]

    def tick():
        clock[0] += 1
        return clock[0]

    monkeypatch.setattr("pynanochat.stages.loop.time.perf_counter", tick)

    def evaluate(model):
        clock[0] += 100
        return {"val_bpb": 1.0}

    with pytest.raises(Interrupted):
        make_loop(tmp_path, steps=4, streams=1, evaluate=evaluate, stop_after=3).run()
    clock[0] += 1000  # nobody works on it
    summary = make_loop(tmp_path, steps=4, streams=1, evaluate=evaluate).run()
    assert summary["seconds"] == 4.0  # one for each step
    assert 300 < summary["wall_seconds"] < 400


def test_costly_evaluations_have_their_own_rhythm_and_stay_in_the_summary(tmp_path):
    more = ((3, lambda model: {"accuracy": 0.5}), (0, lambda model: {"never": 1.0}))
    summary = make_loop(tmp_path, more=more).run()
    assert [line["step"] for line in lines_of(tmp_path) if "accuracy" in line] == [3, 6, 8]
    assert (summary["accuracy"], summary["val_bpb"]) == (0.5, 1.0) and "never" not in summary


def test_metrics_that_are_not_ours_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n3\nnull\n[]\n\xff\xfe\n{"step": "x"}\n')
    truncate_metrics(path, 2)
    assert path.read_text() == '{"step": 1}\n'


def test_a_signal_after_the_ranks_agreed_stops_only_in_the_next_step(tmp_path, monkeypatch):
    """A rank that stopped alone would leave the others waiting for it for ever."""
    loop = make_loop(tmp_path)
    record = loop._record

    def late(*args):
        if loop.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        record(*args)

    monkeypatch.setattr(loop, "_record", late)
    with pytest.raises(Interrupted, match="step 4 of 8"):
        loop.run()
