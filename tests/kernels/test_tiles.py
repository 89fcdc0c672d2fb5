"""Which candidate runs, and that every candidate of every kernel gives what the first gives (interpreted)."""

import pytest
import torch

from pynanochat import kernels
from pynanochat.kernels import interpreted, tiles

CPU = torch.device("cpu")
FIRST, SECOND = {"ROWS": 64}, {"ROWS": 128}
FP16 = torch.float16


@pytest.fixture(autouse=True)
def _nothing_measured(monkeypatch):
    monkeypatch.setattr(tiles, "_measured", {})


def test_the_first_runs_where_nothing_was_measured():
    tiles.remember("another card", {"case": SECOND})
    assert tiles.choose("case", [FIRST, SECOND], CPU) == FIRST


def test_the_fastest_runs_where_it_was_measured():
    tiles.remember("cpu", {"case": SECOND})
    assert tiles.choose("case", [FIRST, SECOND], CPU) == SECOND
    assert tiles.choose("another case", [FIRST, SECOND], CPU) == FIRST


@pytest.mark.parametrize("stale", [{"ROWS": 32}, None, "128", [128]])
def test_what_is_no_candidate_any_more_is_ignored(stale):
    tiles.remember("cpu", {"case": stale})
    assert tiles.choose("case", [FIRST, SECOND], CPU) == FIRST


@pytest.mark.parametrize(("device", "fastest"), [(None, {}), ("cpu", None), ("cpu", [1]), (3, {})])
def test_a_damaged_file_is_ignored(device, fastest):
    tiles.remember(device, fastest)
    assert tiles.choose("case", [FIRST, SECOND], CPU) == FIRST


def test_what_is_tried_runs_meanwhile_and_a_watcher_sees_the_candidates():
    tiles.remember("cpu", {"case": FIRST})
    with tiles.watched() as met, tiles.trying("case", SECOND):
        assert tiles.choose("case", [FIRST, SECOND], CPU) == SECOND
    assert met == {"case": [FIRST, SECOND]}
    assert tiles.choose("case", [FIRST, SECOND], CPU) == FIRST


def test_tiles_in_a_results_file_reach_the_kernels(monkeypatch):
    from pynanochat.ops import gpu

    monkeypatch.setattr(gpu, "results", lambda: [{"file": {"device": "cpu", "tiles": {"case": SECOND}}}, {"file": {}}])
    gpu._recall_tiles.__wrapped__()
    assert tiles.choose("case", [FIRST, SECOND], CPU) == SECOND


# --- every candidate, interpreted ---


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=FP16)


def attended(size):
    from pynanochat.kernels import attention

    q, k, v, dout = random(1, 70, 2, size), random(1, 70, 1, size), random(1, 70, 1, size), random(1, 70, 2, size)
    out, lse = attention.forward(q, k, v, 40)
    return out, *attention.backward(dout, q, k, v, out, lse, 40)


def paged(longest, size):
    from pynanochat.kernels import attention_paged

    q, (k, v) = random(2 * longest, 2, size), random(2, 6, 16, 1, size)
    tables, starts = torch.arange(6).view(2, 3), torch.arange(3) * longest
    return [attention_paged.forward(q, k, v, tables, starts, torch.tensor([48, 41]), longest, -1)]


def products(tokens, width):
    from pynanochat.kernels import relu2_mlp

    x, w_fc, w_proj = random(tokens, 70), random(width, 70), random(70, width)
    h = relu2_mlp.relu2(x, w_fc)
    return h, relu2_mlp.slope(x, w_proj, h)


def muon(count, rows, columns):
    from pynanochat.kernels import muon_step

    return [muon_step.iterate(random(count, rows, columns) / (rows * columns) ** 0.5, [(3.4, -4.8, 2.0)])]


def losses():
    from pynanochat.kernels import linear_softcap_cross_entropy as cross_entropy

    return [cross_entropy.losses(random(70, 80), random(300, 80), torch.arange(70), 15.0, -1)]


CALLS = {
    "attention": lambda: attended(64),
    "attention, heads of 128": lambda: attended(128),
    "decoding": lambda: paged(1, 64),
    "prefill": lambda: paged(20, 64),
    "longer prefill": lambda: paged(40, 64),
    "relu2": lambda: products(70, 150),
    "muon": lambda: muon(1, 70, 140),
    "losses": losses,
}


@pytest.mark.skipif(not interpreted(), reason="test_on_cpu.py runs this interpreted")
@pytest.mark.parametrize("large", [True, False])
@pytest.mark.parametrize("name", CALLS)
def test_every_candidate_gives_the_same(name, large, monkeypatch):
    """`large`: those of Hopper, and of matrices that fill a card."""
    from pynanochat.kernels import product

    monkeypatch.setattr(kernels, "architecture", lambda device: 90 if large else 80)
    monkeypatch.setattr(product, "PROGRAMS", 1 if large else 132)
    with tiles.watched() as met:
        expected = CALLS[name]()
    assert met and all(len(candidates) > 1 for candidates in met.values())
    for case, candidates in met.items():
        for candidate in candidates[1:]:
            with tiles.trying(case, candidate):
                ours = CALLS[name]()
            for a, b in zip(ours, expected, strict=True):
                error = (a.double() - b.double()).abs().max()
                assert error <= 4 * torch.finfo(FP16).eps * b.double().abs().max(), (case, candidate)
