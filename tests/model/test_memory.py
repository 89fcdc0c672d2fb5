"""The plan of a GPU's memory: what autograd really saves, and what is chosen for cards and models of many sizes."""

import pytest
import torch
import torch.nn.functional as F

from pynanochat.model import GPT, GPTConfig
from pynanochat.model.fp8 import Fp8
from pynanochat.model.memory import (
    activation_bytes_per_token,
    fit_rows,
    more_widths_in_fp8,
    saved_widths,
    step_memory,
)
from pynanochat.model.scaling import measure

CARDS = (8, 16, 24, 80)  # GiB; what a desktop and the driver take is gone before
RMS_NORM = F.rms_norm
DEPTHS = (4, 8, 12, 16, 20, 24)


class NormThatKeepsItsInput(torch.autograd.Function):
    """As torch's on a GPU; on a CPU it is made of many ops, each of which keeps something."""

    @staticmethod
    def forward(x, eps):
        return RMS_NORM(x, (x.size(-1),), eps=eps)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(inputs[0])

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def saved_bytes(model, rows: int) -> int:
    """Bytes of what autograd holds after a forward pass, but for parameters and the head's gradient."""
    own = {x.untyped_storage().data_ptr() for x in (*model.parameters(), *model.buffers())}
    kept, ids = {}, torch.zeros(rows, model.config.sequence_len, dtype=torch.int64)

    def note(tensor):
        if tensor.shape != model.lm_head.weight.shape:
            kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no address is used twice
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(ids, ids)
    return sum(tensor.untyped_storage().nbytes() for pointer, tensor in kept.items() if pointer not in own)


@pytest.mark.parametrize("arch", ["2025", "2026"])
@pytest.mark.parametrize("groups", [4, 2])
@pytest.mark.parametrize(("layers", "fp8"), [(2, False), (5, False), (3, True)])
def test_saved_bytes_are_what_autograd_saves(monkeypatch, arch, groups, layers, fp8):
    monkeypatch.setattr(F, "rms_norm", lambda x, shape, eps: NormThatKeepsItsInput.apply(x, eps))
    config = GPTConfig.from_depth(
        layers, arch, head_dim=64, n_embd=256, n_head=4, n_kv_head=groups, vocab_size=320, sequence_len=64
    )
    model = GPT(config, compute_dtype=torch.bfloat16)
    expected = saved_widths(config)
    if fp8:
        model.fp8 = Fp8(model)
        model.fp8.begin()
        expected += more_widths_in_fp8(config, 2)
    tokens = 2 * config.sequence_len
    grown = (saved_bytes(model, 3) - saved_bytes(model, 1)) / tokens / 2 / config.n_embd
    assert grown == pytest.approx(expected, rel=0.03)


def chosen(gib: int, depth: int, arch: str, **how) -> tuple[int, int]:
    """Rows that are chosen of a step's 256, and rows that would fit, 0 for none."""
    memory = step_memory(GPTConfig.from_depth(depth, arch, vocab_size=32768, sequence_len=2048), **how)
    free = int(0.94 * gib * 2**30)
    return fit_rows(memory, free, 256), memory.rows_within(free)


WANTED = {  # rows of a micro-batch by depth; 0: not even one fits
    ("2026", 8): (32, 16, 2, 0, 0, 0),
    ("2026", 16): (32, 32, 8, 4, 0, 0),
    ("2026", 24): (32, 32, 16, 8, 4, 0),
    ("2026", 80): (32, 32, 32, 32, 32, 16),
    ("2025", 8): (32, 16, 8, 2, 0, 0),
    ("2025", 16): (32, 32, 16, 8, 4, 0),
    ("2025", 24): (32, 32, 32, 16, 8, 4),
    ("2025", 80): (32, 32, 32, 32, 32, 16),
}


@pytest.mark.parametrize(("arch", "gib"), WANTED)
def test_rows_that_are_chosen(arch, gib):
    found = [chosen(gib, depth, arch) for depth in DEPTHS]
    assert tuple(rows if fit else 0 for rows, fit in found) == WANTED[arch, gib]


@pytest.mark.parametrize("ours", [True, False])
@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("arch", ["2025", "2026"])
def test_more_memory_never_means_fewer_rows_and_what_is_chosen_fits(arch, itemsize, ours):
    for depth in DEPTHS:
        memory = step_memory(GPTConfig.from_depth(depth, arch, vocab_size=65536), itemsize, ours=ours)
        before = 0
        for gib in range(4, 84, 4):
            rows, fit = fit_rows(memory, gib * 2**30, 64), memory.rows_within(gib * 2**30)
            assert before <= rows
            assert not fit or memory.needed(rows) <= 0.95 * gib * 2**30
            before = rows


def test_a_larger_model_never_gets_more_rows():
    for gib in CARDS:
        for arch in ("2025", "2026"):
            rows = [chosen(gib, depth, arch)[1] for depth in DEPTHS]
            assert rows == sorted(rows, reverse=True)


def test_torchs_own_ops_and_fp32_take_more():
    config = GPTConfig.from_depth(12)
    ours = activation_bytes_per_token(config)
    assert activation_bytes_per_token(config, 4) == 2 * ours
    assert activation_bytes_per_token(config, ours=False) > 1.8 * ours
    assert step_memory(config, ours=False).needed(1) > step_memory(config).needed(1)


def test_products_in_8_bits_take_somewhat_more():
    config = GPTConfig.from_depth(12)
    plain, ours = (step_memory(config, fp8=fp8) for fp8 in (False, True))
    assert 1.08 < ours.row / plain.row < 1.15 and ours.always == plain.always
    assert step_memory(config, 4, fp8=True).always > step_memory(config, 4).always  # the weights are no copies there


def test_the_state_alone_is_more_than_weights_gradients_and_a_moment():
    for arch in ("2025", "2026"):
        config = GPTConfig.from_depth(20, arch)
        assert 12 * measure(config).parameters < step_memory(config).always < 18 * measure(config).parameters


def test_ranks_lay_their_gradients_side_by_side():
    config = GPTConfig.from_depth(12, vocab_size=65536)
    alone, together = (step_memory(config, processes=processes).update for processes in (1, 2))
    assert together == 4 * measure(config).parameters > alone
