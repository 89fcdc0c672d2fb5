"""The GPU backend of adamw_step: `cuda` (csrc/cuda/adamw_step.cu), one launch for up to 80 tensors."""

import torch

from pynanochat import _C
from pynanochat.ops.gpu import cuda_stream


def fits(params, grads, exp_avgs, exp_avg_sqs) -> bool:
    """Whether all are dense, fp32 but for gradients in bf16, and on one GPU: what the kernel walks through."""
    dense = all(t.is_contiguous() for t in (*params, *grads, *exp_avgs, *exp_avg_sqs))
    wide = all(t.dtype == torch.float32 for t in (*params, *exp_avgs, *exp_avg_sqs))
    return dense and wide and all(g.dtype in (torch.float32, torch.bfloat16) for g in grads)


def cuda(params, grads, exp_avgs, exp_avg_sqs, *, step, lr, beta1, beta2, eps, weight_decay):
    """One step in place on tensors that `fits` takes."""
    with cuda_stream("adamw_step", params[0]) as stream:
        rates = (step, lr, beta1, beta2, eps, weight_decay)
        _C.cuda_adamw_step(params, grads, exp_avgs, exp_avg_sqs, *rates, stream)
