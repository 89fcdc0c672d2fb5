"""Talking to a model: prefill, batched decoding over a KV cache, sampling, tool calls, text as it comes."""

from importlib import import_module

_HOMES = {"Engine": "engine", "Generated": "engine", "Event": "events", "Sampling": "sampling"}

__all__ = ["Engine", "Event", "Generated", "Sampling"]


def __getattr__(name: str):
    """The public names, each imported when asked for: the server's process needs no torch."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
