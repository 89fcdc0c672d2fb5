"""One Muon step over a stack of same-shaped matrices: momentum, orthogonalisation, update, all in place.

Shapes: params, grads, momentum_buffer (n, R, C); second_moment (n, R, 1) where R >= C, else (n, 1, C); fp32 (or
fp64). The update of each matrix is the orthogonal factor of its Nesterov momentum g, times lr·max(1, R/C)^½.

    2025    five quintic Newton–Schulz steps on g / (‖g‖ + 1e-7)
    2026    rows brought to equal norm (MuonEq), five Polar Express steps on g / (1.01·‖g‖ + 1e-6), Frobenius norm
            set to √min(R, C) (Muon+), each row or column divided by the root of its second moment and the norm
            restored (NorMuon), weight decay only where update·param >= 0

Choices where the rule leaves one open, as the family makes them: the momentum is an average (buffer ← μ·buffer +
(1-μ)·grad, g ← (1-μ)·grad + μ·buffer); rows are equalised before any transposition, to the matrix's root mean square
row norm, norms below 1e-6 counting as 1e-6; the second moment starts at zero without bias correction (the restored
norm cancels it) and is clamped at 1e-10. Ours: norms and everything outside the iteration are fp32 whatever the
iteration's dtype is. Cost: 2·k·(2·m²·M + m³) FLOPs a matrix for k iterations, m = min(R, C), M = max(R, C); it is
bound by matrix products.
"""

import functools

import torch

from pynanochat.errors import UsageError
from pynanochat.ops import muon_step_gpu
from pynanochat.ops.backends import implement, pick
from pynanochat.runtime import pick_compute_dtype

RECIPES = ("2025", "2026")
QUINTIC = (3.4445, -4.7750, 2.0315)
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)

CACHED_ELEMENTS = 2**18  # of a stack that is worked on at a time on a CPU

# norms of all dimensions but the stack's, kept for broadcasting
_norm = functools.partial(torch.linalg.vector_norm, keepdim=True)


def coefficients(recipe, steps):
    """(a, b, c) of each step of the iteration."""
    return POLAR_EXPRESS[:steps] if recipe == "2026" else (QUINTIC,) * steps


def iterate(x, coefficients, dtype):
    """Apply x ← a·x + (b·xxᵀ + c·(xxᵀ)²)·x for each (a, b, c), on the small side. x (n, R, C) -> same, in `dtype`."""
    x = x.to(dtype)
    tall = x.size(-2) > x.size(-1)
    for a, b, c in coefficients:
        gram = gram_matrices(x.mT if tall else x)
        gram = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, x, gram, beta=a) if tall else torch.baddbmm(x, gram, x, beta=a)
    return x


def gram_matrices(x):
    """x·xᵀ of each matrix."""
    if x.device.type != "cpu":
        return x @ x.mT
    gram = x.new_empty(len(x), x.size(-2), x.size(-2))
    for matrix, out in zip(x.unbind(0), gram.unbind(0), strict=True):
        torch.mm(matrix, matrix.mT, out=out)  # unlike the product of stacks, it does not copy what is transposed
    return gram


def orthogonalize_2025(g, steps, dtype, iterate=iterate):
    """The orthogonal factor of g, roughly: singular values end within about 0.7 to 1.2. Overwrites g."""
    g.div_(_norm(g, dim=(-2, -1)) + 1e-7)
    return iterate(g, coefficients("2025", steps), dtype).to(g.dtype)


def orthogonalize_2026(g, steps, dtype, iterate=iterate):
    """The orthogonal factor of g after equalising its rows, not yet scaled. Overwrites g."""
    g.mul_(row_scale_2026(_norm(g, dim=-1)))
    return iterate(g, coefficients("2026", steps), dtype).to(g.dtype)


def row_scale_2026(row_norm):
    """What to multiply rows of norms (n, R, 1) with, to make them equal and the matrix' norm 1/1.01."""
    equal = _norm(row_norm, dim=-2) / row_norm.size(-2) ** 0.5 / row_norm.clamp_min(1e-6)
    norm = _norm(row_norm * equal, dim=-2)
    return equal / (1.01 * norm + 1e-6)


