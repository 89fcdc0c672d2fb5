"""Checkpoints: whole or absent, verified, readable again."""

import json
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch

from pynanochat import checkpoint
from pynanochat.errors import CheckpointError, TrainingError


def write(stage, step, tensors=None, state=None):
    writer = checkpoint.Writer(checkpoint.folder_of(stage, step))
    writer.begin()
    writer.tensors("model", tensors or {"w": torch.arange(6.0).view(2, 3)})
    writer.state("state", state or {"step": step, "lengths": np.arange(4)})
    writer.commit()


def test_round_trip(tmp_path):
    write(tmp_path, 3)
    found = checkpoint.latest(tmp_path)
    assert torch.equal(found.tensors("model")["w"], torch.arange(6.0).view(2, 3))
    state = found.state("state")
    assert state["step"] == 3 and np.array_equal(state["lengths"], np.arange(4))


def test_bf16_and_shared_storage_survive(tmp_path):
    w = torch.randn(4, 4)
    write(tmp_path, 1, {"a": w, "transposed": w.T, "half": w.bfloat16()})
    found = checkpoint.latest(tmp_path).tensors("model")
    assert torch.equal(found["transposed"], w.T) and torch.equal(found["half"], w.bfloat16())


def test_newest_by_number_not_by_name(tmp_path):
    for step in (999_999, 1_000_000, 5):
        write(tmp_path, step)
    assert checkpoint.latest(tmp_path).state("state")["step"] == 1_000_000


def test_nothing_there(tmp_path):
    assert checkpoint.latest(tmp_path) is None


@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "manifest", "no manifest"])
def test_damage_is_named(tmp_path, damage):
    write(tmp_path, 1)
    folder = checkpoint.folder_of(tmp_path, 1)
    model = folder / "model.safetensors"
    if damage == "truncate":
        model.write_bytes(model.read_bytes()[:-1])
    elif damage == "flip":
        content = bytearray(model.read_bytes())
        content[-1] ^= 1
        model.write_bytes(content)
    elif damage == "remove":
        model.unlink()
    elif damage == "manifest":
        (folder / "manifest.json").write_text("{")
    else:
        (folder / "manifest.json").unlink()
    with pytest.raises(CheckpointError, match="step_000001"):
        checkpoint.latest(tmp_path)


def test_an_unfinished_write_is_never_seen_and_is_cleaned_up(tmp_path):
    write(tmp_path, 1)
    writer = checkpoint.Writer(checkpoint.folder_of(tmp_path, 2))
    writer.begin()
    writer.tensors("model", {"w": torch.zeros(3)})  # killed here
    assert checkpoint.latest(tmp_path).state("state")["step"] == 1
    checkpoint.prune(tmp_path, keep=1)
    assert [f.name for f in (tmp_path / "checkpoints").iterdir()] == ["step_000001"]


def test_prune_keeps_the_newest(tmp_path):
    for step in range(1, 6):
        write(tmp_path, step)
    checkpoint.prune(tmp_path, keep=2)
    assert [step for step, _ in checkpoint.steps(tmp_path)] == [4, 5]


FULL_DISK = """
import resource, signal, sys, torch
from pathlib import Path
from pynanochat import checkpoint
from pynanochat.errors import TrainingError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
writer = checkpoint.Writer(checkpoint.folder_of(Path(sys.argv[1]), 2))
writer.begin()
try:
    writer.tensors("model", {"w": torch.zeros(1 << 16)})
except TrainingError as error:
    print(error)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="needs file size limits")
def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path):
    assert resource.RLIMIT_FSIZE is not None
    write(tmp_path, 1)
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "cannot write" in done.stdout and "free some space" in done.stdout and done.stdout.count("\n") == 1
    assert checkpoint.latest(tmp_path).state("state")["step"] == 1
    assert [f.name for f in (tmp_path / "checkpoints").iterdir()] == ["step_000001"]


def test_write_json_replaces_whole(tmp_path):
    path = tmp_path / "a" / "x.json"
    checkpoint.write_json(path, {"v": 1})
    checkpoint.write_json(path, {"v": 2})
    assert json.loads(path.read_text()) == {"v": 2}
    assert [f.name for f in path.parent.iterdir()] == ["x.json"]


def test_write_json_to_an_impossible_place(tmp_path):
    (tmp_path / "d.json").mkdir()
    with pytest.raises(TrainingError, match=r"d\.json"):
        checkpoint.write_json(tmp_path / "d.json", 1)


def test_write_json_below_a_file_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(TrainingError, match="cannot write.*file"):
        checkpoint.write_json(tmp_path / "file" / "x.json", 1)
