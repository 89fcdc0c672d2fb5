"""The GPU benchmarks' own code, run on the CPU at tiny sizes: that every row is there and its figures hang together."""

import time

import pytest
import torch

from pynanochat.bench import gpu_ops, gpu_products

ON_CPU = {"linear_fp8": "reference", "relu2_mlp_fp8": "reference"}  # of the others "cpu"
VERIFIED = [{"op": op, "backend": ON_CPU.get(op, "cpu")} for op, _, _ in gpu_ops.BENCHMARKS]


@pytest.fixture
def on_cpu(monkeypatch):
    """Everything on the CPU: another clock, small sizes, and torch.compile as a plain call.

    The clock times one call however many are asked for: on a busy machine a thread waits its turn in every call.
    """

    def seconds(function, calls):
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    monkeypatch.setattr(gpu_ops, "DEVICE", "cpu")
    monkeypatch.setattr(gpu_ops, "event_seconds", seconds)
    monkeypatch.setattr(gpu_ops, "free_memory", lambda: 2**40)
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    rate = {"bf16_tflops": 0.1, "copy_gbs": 10.0}
    monkeypatch.setattr(gpu_ops, "roofline", lambda: rate)
    tiny = {"rotary_qk_norm": {"small": (2, 8, 2, 2, 16)}, "linear_softcap_cross_entropy": {"small": (64, 16, 128)}}
    tiny |= {"muon_step": {"small": (2, 8, 24)}, "relu2_mlp": {"small": (32, 16, 48)}}
    tiny |= {op: {"small": (32, 16, 48)} for op in ("linear_fp8", "relu2_mlp_fp8")}
    monkeypatch.setattr(gpu_ops, "BENCHMARKS", [(op, bench, tiny[op]) for op, bench, _ in gpu_ops.BENCHMARKS])


def test_every_verified_backend_has_its_rows(on_cpu, capsys):
    result = gpu_ops.measure(VERIFIED, deadline=time.monotonic() + 60)
    rows = {(row["op"], row["case"]): row for row in result["rows"]}
    assert set(rows) == {
        ("rotary_qk_norm", "small forward"),
        ("rotary_qk_norm", "small backward"),
        ("linear_softcap_cross_entropy", "small loss and gradients"),
        *((op, "small") for op in gpu_products.OPS),
    }
    for row in rows.values():
        assert (
            row["backend"] == ON_CPU.get(row["op"], "cpu")
            and row["ms"] > 0
            and row["times_eager"] > 0
            and row["times_compiled"] > 0
        )
    forward = rows["rotary_qk_norm", "small forward"]
    assert forward["gbs"] == pytest.approx(2 * (2 * 2 * 8 * 2 * 16 * 2) / 1e9 / (forward["ms"] / 1e3))
    assert forward["of_bound"] == pytest.approx(forward["gbs"] / 10.0)
    assert result["not_measured"] == {}
    gpu_ops.show({"device": "a CPU", **result})
    assert "small backward" in capsys.readouterr().out


def test_what_was_not_measured_is_said(on_cpu):
    late = gpu_ops.measure(VERIFIED, deadline=time.monotonic() - 1)
    assert late["rows"] == [] and set(late["not_measured"].values()) == {"the time was up"}
    nothing = gpu_ops.measure([], deadline=time.monotonic() + 60)
    assert set(nothing["not_measured"].values()) == {"no backend of this op was verified"}


def test_roofline_sizes(monkeypatch):
    monkeypatch.setattr(gpu_ops, "DEVICE", "cpu")
    monkeypatch.setattr(
        gpu_ops, "interleave", lambda functions: {name: 1.0 for name in functions if functions[name]() is not None}
    )
    rate = gpu_ops.roofline(size=64, copied=1000)
    assert rate == {"bf16_tflops": 2 * 64**3 / 1e12, "copy_gbs": 2000 / 1e9}
