"""What a GPT is made of. Every difference between the 2025 and the 2026 architecture is a field.

GPTConfig.from_depth(12)                 the 2026 architecture, 12 layers of width 768
GPTConfig.from_depth(20, arch="2025", vocab_size=65536)
"""

import dataclasses
from dataclasses import dataclass

from pynanochat.errors import UsageError

ARCHITECTURES = ("2025", "2026")
SHORT_WINDOW_MULTIPLE = 128


@dataclass(frozen=True)
class GPTConfig:
    arch: str = "2026"
    """The generation whose initialisation is used: "2025" or "2026"."""
    vocab_size: int = 32768
    """Token ids of the tokenizer, specials included."""
    sequence_len: int = 2048
    """The context: the most positions of one row."""
    n_layer: int = 12
    """Blocks."""
    n_head: int = 6
    """Query heads."""
    n_kv_head: int = 6
    """Key/value heads; fewer than n_head is grouped-query attention."""
    head_dim: int = 128
    """Channels of one head."""
    n_embd: int = 768
    """Width of the residual stream."""
    rope_base: float = 100_000.0
    """Base of the rotary frequencies."""
    qk_scale: float = 1.2
    """Factor on the normalised queries and keys."""
    norm_eps: float = 1e-6
    """Added to the mean square in every RMS norm."""
    softcap: float = 15.0
    """Logits are softcap · tanh(x / softcap)."""
    window_pattern: str = "SSSL"
    """Attention windows tiled over the layers: L the whole context, S a quarter of it. The last layer is always L."""
    vocab_multiple: int = 64
    """The embedding and the head are padded to a multiple of this many rows."""
    value_embeddings: bool = True
    """Gated value embeddings on alternate layers, always the last."""
    value_gate_channels: int = 12
    """Channels of x that the value gate reads."""
    residual_scalars: bool = True
    """x = λr·x + λ0·x0 before each block."""
    smear: bool = True
    """A gated share of the token before, added to each token embedding."""
    smear_channels: int = 24
    """Channels of x that the smear gate reads."""
    backout: bool = True
    """Subtract a share of the middle of the network before the final norm."""

    def __post_init__(self):
        for name in ("vocab_size", "sequence_len", "n_layer", "n_head", "n_kv_head", "head_dim", "n_embd"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name}={getattr(self, name)}: must be at least 1")
        if self.arch not in ARCHITECTURES:
            raise UsageError(f"arch={self.arch!r}: use one of {', '.join(ARCHITECTURES)}")
        if self.n_head % self.n_kv_head:
            raise UsageError(f"n_kv_head={self.n_kv_head} does not divide n_head={self.n_head}")
        if self.head_dim % 2:
            raise UsageError(f"head_dim={self.head_dim}: must be even, rotary embeddings turn pairs")
        if not self.window_pattern or set(self.window_pattern) - set("SL"):
            raise UsageError(f"window_pattern={self.window_pattern!r}: use the letters S and L")

    @classmethod
    def from_depth(cls, depth: int, arch: str = "2026", *, head_dim: int = 128, **fields) -> "GPTConfig":
        """The model of `depth` layers: width 64·depth rounded up to whole heads, everything else as `arch` has it.

        Keyword fields override. Raises UsageError for a depth below 1 or an unknown architecture or field.
        """
        if depth < 1:
            raise UsageError(f"--depth {depth}: a model has at least 1 layer")
        if head_dim < 2:
            raise UsageError(f"head_dim={head_dim}: must be even and at least 2")
        if arch not in ARCHITECTURES:
            raise UsageError(f"--arch {arch}: use one of {', '.join(ARCHITECTURES)}")
        heads = -(-64 * depth // head_dim)
        derived = {
            "arch": arch,
            "n_layer": depth,
            "n_head": heads,
            "n_kv_head": heads,
            "head_dim": head_dim,
            "n_embd": heads * head_dim,
        }
        if arch == "2025":
            derived |= {
                "vocab_size": 65536,
                "rope_base": 10_000.0,
                "qk_scale": 1.0,
                "window_pattern": "L",
                "vocab_multiple": 1,
                "value_embeddings": False,
                "residual_scalars": False,
                "smear": False,
                "backout": False,
            }
        return cls.from_dict(derived | fields)

    @classmethod
    def from_dict(cls, fields: dict) -> "GPTConfig":
        known = {f.name for f in dataclasses.fields(cls)}
        if unknown := set(fields) - known:
            raise UsageError(f"unknown model settings: {', '.join(sorted(unknown))}")
        return cls(**fields)

    def to_dict(self) -> dict:
        return dataclasses.asdict(self)

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding and the head."""
        return -(-self.vocab_size // self.vocab_multiple) * self.vocab_multiple

    def window(self, layer: int) -> int:
        """How many earlier positions a query of `layer` sees; -1 for all of them."""
        letter = self.window_pattern[layer % len(self.window_pattern)]
        if letter == "L" or layer == self.n_layer - 1:
            return -1
        quarter = -(-self.sequence_len // 4)
        return -(-quarter // SHORT_WINDOW_MULTIPLE) * SHORT_WINDOW_MULTIPLE

    def has_value_embedding(self, layer: int) -> bool:
        return self.value_embeddings and (self.n_layer - 1 - layer) % 2 == 0
