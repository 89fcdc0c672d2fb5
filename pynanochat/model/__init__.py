"""The model: its configuration, its forward pass, and what follows from its depth."""

from pynanochat.model.config import GPTConfig
from pynanochat.model.gpt import GPT

__all__ = ["GPT", "GPTConfig"]
