"""The GPU benchmarks of the small ops, run on the CPU at tiny sizes: that every row is there and counts its bytes."""

import time

import pytest

from pynanochat.bench import gpu_ops, gpu_small, gpu_timing

TINY = {  # case, and the bytes of its rows
    "rms_norm": ((6, 16), {"forward": 2 * 192, "backward": 3 * 192}),
    "rms_norm_residual": ((6, 16), {"forward": 4 * 192, "backward": 4 * 192}),
    "smear": ((2, 3, 32), {"forward": 2 * 384, "backward": 3 * 384}),
    "value_gate": ((2, 3, 2, 4, 16, 5), {"forward": 48 * (2 + 2 + 4), "backward": 48 * (2 + 4) + 96 * 2 + 40 * 4}),
    "adamw_step": ((3, 4, 5), {"": 28 * 60}),
    "sample_tokens": ((3, 60, "top-k 50"), {"": 4 * 180}),
}


@pytest.fixture
def on_cpu(gpu_on_cpu, monkeypatch):
    """A clock by which every call takes a millisecond."""

    def seconds(function, calls):
        function()
        return 1e-3

    monkeypatch.setattr(gpu_timing, "event_seconds", seconds)


def test_every_op_is_measured_somewhere():
    assert [op for op, _, _ in gpu_small.BENCHMARKS] == list(TINY)
    assert [b for b in gpu_ops.BENCHMARKS if b in gpu_small.BENCHMARKS] == gpu_small.BENCHMARKS


@pytest.mark.parametrize("op", TINY)
def test_rows(on_cpu, op, monkeypatch):
    case, moved = TINY[op]
    (bench,) = (bench for name, bench, _ in gpu_small.BENCHMARKS if name == op)
    monkeypatch.setattr(gpu_ops, "BENCHMARKS", [(op, bench, {"small": case})])
    monkeypatch.setattr(gpu_timing, "roofline", lambda: {"copy_gbs": 0.001})
    result = gpu_ops.measure([{"op": op, "backend": "reference"}], deadline=time.monotonic() + 60)
    assert result["not_measured"] == {}
    assert {row["case"]: row["gbs"] for row in result["rows"]} == {
        f"small {part}".strip(): pytest.approx(size / 1e9 / 1e-3) for part, size in moved.items()
    }
    for row in result["rows"]:
        assert row["op"] == op and row["backend"] == "reference" and row["of_bound"] == pytest.approx(row["gbs"] * 1000)
        assert row["times_eager"] == row["times_compiled"] == row.get("times_multinomial", 1) == 1
