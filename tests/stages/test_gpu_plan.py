"""What pretraining plans for a GPU that is not there: its rows, its need, and the refusal of what cannot fit."""

import pytest
import torch

from pynanochat import runtime
from pynanochat.errors import UsageError
from pynanochat.model import memory
from pynanochat.stages import pretrain
from pynanochat.stages.commands import open_run

GIB = 2**30


@pytest.fixture
def card(monkeypatch):
    """Makes torch see one GPU with so many GiB free, on which our ops are verified."""
    device = torch.device("cuda", 0)

    def put_in(gib, reserved=0, ours=True):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(gib * GIB), 2 * int(gib * GIB)))
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: int(reserved * GIB))
        monkeypatch.setattr(memory, "ours_on", lambda device, fp8=False: ours)
        monkeypatch.setattr(runtime, "pick_device", lambda *names: device)
        monkeypatch.setattr(runtime, "pick_compute_dtype", lambda *names: torch.bfloat16)
        return device

    return put_in


def settings(**fields):
    return pretrain.PretrainSettings(**{"depth": 12, "batch_tokens": 2**19} | fields)


def test_an_8_gb_card_trains_a_d12_in_small_pieces_of_the_same_batch(card):
    small = pretrain.plan(settings(), 32768, card(7.2))
    large = pretrain.plan(settings(), 32768, card(78))
    assert small.device_rows < large.device_rows == 32
    assert small.device_rows * small.stream_count == large.device_rows * large.stream_count == 256
    assert pretrain.memory_needed(small, card(7.2), torch.bfloat16, 1) < 7.2 * GIB


def test_the_need_of_the_plan_is_below_what_is_free(card):
    for gib in (7.2, 15, 23, 78):
        for depth in (4, 8, 12):
            what = pretrain.plan(settings(depth=depth), 32768, card(gib))
            assert pretrain.memory_needed(what, card(gib), torch.bfloat16, 1) < gib * GIB


def test_what_this_process_already_has_counts_as_its_own(card):
    config = pretrain.plan(settings(), 32768, card(78)).config
    rows = pretrain.fit_device_rows(config, card(22), 256)
    assert pretrain.fit_device_rows(config, card(8, reserved=14), 256) == rows
    assert pretrain.fit_device_rows(config, card(8), 256) < rows


def test_fp32_and_torchs_own_ops_get_fewer_rows(card):
    config = pretrain.plan(settings(), 32768, card(78)).config
    rows = pretrain.fit_device_rows(config, card(15), 256)
    assert pretrain.fit_device_rows(config, card(15), 256, dtype=torch.float32) < rows
    assert pretrain.fit_device_rows(config, card(15, ours=False), 256) < rows


def test_products_in_8_bits_take_more_memory_and_a_card_that_makes_them(card, monkeypatch):
    capability = [(8, 9)]
    what = pretrain.plan(settings(), 32768, card(78))
    needed = [pretrain.memory_needed(what, card(78), torch.bfloat16, 1, in_fp8) for in_fp8 in (True, False)]
    assert 1.05 * needed[1] < needed[0] < 1.2 * needed[1]
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability[0])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    assert pretrain.plan(settings(), 32768, card(78), in_fp8=True) == what
    with pytest.raises(UsageError, match="--fp8: width of 72 channels"):
        pretrain.plan(settings(depth=1, head_dim=72), 32768, card(78), in_fp8=True)
    capability[0] = (8, 0)
    with pytest.raises(UsageError, match="--fp8: NVIDIA A100 has compute capability 8.0; .* use --no-fp8 here"):
        pretrain.plan(settings(), 32768, card(78), in_fp8=True)


def test_a_model_of_which_not_one_row_fits_is_refused_before_anything_is_done(card, tmp_path):
    run = open_run({"preset": "gpu", "data": "toyworld", "run": str(tmp_path), "depth": 24}, recorded=False)
    card(15)
    with pytest.raises(UsageError, match="--depth 24: .* use a smaller depth"):
        pretrain.check_plan(run, 32768, 1, begun=False)
    card(78)
    pretrain.check_plan(run, 32768, 1, begun=False)
