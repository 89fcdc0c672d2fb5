"""The GPU backends of adamw_step: `cuda` (csrc/cuda/adamw_step.cu), one launch for up to 80 tensors, and `triton`
(kernels/adamw_step.py), one for any number, whose rates come from a small tensor on the GPU.

rates = torch.tensor(rate_values(step=1, lr=..., ...), device="cuda")
plan = triton.plan(rates, params, grads, exp_avgs, exp_avg_sqs)
triton.launch(rates, plan)      # may be captured in a CUDA graph; before a replay, rates.copy_(new values)
"""

import torch

from pynanochat import _C
from pynanochat.ops.gpu import cuda_stream, triton_twin

triton = triton_twin("adamw_step", "step", "plan", "launch")
GRADIENTS = (torch.float32, torch.bfloat16, torch.float16)


def takes(params, grads, exp_avgs, exp_avg_sqs) -> bool:
    """Whether one launch can do these tensors."""
    return (
        all(t.is_contiguous() for t in (*params, *grads, *exp_avgs, *exp_avg_sqs))
        and {t.dtype for t in (*params, *exp_avgs, *exp_avg_sqs)} == {torch.float32}
        and len({g.dtype for g in grads}) == 1
        and grads[0].dtype in GRADIENTS
    )


def rate_values(*, step, lr, beta1, beta2, eps, weight_decay) -> list[float]:
    """The numbers of one step in the order that the kernel reads them."""
    correction1, correction2 = 1 - beta1**step, 1 - beta2**step
    return [1 - lr * weight_decay, 1 - beta1, beta2, 1 - beta2, 1 / correction2, eps, lr / correction1]


def step_triton(params, grads, exp_avgs, exp_avg_sqs, **settings):
    rates = torch.tensor(rate_values(**settings), dtype=torch.float32).to(params[0].device, non_blocking=True)
    triton.step(rates, params, grads, exp_avgs, exp_avg_sqs)


def step_cuda(params, grads, exp_avgs, exp_avg_sqs, *, step, lr, beta1, beta2, eps, weight_decay):
    """One launch for up to 80 tensors. The rates are arguments: a CUDA graph of it would repeat one step."""
    with cuda_stream("adamw_step", params[0]) as stream:
        rates = (step, lr, beta1, beta2, eps, weight_decay)
        _C.cuda_adamw_step(params, grads, exp_avgs, exp_avg_sqs, *rates, stream)
