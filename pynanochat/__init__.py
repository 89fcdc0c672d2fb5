"""pynanochat: train a ChatGPT-like model from raw text to a chat window.

The names below are imported on first use, so that `import pynanochat` stays fast and imports no torch.
"""

import importlib
import pkgutil

# In a checkout, `python -m pynanochat` after `pip install .` finds this folder first; what is compiled or lies
# elsewhere in the tree (_C, kernels, bench) is then taken from the installed package.
__path__ = pkgutil.extend_path(__path__, __name__)

__version__ = "0.1.0"

_HOME = {
    "Tokenizer": "pynanochat.tokenizer",
    "GPT": "pynanochat.model",
    "GPTConfig": "pynanochat.model",
    "Engine": "pynanochat.engine",
}
__all__ = [*_HOME, "__version__"]


def __getattr__(name):
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'pynanochat' has no attribute '{name}'")


def __dir__():
    return sorted(__all__)
