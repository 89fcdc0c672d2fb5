"""What Triton's launcher would compile for a call, without a GPU: kernels are recorded where they would have run."""

from dataclasses import dataclass

import torch
from triton.runtime.jit import JITFunction

NAMES = {
    torch.float64: "fp64", torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16",
    torch.float8_e4m3fn: "fp8e4nv", torch.float8_e5m2: "fp8e5", torch.int64: "i64", torch.int32: "i32",
    torch.uint8: "u8",
}  # fmt: skip


@dataclass(frozen=True)
class Launch:
    """One launch: the kernel, the type of each argument, what is constant, which arguments are multiples of 16."""

    kernel: JITFunction
    signature: dict[str, str]
    constants: dict
    whole: tuple[str, ...]
    options: dict


def specialised(value, any_value: bool) -> tuple[str, bool]:
    """(type, whether it is a multiple of 16) of an argument, as a launch sees them; 1 and None are constants. Of
    `any_value` only the type is seen."""
    if any_value and type(value) is int:
        return "i32" if -(2**31) <= value < 2**31 else "i64", False
    if value is None or (type(value) is int and value == 1):
        return "constexpr", False
    if isinstance(value, torch.Tensor):
        return f"*{NAMES[value.dtype]}", value.data_ptr() % 16 == 0
    if isinstance(value, bool):
        return "i1", False
    if isinstance(value, int):
        return "i32" if -(2**31) <= value < 2**31 else "i64", value % 16 == 0
    return "fp32", False


def as_launch(kernel, arguments, options) -> Launch:
    given = dict(zip(kernel.arg_names, arguments, strict=False))
    given |= {name: options.pop(name) for name in kernel.arg_names if name in options}
    fixed = {p.name for p in kernel.params if p.is_constexpr}
    any_value = {p.name for p in kernel.params if p.do_not_specialize}
    kinds = {n: ("constexpr", False) if n in fixed else specialised(v, n in any_value) for n, v in given.items()}
    return Launch(
        kernel,
        {name: kinds[name][0] for name in kernel.arg_names},
        {name: given[name] for name in kernel.arg_names if kinds[name][0] == "constexpr"},
        tuple(name for name in kernel.arg_names if kinds[name][1]),
        {name: options[name] for name in ("num_warps", "num_stages") if name in options},
    )


def record(call, monkeypatch) -> list[Launch]:
    """The launches of call(), of which none takes place: results hold whatever was in their memory."""
    launches = []

    def run(kernel, *arguments, grid, warmup, **options):
        assert all(0 < n < 2**31 for n in grid), grid
        launches.append(as_launch(kernel, arguments, options))

    with monkeypatch.context() as patch:
        patch.setattr(JITFunction, "run", run)
        call()
    return launches