def squares_2026(x):
    """The sums of squares of the rows of x, (n, R, 1), where R >= C, else of its columns, (n, 1, C)."""
    along = -1 if x.size(-2) >= x.size(-1) else -2
    return x.square().sum(dim=along, keepdim=True)  # vector_norm down columns is ten times slower


def scale_2026(squares, shape, second_moment, beta2):
    """What to multiply x (n, R, C) with, by the squares of its rows or columns: to bring it to Frobenius norm
    √min(R, C), then to divide rows or columns by the root of their second moment, which takes x in, and keep the norm.
    """
    total = squares.sum(dim=(-2, -1), keepdim=True)
    to_norm = min(shape[-2:]) ** 0.5 / total.sqrt().clamp_min(1e-6)
    squares = squares * to_norm.square()
    second_moment.lerp_(squares / min(shape[-2:]), 1 - beta2)
    scale = second_moment.clamp_min(1e-10).rsqrt()
    norm_before = squares.sum(dim=(-2, -1), keepdim=True).sqrt()
    norm_after = (squares * scale.square()).sum(dim=(-2, -1), keepdim=True).sqrt()
    return to_norm * scale * (norm_before / norm_after.clamp_min(1e-10))


def orthogonal_updates(
    grads, momentum_buffer, second_moment, *, momentum, beta2, recipe, ns_steps, ns_dtype, iterate=iterate
):
    """What to subtract from the params (n, R, C), before the learning rate."""
    momentum_buffer.lerp_(grads, 1 - momentum)
    g = grads.lerp(momentum_buffer, momentum)
    if recipe == "2025":
        return orthogonalize_2025(g, ns_steps, ns_dtype, iterate)
    updates = orthogonalize_2026(g, ns_steps, ns_dtype, iterate)
    return updates.mul_(scale_2026(squares_2026(updates), updates.shape, second_moment, beta2))


def apply_update(param, update, lr, weight_decay, recipe):
    """Decay param and subtract lr·update, in place; cautious in 2026."""
    if weight_decay and recipe == "2025":
        param.mul_(1 - lr * weight_decay)
    elif weight_decay:
        agrees = (update * param).ge_(0)  # 1 where the update already shrinks the weight
        param.addcmul_(param, agrees, value=-lr * weight_decay)
    param.sub_(update, alpha=lr)


def muon_step_reference(params, grads, momentum_buffer, second_moment, *, lr, weight_decay, recipe, **settings):
    updates = orthogonal_updates(torch.stack(grads), momentum_buffer, second_moment, recipe=recipe, **settings)
    stack = torch.stack(params)
    apply_update(stack, updates, lr * shape_factor(stack.shape), weight_decay, recipe)
    torch._foreach_copy_(params, list(stack.unbind(0)))


