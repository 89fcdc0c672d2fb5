"""`pynanochat bench tune` without a GPU: what it keeps of candidates of made-up speed, and which kernels it meets."""

import json
import time

import pytest
import torch

from pynanochat.bench import gpu_timing, gpu_tune
from pynanochat.errors import BackendError
from pynanochat.kernels import tiles

CANDIDATES = [{"ROWS": 64}, {"ROWS": 128}, {"ROWS": 256}]
CPU = torch.device("cpu")


class Kernel:
    """A call whose time, by ROWS, is given. Where it is None the card refuses; ROWS in `wrong` give another result."""

    def __init__(self, seconds: dict, wrong=()):
        self.seconds, self.wrong, self.ran = seconds, wrong, None

    def __call__(self):
        self.ran = rows = tiles.choose("kernel", CANDIDATES, CPU)["ROWS"]
        if self.seconds[rows] is None:
            raise RuntimeError("out of resource: shared memory")
        return [torch.tensor([1.0, float("nan") if rows in self.wrong else 2.0])]


@pytest.fixture
def tuned(monkeypatch):
    """fastest candidates by case, and the labels left, of tuning one made-up kernel."""

    def tune(kernel, deadline=None):
        def seconds(function, calls):
            function()
            return kernel.seconds[kernel.ran]

        monkeypatch.setattr(gpu_timing, "event_seconds", seconds)
        kept = {}
        left = gpu_tune.tune({"it": (kernel, kernel)}, deadline or time.monotonic() + 60, kept.update)
        return kept, left

    return tune


@pytest.mark.parametrize(
    ("seconds", "wrong", "best"),
    [
        ((3.0, 2.0, 1.0), (), 256),
        ((3.0, 2.0, None), (), 128),  # refused
        ((3.0, 2.0, 1.0), (256,), 128),  # other results
        ((1.0, 0.99, 1.5), (), 64),  # hardly ahead of the first
        ((1.0, None, None), (), 64),
    ],
)
def test_the_fastest_sound_candidate_is_kept(tuned, seconds, wrong, best):
    kernel = Kernel(dict(zip((64, 128, 256), seconds, strict=True)), wrong)
    assert tuned(kernel) == ({"kernel": {"ROWS": best}}, [])


def test_what_time_does_not_allow_is_named(tuned):
    assert tuned(Kernel({64: 1.0}), deadline=time.monotonic() - 1) == ({}, ["it"])


def test_every_kernel_with_a_choice_is_met(monkeypatch):
    pytest.importorskip("triton")
    from triton.runtime.jit import JITFunction

    monkeypatch.setattr(JITFunction, "run", lambda kernel, *arguments, grid, warmup, **options: None)
    monkeypatch.setattr(gpu_timing, "DEVICE", "meta")
    met = {}
    for timed, compared in gpu_tune.workloads().values():
        cases = []
        for call in (timed, compared):
            with tiles.watched() as seen:
                call()
            cases.append(seen)
        assert cases[0] == cases[1], "what is compared is what is timed"
        met |= cases[0]
    assert {case.split()[0] for case in met} == {
        "attention.forward", "attention.dkdv", "attention.dq", "attention_paged",
        "relu2", "slope", "muon_step", "losses",
    }  # fmt: skip
    assert {
        "relu2 bfloat16 large",
        "relu2 bfloat16 small",
        "muon_step float16 large",
        "muon_step float16 small",
    } <= set(met)
    assert all(len(candidates) > 1 for candidates in met.values())


@pytest.fixture
def card(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Toy GPU")
    monkeypatch.setattr(gpu_tune, "workloads", lambda: {"it": [Kernel({64: 2.0, 128: 1.0, 256: 3.0})]})
    monkeypatch.setattr(gpu_tune, "fastest_of", lambda calls, case, candidates, expected: candidates[1])
    monkeypatch.setattr(gpu_tune.gpu, "publish", lambda folder, result: gpu_tune.gpu.write_results(folder, result))
    return tmp_path


def test_the_results_file_keeps_the_rest_of_what_it_says(card):
    path = card / "Toy-GPU.json"
    path.write_text(json.dumps({"device": "Toy GPU", "verified": [1], "tiles": {"older": {"ROWS": 8}}}))
    gpu_tune.main(["--output", str(card)])
    assert json.loads(path.read_text()) == {
        "device": "Toy GPU", "verified": [1], "tiles": {"older": {"ROWS": 8}, "kernel": {"ROWS": 128}},
    }  # fmt: skip
    assert gpu_tune.gpu.begun(card, {"device": "Toy GPU", "commit": "now"}, whole=True)["tiles"] == {
        "older": {"ROWS": 8},
        "kernel": {"ROWS": 128},
    }


def test_without_a_results_file_it_says_what_to_do(card):
    with pytest.raises(BackendError, match="run pynanochat bench gpu first"):
        gpu_tune.main(["--output", str(card)])


def test_without_a_gpu_it_says_so():
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(BackendError, match="no GPU"):
        gpu_tune.main([])
