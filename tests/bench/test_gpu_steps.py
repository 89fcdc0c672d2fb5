"""The rows of whole steps, run on the CPU with a tiny model: that each is there and its figures hang together."""

import time

import pytest
import torch

from pynanochat.bench import gpu_steps, gpu_timing
from pynanochat.engine import graphs
from pynanochat.model import GPTConfig
from pynanochat.model.scaling import measure
from tests.engine.test_graphs import FakeGraph

RATE = {"bf16_tflops": 0.5, "copy_gbs": 10.0}
SIZE = {"head_dim": 16, "n_layer": 2, "n_head": 2, "n_kv_head": 1, "n_embd": 32, "vocab_size": 64, "sequence_len": 48}


@pytest.fixture(autouse=True)
def on_cpu(gpu_on_cpu, monkeypatch):
    monkeypatch.setattr(gpu_timing, "free_memory", lambda: 10**9)
    monkeypatch.setattr(gpu_steps, "CONFIG", GPTConfig.from_depth(2, **SIZE))
    monkeypatch.setattr(gpu_steps, "LARGE", GPTConfig.from_depth(3, **SIZE | {"n_layer": 3}))
    monkeypatch.setattr(gpu_steps, "unable", lambda device: "")
    monkeypatch.setattr(gpu_steps, "CONTEXT", 40)
    monkeypatch.setattr(gpu_steps, "DECODE_ROWS", (1, 3))
    monkeypatch.setattr(gpu_steps.runtime, "peak_flops", lambda device, dtype: 1e12)
    monkeypatch.setattr(graphs.DecodeGraphs.__init__, "__defaults__", (FakeGraph,))


WAYS = ("eager", "compiled", "eager, fp8", "compiled, fp8")
VERIFIED = [{"op": graphs.NAME, "backend": "cuda", "tests": 1}]


def test_every_step_has_its_rows():
    result = gpu_steps.measure(VERIFIED, RATE, time.monotonic() + 1000)
    rows = {(row["op"], row["case"], row["backend"]): row for row in result["rows"]}
    assert result["not_measured"] == {} and set(rows) == {
        *(("decode_tokens", f"{number} rows", how) for number in (1, 3) for how in ("ahead", "waiting")),
        ("decode_step", "1 x 40 tokens", "eager"),
        ("decode_step", "1 x 40 tokens", "graph"),
        ("decode_step", "3 x 40 tokens", "eager"),
        ("decode_step", "3 x 40 tokens", "graph"),
        *(("train_step", f"d{depth}, 32 rows of 48", how) for depth in (2, 3) for how in WAYS),
    }
    step = rows["train_step", "d2, 32 rows of 48", "eager"]
    assert step["tokens_per_second"] == pytest.approx(32 * 48 / (step["ms"] / 1e3))
    flops = step["tokens_per_second"] * measure(gpu_steps.CONFIG).flops_per_token
    assert step["mfu"] == pytest.approx(flops / 1e12) and step["of_bound"] == pytest.approx(flops / 0.5e12)
    three = rows["decode_step", "3 x 40 tokens", "graph"]
    assert three["tokens_per_second"] == pytest.approx(3 / (three["ms"] / 1e3))
    assert three["of_bound"] == pytest.approx(three["gbs"] / 10.0)


def test_bytes_that_a_query_sees():
    config = GPTConfig.from_depth(2, **SIZE | {"sequence_len": 1024})
    assert [config.window(layer) for layer in range(2)] == [256, -1]
    assert gpu_steps.cache_bytes(config, 1000) == (257 + 1000) * 2 * 16 * 2
    assert gpu_steps.cache_bytes(config, 100) == 200 * 2 * 16 * 2


def test_a_graph_and_an_eager_step_agree():
    model = gpu_steps.bf16_model()
    cache, layout = gpu_steps.decoding(model, 4)
    with torch.inference_mode():
        wanted = gpu_steps.eager_step(model, cache, layout).squeeze(1).clone()
        assert torch.equal(graphs.DecodeGraphs(model, cache, 4).run(layout), wanted)


def test_what_was_not_measured_is_said(monkeypatch):
    late = gpu_steps.measure(VERIFIED, RATE, time.monotonic() + 1)
    assert late["rows"] == [] and set(late["not_measured"].values()) == {"the time was up"}
    monkeypatch.setattr(gpu_steps, "unable", lambda device: "this card is old")
    soon = gpu_steps.measure([], RATE, time.monotonic() + gpu_steps.COMPILE_SECONDS - 1)
    assert soon["not_measured"] == {
        "decode_step as a graph": "graphs were not verified",
        **{f"train_step d{depth} {how}, fp8": "this card is old" for depth in (2, 3) for how in ("eager", "compiled")},
        **{f"train_step d{depth} compiled": "the time was up" for depth in (2, 3)},
    }

    def small_card(rows, graphs, rate):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(gpu_steps, "decode", small_card)
    result = gpu_steps.measure(VERIFIED, RATE, time.monotonic() + 1000)
    assert {k: v for k, v in result["not_measured"].items() if v == "out of memory"} == {
        f"decode_step {rows} rows": "out of memory" for rows in (1, 3)
    }
    assert [row["op"] for row in result["rows"] if row["backend"] == "compiled"] == ["train_step"] * 2
