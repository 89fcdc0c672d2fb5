"""attention on a GPU against SDPA's flash and cuDNN backends, FlexAttention (windows), and FlashAttention if installed.

TFLOP/s count 4 D operations forward and 10 D backward for each visible pair, whatever a kernel computes twice. A peer
that does not take a case, or this card, has no figure. The backward of `cuda` has two rows: the other is its
deterministic form, which differs on Hopper alone.
"""

import functools
import importlib.util

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from pynanochat.bench import bench_attention as attention
from pynanochat.bench import gpu_timing as timing
from pynanochat.ops.attention import attention_reference

CASES = {  # B, T, H, G, D, window
    "d12": (32, 2048, 6, 6, 128, -1),
    "d12 window": (32, 2048, 6, 6, 128, 512),
    "d24": (16, 2048, 12, 12, 128, -1),
    "d24 window": (16, 2048, 12, 12, 128, 512),
    "grouped 64": (16, 2048, 16, 4, 64, -1),
}
PEERS = ("eager", "flash", "cudnn", "flex", "flash_attn")


def sdpa(backend, q, k, v):
    """Full causal attention (B, T, H, D) by one backend of scaled_dot_product_attention."""
    with sdpa_kernel(backend):
        out = F.scaled_dot_product_attention(
            *(x.transpose(1, 2) for x in (q, k, v)), is_causal=True, enable_gqa=q.size(2) != k.size(2)
        )
    return out.transpose(1, 2)


def flex(window, T):
    """FlexAttention compiled for one window, of (q, k, v) in (B, T, H, D)."""
    visible = lambda b, h, i, j: (i >= j) & (i - j <= window)  # noqa: E731
    mask = create_block_mask(visible, None, None, T, T, device=timing.DEVICE)
    compiled = torch.compile(flex_attention, dynamic=False)

    def run(q, k, v):
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return compiled(q, k, v, block_mask=mask, enable_gqa=q.size(1) != k.size(1)).transpose(1, 2)

    return run


def peers(T, window):
    """name -> a function of (q, k, v)."""
    found = {"eager": functools.partial(attention_reference, window=window)}
    if window < 0:
        found["flash"] = functools.partial(sdpa, SDPBackend.FLASH_ATTENTION)
        found["cudnn"] = functools.partial(sdpa, SDPBackend.CUDNN_ATTENTION)
    else:
        found["flex"] = flex(window, T)
    if importlib.util.find_spec("flash_attn"):
        from flash_attn import flash_attn_func

        found["flash_attn"] = functools.partial(flash_attn_func, causal=True, window_size=(window, 0))
    return found


def gradients(function, q, k, v, dout):
    """A call of the backward alone."""
    leaves = [x.detach().requires_grad_() for x in (q, k, v)]
    out = function(*leaves)
    return lambda: torch.autograd.grad(out, leaves, dout, retain_graph=True)


def usable(makers: dict) -> dict:
    """The calls that `makers` make, without those that raise."""
    calls = {}
    for name, make in makers.items():
        try:
            call = make()
            call()
            calls[name] = call
        except (RuntimeError, NotImplementedError, ValueError):
            continue  # out of memory is a RuntimeError too: the peer needs more than the card has
    return calls


def bench_attention(case, label, kernels, rate) -> list[dict]:
    B, T, H, _, D, window = case
    q, k, v, dout = (x.to(timing.DEVICE) for x in attention.make(case, torch.bfloat16)[:4])
    others = peers(T, window)
    forward = {name: (lambda f=kernel.forward: f(q, k, v, window)) for name, kernel in kernels.items()}
    with torch.no_grad():
        forward |= usable({name: (lambda f=f: functools.partial(f, q, k, v)) for name, f in others.items()})
        times = {"forward": timing.interleave(forward, rounds=5)}
    backward = {
        name: functools.partial(kernel.backward, dout, q, k, v, *kernel.forward(q, k, v, window), window)
        for name, kernel in kernels.items()
    }
    if "cuda" in kernels:
        backward["cuda deterministic"] = functools.partial(backward["cuda"], deterministic=True)
    backward |= usable({name: (lambda f=f: gradients(f, q, k, v, dout)) for name, f in others.items()})
    times["backward"] = timing.interleave(backward, rounds=5)
    pairs = B * H * attention.visible_pairs(T, window) / 1e12
    rows = []
    for way, each in (("forward", 4 * D), ("backward", 10 * D)):
        rows += timing.rows_of(
            "attention", f"{label} {way}", times[way], each * pairs, "tflops", rate["bf16_tflops"], PEERS
        )
    return rows
