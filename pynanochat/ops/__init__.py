"""The seam: every op that the model and the optimizer use, one file each, with its reference and its backends."""

from pynanochat.ops.adamw_step import adamw_step
from pynanochat.ops.attention import attention
from pynanochat.ops.attention_paged import attention_paged
from pynanochat.ops.decode_step import decode_step
from pynanochat.ops.linear import linear
from pynanochat.ops.linear_fp8 import linear_fp8, linears_fp8
from pynanochat.ops.linear_softcap_cross_entropy import linear_softcap_cross_entropy
from pynanochat.ops.muon_step import muon_step
from pynanochat.ops.relu2_mlp import relu2_mlp
from pynanochat.ops.relu2_mlp_fp8 import relu2_mlp_fp8
from pynanochat.ops.rms_norm import rms_norm
from pynanochat.ops.rms_norm_residual import rms_norm_residual
from pynanochat.ops.rotary_qk_norm import rotary_qk_norm, rotary_table
from pynanochat.ops.sample_tokens import sample_tokens
from pynanochat.ops.smear import smear
from pynanochat.ops.value_gate import value_gate

__all__ = [
    "adamw_step",
    "attention",
    "attention_paged",
    "decode_step",
    "linear",
    "linear_fp8",
    "linear_softcap_cross_entropy",
    "linears_fp8",
    "muon_step",
    "relu2_mlp",
    "relu2_mlp_fp8",
    "rms_norm",
    "rms_norm_residual",
    "rotary_qk_norm",
    "rotary_table",
    "sample_tokens",
    "smear",
    "value_gate",
]