def muon_step_cpu(params, grads, momentum_buffer, second_moment, *, lr, weight_decay, recipe, **settings):
    # as many matrices at a time as stay in cache: enough of small ones to hide what each call of torch costs
    few = max(1, CACHED_ELEMENTS // params[0].numel())
    for i in range(0, len(params), few):
        second = None if second_moment is None else second_moment[i : i + few]
        now = torch.stack(grads[i : i + few]) if few > 1 else grads[i].unsqueeze(0)
        updates = orthogonal_updates(now, momentum_buffer[i : i + few], second, recipe=recipe, **settings)
        for param, update in zip(params[i : i + few], updates.unbind(0), strict=True):
            apply_update(param, update, lr * shape_factor(param.shape), weight_decay, recipe)


def muon_step_triton(
    params, grads, momentum_buffer, second_moment, *, lr, momentum, beta2, weight_decay, recipe, ns_steps, ns_dtype
):
    """Four fused passes around the symmetric products of kernels/muon_step.py; iterates in fp32 or fp16."""
    run, grads = muon_step_gpu.triton, muon_step_gpu.alike(grads)
    row_norm = run.momentum(momentum_buffer, grads, momentum)
    row_scale = row_scale_2026(row_norm) if recipe == "2026" else 1 / (_norm(row_norm, dim=-2) + 1e-7)
    x = run.nesterov(momentum_buffer, grads, momentum, row_scale, muon_step_gpu.iteration_dtype(ns_dtype))
    x = run.iterate(x, coefficients(recipe, ns_steps))
    scale = torch.ones_like(row_scale)
    if recipe == "2026":
        scale = scale_2026(run.squares(x), x.shape, second_moment, beta2)
    lr = lr * shape_factor(x.shape)
    targets = muon_step_gpu.alike(params)
    run.update(x, targets, scale, lr, lr * weight_decay, recipe == "2026")
    if targets is not params:
        torch._foreach_copy_(params, targets)


def muon_step_cuda(*stacks, **settings):
    """The matrix iteration by our kernels, all around it by torch's."""
    muon_step_reference(*stacks, **settings, iterate=muon_step_gpu.iterate_cuda)


def shape_factor(shape) -> float:
    """max(1, R/C)^½ of (..., R, C)."""
    return max(1.0, shape[-2] / shape[-1]) ** 0.5


implement("muon_step", "reference", muon_step_reference)
implement("muon_step", "cpu", muon_step_cpu)
implement("muon_step", "triton", muon_step_triton)
implement("muon_step", "cuda", muon_step_cuda, takes=muon_step_gpu.takes_cuda)


@functools.cache
def default_ns_dtype(device: torch.device) -> torch.dtype:
    """bf16 where the device multiplies it, else fp32."""
    return pick_compute_dtype(device)


def second_moment_shape(shape) -> tuple[int, ...]:
    """The shape of the 2026 recipe's second moment for parameters of `shape` (..., R, C)."""
    return (*shape[:-1], 1) if shape[-2] >= shape[-1] else (*shape[:-2], 1, shape[-1])


def verify(params, grads, momentum_buffer, second_moment, recipe, ns_steps):
    if recipe not in RECIPES:
        raise UsageError(f"muon_step: recipe {recipe!r} is not known; use one of {', '.join(RECIPES)}")
    if ns_steps < 1 or (recipe == "2026" and ns_steps > len(POLAR_EXPRESS)):
        raise UsageError(f"muon_step: ns_steps {ns_steps} is out of range; use 1 to {len(POLAR_EXPRESS)}")
    if len(params) != len(grads) or len(params) != len(momentum_buffer):
        raise UsageError(
            f"muon_step: {len(params)} params, {len(grads)} grads, {len(momentum_buffer)} momenta; give as many of each"
        )
    shape = momentum_buffer.shape[1:]
    if len(shape) != 2 or any(t.shape != shape for t in [*params, *grads]):
        raise UsageError(f"muon_step: all params and grads must be matrices of the momentum's shape {tuple(shape)}")
    wanted = second_moment_shape(momentum_buffer.shape)
    if recipe == "2026" and (second_moment is None or second_moment.shape != wanted):
        has = None if second_moment is None else tuple(second_moment.shape)
        raise UsageError(f"muon_step: recipe 2026 needs a second_moment of shape {wanted}, not {has}")


@torch.no_grad()
def muon_step(
    params,
    grads,
    momentum_buffer,
    second_moment=None,
    *,
    lr: float,
    momentum: float = 0.95,
    beta2: float = 0.9,
    weight_decay: float = 0.0,
    recipe: str = "2026",
    ns_steps: int = 5,
    ns_dtype: torch.dtype | None = None,
) -> None:
    """One step in place on params, momentum_buffer and (2026) second_moment; grads are left as they are.

    params and grads are a stack (n, R, C) or a list of n matrices (R, C); momentum_buffer is a stack, zero at the
    start, and second_moment a stack of `second_moment_shape`. `ns_dtype` is the dtype of the matrix iteration
    (default: bf16 where the hardware multiplies it, else fp32). Weight decay is decoupled: times lr and the shape's
    factor; cautious in 2026, plain in 2025 (whose recipe sets it to 0). Raises UsageError for shapes that do not
    agree.
    """
    verify(params, grads, momentum_buffer, second_moment, recipe, ns_steps)
    ns_dtype = ns_dtype or default_ns_dtype(momentum_buffer.device)
    step = pick("muon_step", momentum_buffer, (momentum_buffer, ns_dtype))
    step(
        list(params),
        list(grads),
        momentum_buffer,
        second_moment,
        lr=lr,
        momentum=momentum,
        beta2=beta2,
        weight_decay=weight_decay,
        recipe=recipe,
        ns_steps=ns_steps,
        ns_dtype=ns_dtype,
    )
