"""Pretraining data: `open_source("toyworld" | "hub" | FOLDER)` gives documents, `PackedLoader` makes rows of tokens."""

from pynanochat.data.packing import PackedLoader, ValidationLoader
from pynanochat.data.prefetch import Prefetch
from pynanochat.data.sources import FolderSource, open_source
from pynanochat.data.toyworld import ToyWorld

__all__ = ["FolderSource", "PackedLoader", "Prefetch", "ToyWorld", "ValidationLoader", "open_source"]
