"""One AdamW step, in place, on one tensor or a list of them: decoupled decay, bias correction, one pass over memory.

    p ← p·(1 - lr·wd);  m ← β1·m + (1-β1)·g;  v ← β2·v + (1-β2)·g²;  p ← p - lr·(m/(1-β1ᵗ)) / (√(v/(1-β2ᵗ)) + ε)

All four tensors of a parameter have one shape and one dtype (fp32 or fp64), but for g, which may be narrower. Bound by
memory: 28 bytes an fp32 element (p, m, v read and written, g read). The reference is the formula; the CPU runs torch's
fused kernel, which is one pass, and a GPU one launch of ours over all tensors.
"""

import torch

from pynanochat.errors import UsageError
from pynanochat.ops import adamw_step_gpu
from pynanochat.ops.backends import implement, pick


def adamw_step_reference(params, grads, exp_avgs, exp_avg_sqs, *, step, lr, beta1, beta2, eps, weight_decay):
    correction1 = 1 - beta1**step
    correction2 = 1 - beta2**step
    for param, grad, exp_avg, exp_avg_sq in zip(params, grads, exp_avgs, exp_avg_sqs, strict=True):
        grad = grad.to(param.dtype)
        param.mul_(1 - lr * weight_decay)
        exp_avg.lerp_(grad, 1 - beta1)
        exp_avg_sq.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        param.addcdiv_(exp_avg, (exp_avg_sq / correction2).sqrt_().add_(eps), value=-lr / correction1)


def adamw_step_fused(params, grads, exp_avgs, exp_avg_sqs, *, step, **rates):
    # the kernel walks raw memory: layouts that differ would pair the wrong elements
    if not all(t.is_contiguous() for t in (*params, *grads, *exp_avgs, *exp_avg_sqs)):
        return adamw_step_reference(params, grads, exp_avgs, exp_avg_sqs, step=step, **rates)
    grads = [g.to(p.dtype) for g, p in zip(grads, params, strict=True)]
    # the step count is shared: the kernel only reads it
    steps = [torch.full((), float(step), device=params[0].device)] * len(params)
    torch._fused_adamw_(params, grads, exp_avgs, exp_avg_sqs, [], steps, amsgrad=False, maximize=False, **rates)


implement("adamw_step", "reference", adamw_step_reference)
implement("adamw_step", "cpu", adamw_step_fused)
implement("adamw_step", "triton", adamw_step_gpu.step_triton, takes=adamw_step_gpu.takes)
implement("adamw_step", "cuda", adamw_step_gpu.step_cuda, takes=adamw_step_gpu.takes)


@torch.no_grad()
def adamw_step(
    param,
    grad,
    exp_avg,
    exp_avg_sq,
    *,
    step: int,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float = 1e-10,
    weight_decay: float = 0.0,
) -> None:
    """One step in place on param, exp_avg and exp_avg_sq; `step` counts from 1 and is the same for all of a list.

    Each of the four is a tensor or a list of tensors on one device. Raises UsageError for lengths, shapes or dtypes
    that do not agree (a gradient may be narrower), or a step below 1.
    """
    if isinstance(param, torch.Tensor):
        param, grad, exp_avg, exp_avg_sq = [param], [grad], [exp_avg], [exp_avg_sq]
    if not param:
        return
    if step < 1:
        raise UsageError(f"adamw_step: step {step} is below 1; the first step is 1")
    if not len(param) == len(grad) == len(exp_avg) == len(exp_avg_sq):
        raise UsageError(
            f"adamw_step: {len(param)} params, {len(grad)} grads, {len(exp_avg)} and {len(exp_avg_sq)} moments; "
            "give as many of each"
        )
    for p, g, m, v in zip(param, grad, exp_avg, exp_avg_sq, strict=True):
        fits = torch.promote_types(g.dtype, p.dtype) == p.dtype == m.dtype == v.dtype
        if not p.shape == g.shape == m.shape == v.shape or not fits:
            raise UsageError(
                f"adamw_step: param {tuple(p.shape)} {p.dtype}, grad {tuple(g.shape)} {g.dtype} and moments "
                f"{tuple(m.shape)} {m.dtype} must agree in shape and dtype (a gradient may be narrower)"
            )
    tensors = (list(param), list(grad), list(exp_avg), list(exp_avg_sq))
    step_all = pick("adamw_step", param[0], tensors)
    step_all(
        *tensors,
        step=step,
        lr=lr,
        beta1=beta1,
        beta2=beta2,
        eps=eps,
        weight_decay=weight_decay,
    )
