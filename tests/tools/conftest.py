"""The tiers that can be had here, and that nothing is left behind."""

import os
from pathlib import Path

import pytest

from pynanochat.tools import sandbox
from pynanochat.tools.sandbox import active_tier

BEST = active_tier()
TIERS = [
    BEST,
    *(t for t in ("landlock+seccomp", "rlimits only") if t != BEST and (t == "rlimits only" or "landlock" in BEST)),
]
ISOLATED = [tier for tier in TIERS if tier != "rlimits only"]


@pytest.fixture(params=TIERS)
def tier(request, monkeypatch):
    """Each tier that can be had here."""
    monkeypatch.setattr(sandbox, "active_tier", lambda: request.param)
    return request.param


@pytest.fixture(params=ISOLATED or [pytest.param("", marks=pytest.mark.skip(reason="this kernel isolates nothing"))])
def isolation(request, monkeypatch):
    """Each tier that cuts programs off: the attacks that would do harm on the lowest one run under these."""
    monkeypatch.setattr(sandbox, "active_tier", lambda: request.param)
    return request.param


@pytest.fixture(autouse=True)
def nothing_is_left(monkeypatch, tmp_path):
    """No child of this process, running or dead, and no temporary folder outlives a test."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    before = set(children())
    yield
    assert set(children()) <= before
    assert not list((tmp_path / "temporary").iterdir())


def children():
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == os.getpid():
            yield int(stat.parent.name)
