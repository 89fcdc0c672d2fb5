"""The GPU benchmarks' own code, run on the CPU at tiny sizes: that every row is there and its figures hang together."""

import time

import pytest
import torch

from pynanochat.bench import gpu_attention_paged, gpu_ops, gpu_products, gpu_timing

ON_CPU = {"linear_fp8": "reference", "relu2_mlp_fp8": "reference"}  # of the others "cpu"
TINY = {
    "attention": {"small": (1, 16, 2, 1, 16, -1), "window": (1, 16, 2, 1, 16, 4)},
    "rotary_qk_norm": {"small": (2, 8, 2, 2, 16)},
    "linear_softcap_cross_entropy": {"small": (64, 16, 128)},
    "attention_paged": {"small": ([(1, 20)] * 2, 2, 1, 16, 16, -1)},
    "muon_step": {"small": (2, 8, 24)},
    "relu2_mlp": {"small": (32, 16, 48)},
    "linear_fp8": {"small": (32, 16, 48)},
    "relu2_mlp_fp8": {"small": (32, 16, 48)},
}
VERIFIED = [{"op": op, "backend": ON_CPU.get(op, "cpu")} for op in TINY]


@pytest.fixture
def on_cpu(gpu_on_cpu, monkeypatch):
    """Small sizes of everything."""
    monkeypatch.setattr(gpu_timing, "free_memory", lambda: 2**40)
    rate = {"bf16_tflops": 0.1, "copy_gbs": 10.0}
    monkeypatch.setattr(gpu_timing, "roofline", lambda: rate)
    benchmarks = [(op, bench, TINY[op]) for op, bench, _ in gpu_ops.BENCHMARKS if op in TINY]
    monkeypatch.setattr(gpu_ops, "BENCHMARKS", benchmarks)


def test_every_verified_backend_has_its_rows(on_cpu, capsys):
    result = gpu_ops.measure(VERIFIED, deadline=time.monotonic() + 60)
    rows = {(row["op"], row["case"]): row for row in result["rows"]}
    assert set(rows) == {
        *(("attention", f"{case} {way}") for case in ("small", "window") for way in ("forward", "backward")),
        ("rotary_qk_norm", "small forward"),
        ("rotary_qk_norm", "small backward"),
        ("linear_softcap_cross_entropy", "small loss and gradients"),
        ("attention_paged", "small"),
        *((op, "small") for op in gpu_products.OPS),
    }
    for row in rows.values():
        assert row["backend"] == ON_CPU.get(row["op"], "cpu") and row["ms"] > 0 and row["times_eager"] > 0
        peer = {"attention_paged": "times_sdpa", "attention": "times_eager"}.get(row["op"], "times_compiled")
        assert row[peer] > 0
    assert (
        rows["attention", "small forward"]["times_flash"] > 0 and rows["attention", "window forward"]["times_flex"] > 0
    )
    backward = rows["attention", "window backward"]  # two heads, the first queries with fewer keys
    assert backward["tflops"] == pytest.approx(2 * 10 * 16 * (1 + 2 + 3 + 4 + 12 * 5) / 1e12 / (backward["ms"] / 1e3))
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


def test_what_torch_compile_made_comes_last_and_a_broken_op_breaks_nothing_else(on_cpu, monkeypatch):
    """And what there is by then is handed on after each case."""

    def bench(case, label, kernels, rate):
        times = gpu_timing.interleave({"cpu": lambda: None, "eager": lambda: None, "compiled": lambda: None}, rounds=1)
        if case == "broken":
            raise RuntimeError("no such kernel")
        return [{"op": label, "timed": sorted(times)}]

    monkeypatch.setattr(
        gpu_ops, "BENCHMARKS", [("muon_step", bench, {"a": "", "b": "broken"}), ("smear", bench, {"c": ""})]
    )
    seen = []
    verified = [{"op": "muon_step", "backend": "cpu"}, {"op": "smear", "backend": "reference"}]
    result = gpu_ops.measure(
        verified, time.monotonic() + 60, done=lambda result: seen.append([len(r["timed"]) for r in result["rows"]])
    )
    assert seen == [[2], [2], [2, 2], [3, 2], [3, 3]]
    assert result["not_measured"] == {"muon_step b": "RuntimeError: no such kernel"}
    (row,) = gpu_ops.measure(verified, time.monotonic() + 60, ops=["smear"])["rows"]
    assert row == {"op": "c", "timed": ["compiled", "cpu", "eager"]}


def test_roofline_sizes(monkeypatch):
    monkeypatch.setattr(gpu_timing, "DEVICE", "cpu")
    monkeypatch.setattr(
        gpu_timing, "interleave", lambda functions: {name: 1.0 for name in functions if functions[name]() is not None}
    )
    rate = gpu_timing.roofline(size=64, copied=1000)
    assert rate == {"bf16_tflops": 2 * 64**3 / 1e12, "copy_gbs": 2000 / 1e9}


@pytest.mark.parametrize(
    "case", [([(1, 40)] * 3, 4, 2, 16, 16, -1), ([(1, 40)] * 3, 2, 2, 16, 16, 20), ([(24, 24)] * 2, 2, 1, 16, 16, -1)]
)
def test_attention_in_one_piece_is_the_same_attention(case):
    functions = gpu_attention_paged.contest(case, {}, "cpu")
    theirs = functions["sdpa"]().transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(theirs, functions["eager"]())


def test_work_of_attention():
    rate = {"bf16_tflops": 2.0, "copy_gbs": 10.0}
    assert gpu_attention_paged.work(([(1, 8)], 2, 2, 16, 4, -1), rate) == (2 * 8 * 2 * 16 * 2 / 1e9, "gbs", 10.0)
    pairs = 4000 * 4001 // 2
    work = gpu_attention_paged.work(([(4000, 4000)], 2, 2, 16, 4, -1), rate)
    assert work == (4 * pairs * 2 * 16 / 1e12, "tflops", 2.0)
    assert gpu_attention_paged.flops(([(3, 8)], 1, 1, 1, 4, 2)) == 4 * 9
