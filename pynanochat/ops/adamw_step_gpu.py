"""The GPU backend `cuda` of adamw_step (csrc/cuda/adamw_step.cu), one launch for up to 80 tensors."""

import torch

from pynanochat import _C
from pynanochat.ops.gpu import cuda_stream

GRADIENTS = (torch.float32, torch.bfloat16, torch.float16)


def takes(params, grads, exp_avgs, exp_avg_sqs) -> bool:
    """Whether one launch can do these tensors."""
    return (
        all(t.is_contiguous() for t in (*params, *grads, *exp_avgs, *exp_avg_sqs))
        and {t.dtype for t in (*params, *exp_avgs, *exp_avg_sqs)} == {torch.float32}
        and len({g.dtype for g in grads}) == 1
        and grads[0].dtype in GRADIENTS
    )


def step_cuda(params, grads, exp_avgs, exp_avg_sqs, *, step, lr, beta1, beta2, eps, weight_decay):
    with cuda_stream("adamw_step", params[0]) as stream:
        rates = (step, lr, beta1, beta2, eps, weight_decay)
        _C.cuda_adamw_step(params, grads, exp_avgs, exp_avg_sqs, *rates, stream)
