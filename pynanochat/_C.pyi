"""Types of the compiled extension. Arrays are C-contiguous."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

# --- byte-pair encoding (csrc/bindings/bpe.cpp) ---

bpe_patterns: dict[str, str]
"""The regular expressions of split patterns by name, "pynanochat" first."""

def bpe_split(text: str, method: str = "window", pattern: str = "pynanochat") -> np.ndarray:
    """Ends of the pieces of `text` as int64 byte offsets into its UTF-8; `method` is window, portable or scalar."""

class BpeEncoder:
    def __init__(self, tokens: Sequence[bytes], special: Mapping[int, bytes], pattern: str = "pynanochat") -> None: ...
    def encode(self, text: str) -> list[int]: ...
    def encode_array(self, text: str) -> np.ndarray: ...
    def encode_batch(self, texts: Iterable[str], threads: int) -> list[np.ndarray]: ...
    def decode(self, ids: np.ndarray) -> bytes: ...
    def parts(self) -> list[tuple[int, int] | None]: ...
    @property
    def regular(self) -> bool: ...

class BpeTrainer:
    def __init__(self) -> None: ...
    def add(self, texts: Iterable[str], threads: int) -> None: ...
    def train(self, merges: int, progress: Callable[[int], object] | None = None) -> list[tuple[int, int]]: ...

# --- CPU kernels (csrc/bindings/cpu.cpp): CPU tensors of torch ---

def cpu_isa() -> str: ...
def cpu_isas() -> list[str]: ...
def set_cpu_isa(name: str) -> None: ...
def rotary_qk_norm_forward(
    q: Any, k: Any, cos: Any, sin: Any, scale: float, eps: float, out_q: Any, out_k: Any
) -> None: ...
def rotary_qk_norm_backward(
    grad_q: Any, grad_k: Any, q: Any, k: Any, cos: Any, sin: Any, scale: float, eps: float, dq: Any, dk: Any
) -> None: ...
def linear_softcap_cross_entropy_losses(
    x: Any, weight: Any, targets: Any, vocab_size: int, softcap: float, ignore_index: int, losses: Any
) -> None: ...
def linear_softcap_cross_entropy_losses_and_grads(
    x: Any,
    weight: Any,
    targets: Any,
    token_scale: Any,
    vocab_size: int,
    softcap: float,
    ignore_index: int,
    losses: Any,
    dx: Any,
    dweight: Any,
) -> None: ...
def attention_forward(q: Any, k: Any, v: Any, window: int, out: Any, lse: Any) -> None: ...
def attention_backward(
    dout: Any, q: Any, k: Any, v: Any, out: Any, lse: Any, window: int, dq: Any, dk: Any, dv: Any
) -> None: ...
def attention_paged(
    q: Any,
    k_pages: Any,
    v_pages: Any,
    tables: Any,
    starts: Any,
    lengths: Any,
    window: int,
    most_queries: int,
    out: Any,
) -> None: ...
def sample_tokens(
    logits: Any, temperature: Any, top_k: Any, top_p: Any, min_p: Any, number: Any, tokens: Any
) -> None: ...
def product(
    a: Any, b: Any, c: Any, bf16_products: bool, after: Literal["", "relu2", "relu2_slope"] = "", h: Any | None = None
) -> None: ...

# --- CUDA kernels (csrc/bindings/cuda*.cpp): GPU tensors of torch; `stream` is torch.cuda.Stream.cuda_stream ---

def cuda_available() -> tuple[bool, str]:
    """(True, "") where the CUDA kernels can run, else (False, reason)."""

def cuda_architectures() -> str:
    """The architectures compiled in, parted by commas, as CMake names them; "" where built without CUDA."""

def launch_rotary_qk_norm(rows: int, head_dim: int, bytes: int, aligned: bool) -> dict[str, int]: ...
def launch_linear_softcap_cross_entropy(rows: int, columns: int, bytes: int, aligned: bool) -> dict[str, int]: ...
def launch_adamw_step(sizes: list[int]) -> list[dict[str, int]]: ...
def launch_attention(batch: int, positions: int, heads: int, head_dim: int, backward: bool) -> dict[str, int]: ...
def attention_tiles(
    first: int, rows: int, columns: int, positions: int, window: int, of_keys: bool
) -> tuple[int, int]: ...
def attention_needs_no_mask(query: int, queries: int, key: int, keys: int, window: int) -> bool: ...
def launch_attention_paged(
    rows: int,
    heads: int,
    kv_heads: int,
    head_dim: int,
    tokens: int,
    bytes: int,
    aligned: bool,
    multiprocessors: int,
) -> dict[str, int]: ...
def launch_decode_step(
    width: int, vocab: int, heads: int, kv_heads: int, head_dim: int, bytes: int, multiprocessors: int
) -> dict[str, int]: ...

decode_step_layer_words: int

def launch_muon_step(count: int, rows: int, columns: int, symmetric: bool) -> dict[str, int]: ...

# the rest only where built with CUDA

class CudaError(RuntimeError):
    """A CUDA call that failed."""

def cuda_rotary_qk_norm(
    q: Any, k: Any, cos: Any, sin: Any, out_q: Any, out_k: Any, scale: float, eps: float, stream: int
) -> None: ...
def cuda_rotary_qk_norm_backward(
    grad_q: Any,
    grad_k: Any,
    q: Any,
    k: Any,
    cos: Any,
    sin: Any,
    out_q: Any,
    out_k: Any,
    scale: float,
    eps: float,
    stream: int,
) -> None: ...
def cuda_linear_softcap_cross_entropy(
    products: Any, targets: Any, token_scale: Any | None, losses: Any, softcap: float, ignore_index: int, stream: int
) -> None: ...
def cuda_adamw_step(
    params: list[Any],
    grads: list[Any],
    exp_avgs: list[Any],
    exp_avg_sqs: list[Any],
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    stream: int,
) -> None: ...
def cuda_attention_forward(q: Any, k: Any, v: Any, window: int, out: Any, lse: Any, stream: int) -> None: ...
def cuda_attention_backward(
    dout: Any,
    q: Any,
    k: Any,
    v: Any,
    out: Any,
    lse: Any,
    window: int,
    delta: Any,
    dq: Any,
    dk: Any,
    dv: Any,
    stream: int,
) -> None: ...

class PlannedStep: ...

def plan_cuda_decode_step(
    layers: Any, tensors: list[Any], sizes: tuple[float, ...], workspace: Any, logits: Any
) -> PlannedStep: ...
def cuda_decode_step(plan: PlannedStep, numbers: Any, drawn: Any, stream: int) -> None: ...
def cuda_attention_paged(
    q: Any,
    k_pages: Any,
    v_pages: Any,
    tables: Any,
    starts: Any,
    lengths: Any,
    partials: Any,
    out: Any,
    splits: int,
    window: int,
    stream: int,
) -> None: ...
def cuda_muon_iterate(
    x: Any, next: Any, gram: Any, polynomial: Any, coefficients: list[tuple[float, float, float]], stream: int
) -> None: ...
