"""The rows of decoding one sequence, on the CPU with tiny models: each is there, its figures hang together."""

import time

import pytest
import torch

from pynanochat.bench import gpu_decode_step, gpu_steps
from pynanochat.engine import graphs, persistent
from pynanochat.model import GPTConfig
from tests.engine.test_graphs import FakeGraph

SIZE = {"head_dim": 16, "n_head": 2, "n_kv_head": 1, "n_embd": 32, "vocab_size": 64, "sequence_len": 48}
VERIFIED = [{"op": name, "backend": "cuda", "tests": 1} for name in (graphs.NAME, persistent.NAME)]


@pytest.fixture(autouse=True)
def on_cpu(gpu_on_cpu, monkeypatch):
    configs = {name: GPTConfig.from_depth(depth, **SIZE) for name, depth in (("d1", 1), ("d2", 2))}
    monkeypatch.setattr(gpu_decode_step, "CONFIGS", configs)
    monkeypatch.setattr(gpu_decode_step, "STREAMED", 2**20)
    monkeypatch.setattr(gpu_steps, "CONTEXT", 40)
    monkeypatch.setattr(graphs.DecodeGraphs.__init__, "__defaults__", (FakeGraph,))


def test_every_way_has_its_row():
    result = gpu_decode_step.measure(VERIFIED, time.monotonic() + 1000)
    rows = {(row["case"], row["backend"]): row for row in result["rows"]}
    ways = ("eager", "graph", "one launch")
    assert not result["not_measured"] and set(rows) == {(f"{m}, 40 tokens", w) for m in ("d1", "d2") for w in ways}
    row = rows["d2, 40 tokens", "one launch"]
    assert row["tokens_per_second"] == pytest.approx(1e3 / row["ms"])
    assert row["times_eager"] == pytest.approx(rows["d2, 40 tokens", "eager"]["ms"] / row["ms"])
    assert row["of_bound"] > 0
    read = {case: row["gbs"] * row["ms"] for (case, way), row in rows.items() if way == "one launch"}
    assert read["d2, 40 tokens"] > read["d1, 40 tokens"]


def test_only_what_is_verified_and_says_the_same(monkeypatch):
    result = gpu_decode_step.measure([], time.monotonic() + 1000)
    assert {row["backend"] for row in result["rows"]} == {"eager"}
    right = persistent.PersistentSteps.run
    monkeypatch.setattr(gpu_decode_step.PersistentSteps, "run", lambda self, layout: right(self, layout) + 0.5)
    result = gpu_decode_step.measure(VERIFIED, time.monotonic() + 1000)
    assert not result["rows"] and all("AssertionError: one launch: " in why for why in result["not_measured"].values())


def test_what_was_not_measured_is_said(monkeypatch):
    late = gpu_decode_step.measure(VERIFIED, time.monotonic() + 1)
    assert late == {"rows": [], "not_measured": {f"decode_one_row d{n}": "the time was up" for n in (1, 2)}}

    def small_card(name, verified):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(gpu_decode_step, "one_row", small_card)
    result = gpu_decode_step.measure(VERIFIED, time.monotonic() + 1000)
    assert set(result["not_measured"].values()) == {"out of memory"} and not result["rows"]
