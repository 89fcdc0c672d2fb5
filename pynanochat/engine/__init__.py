"""Talking to a model: prefill, batched decoding over a KV cache, sampling, tool calls, text as it comes."""

from pynanochat.engine.engine import Engine, Generated
from pynanochat.engine.events import Event
from pynanochat.engine.sampler import Sampling

__all__ = ["Engine", "Event", "Generated", "Sampling"]
