"""Folders of small shards."""

import pytest

from .fakes import write_shard


@pytest.fixture
def folder(tmp_path):
    """make(files) writes {name: texts} to tmp_path/pretrain and gives tmp_path."""

    def make(files):
        (tmp_path / "pretrain").mkdir(exist_ok=True)
        for name, texts in files.items():
            write_shard(tmp_path / "pretrain" / name, texts)
        return tmp_path

    return make
