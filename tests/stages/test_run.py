"""A run's folder: one command at a time, damaged files named, nothing of the user's removed; prompts of any text."""

import json
import os

import pytest

from pynanochat.errors import CheckpointError, DataError, UsageError
from pynanochat.runtime import Ranks
from pynanochat.stages import pretrain
from pynanochat.stages.commands import open_run


def make_run(folder, **flags):
    return open_run({"preset": "toy", "run": str(folder), "device": "cpu", **flags}, recorded=False)


@pytest.mark.parametrize("content", ["{", "{}", "[]", "null", '{"identity": 1, "summary": {}}'])
def test_a_damaged_done_json_is_named(tmp_path, content):
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain/done.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"done\.json: damaged"):
        make_run(tmp_path).done("pretrain")


@pytest.mark.parametrize("content", ["{", "[]", "null", '{"run": 3}'])
def test_damaged_settings_are_named(tmp_path, content):
    (tmp_path / "settings.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"settings\.json: damaged"):
        open_run({"run": str(tmp_path)}, recorded=True)


def test_a_data_folder_that_is_not_there_is_not_taken_for_an_empty_one(tmp_path):
    run = make_run(tmp_path / "run", data=str(tmp_path / "typo"))
    for ask in (run.task_data, lambda: run.mixture("sft")):
        with pytest.raises(DataError, match="--data .*typo: no such folder"):
            ask()


def test_two_commands_on_one_run_are_refused(tmp_path):
    with make_run(tmp_path).alone():
        with pytest.raises(UsageError, match=f"process {os.getpid()} is working"), make_run(tmp_path).alone():
            pass
        other_rank = make_run(tmp_path)
        other_rank.ranks = Ranks(1, 1, 2)
        with other_rank.alone():
            pass
    with make_run(tmp_path).alone():
        pass


def test_a_run_is_never_in_the_folder_of_its_data(tmp_path):
    (tmp_path / "pretrain").mkdir()
    for folder in (tmp_path, tmp_path / "pretrain", tmp_path / "pretrain" / ".."):
        with pytest.raises(UsageError, match="folder of --data"):
            make_run(folder, data=str(tmp_path))


def test_fresh_removes_only_what_a_run_has_made(tmp_path):
    shard = tmp_path / "pretrain/shard.txt"
    shard.parent.mkdir()
    shard.write_text("text of years")
    with pytest.raises(UsageError, match="--fresh.*is no run"):
        make_run(tmp_path).forget("pretrain")
    assert shard.exists()
    make_run(tmp_path).save_settings()
    make_run(tmp_path).forget("pretrain")
    assert not shard.parent.exists()


class Texts:
    def __init__(self, *texts):
        self.all = texts

    def texts(self, split):
        assert split == "val"
        return iter(self.all)


@pytest.mark.parametrize(
    ("texts", "prompts"),
    [
        ([], []),
        (["one two three four five"], ["one two three four"]),
        (["  \n "] * 5 + ["a b"], ["a b"]),
        (["x" * 100_000], ["x" * 40]),
        (["a", "b", "c", "d"], ["a", "b", "c"]),
    ],
)
def test_prompts_of_few_blank_or_unspaced_texts(texts, prompts):
    assert pretrain.prompts_of(Texts(*texts)) == prompts


def test_settings_are_saved_only_when_they_can_be_trained(tmp_path):
    """Else the next `pretrain`, which starts from them, would fail too."""
    run = make_run(tmp_path, depth=300)
    with pytest.raises(UsageError, match="--depth 300.*GiB"):
        pretrain.check_plan(run, 2048, 1, begun=True)
    assert json.dumps(run.settings.run) and not (tmp_path / "settings.json").exists()
