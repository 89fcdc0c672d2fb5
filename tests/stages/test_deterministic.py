"""`--deterministic`: what a run asks torch for."""

import os

import pytest
import torch

from pynanochat import runtime
from pynanochat.stages import midtrain, pretrain
from tests.stages.fakes import make_base, make_run


@pytest.fixture(autouse=True)
def _as_before(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("flags", [{}, {"deterministic": True}])
def test_every_stage_asks_where_the_run_does(tmp_path, flags):
    wanted = bool(flags)
    run = make_base(tmp_path, steps=1, midtrain_steps=1, **flags)
    assert torch.are_deterministic_algorithms_enabled() == wanted
    assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) == wanted
    torch.use_deterministic_algorithms(False)
    run.carry_out(midtrain)
    assert torch.are_deterministic_algorithms_enabled() == wanted


def test_a_run_may_go_on_without(tmp_path):
    make_base(tmp_path, steps=1, deterministic=True)
    make_run(tmp_path, steps=1).check(pretrain)


def test_what_a_user_has_asked_torch_for_stays():
    torch.use_deterministic_algorithms(True)
    runtime.seed_everything(0)
    assert torch.are_deterministic_algorithms_enabled()
