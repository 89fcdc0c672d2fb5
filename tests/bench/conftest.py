"""The GPU benchmarks on the CPU, for the tests of this folder."""

import time

import pytest
import torch

from pynanochat.bench import gpu_timing


@pytest.fixture
def gpu_on_cpu(monkeypatch):
    """Everything on the CPU: another clock, and torch.compile as a plain call.

    The clock times one call however many are asked for: on a busy machine a thread waits its turn in every call.
    """

    def seconds(function, calls):
        start = time.perf_counter()
        function()
        return time.perf_counter() - start

    monkeypatch.setattr(gpu_timing, "DEVICE", "cpu")
    monkeypatch.setattr(gpu_timing, "event_seconds", seconds)
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
