"""What code a GPU backend of an op consists of, as a hash: what a results file verified holds for that code only.

    fingerprint("attention", "cuda")         # "c27e0f1b93a4d580"

Triton: the files kernels/OP*.py and those that they import from there. CUDA: the files csrc/cuda/OP*.cu and
csrc/bindings/cuda_OP.cpp and what they include of csrc/cuda and of bindings/cuda_*, as CMakeLists.txt saw them when the
extension was built. Both with ops/OP_gpu.py, which calls them. Comments do not count. What is no op but verified too
has a hash of the modules in OTHERS that it consists of.
"""

import functools
import hashlib
import importlib.resources
import re

from pynanochat import _C, __version__

OTHERS = {
    "decode_graphs": ("engine/graphs.py", "engine/paged_cache.py", "engine/flight.py"),
    "decode_ahead": ("engine/scheduler.py", "engine/sampler.py", "engine/paged_cache.py", "engine/flight.py"),
    "fp8_training": ("model/fp8.py", "ops/fp8.py", "ops/linear_fp8.py", "ops/relu2_mlp_fp8.py"),
}

Files = dict[str, tuple[str, tuple[str, ...]]]  # name -> hash, names of the files that it uses


def hash_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def python_code(text: str) -> str:
    """A module without the docstring at its head, without empty lines and those that are comments."""
    text = re.sub(r'\A""".*?"""', "", text, flags=re.DOTALL)
    return re.sub(r"^[ \t]*(#.*)?\n", "", text, flags=re.MULTILINE)


@functools.cache
def triton_files() -> Files:
    files = {}
    for file in importlib.resources.files("pynanochat.kernels").iterdir():
        if file.name.endswith(".py"):
            text = file.read_text(encoding="utf-8")
            uses = re.findall(r"^from pynanochat\.kernels(?:\.(\w+))? import", text, re.MULTILINE)
            files[file.name] = hash_of(python_code(text)), tuple(f"{used or '__init__'}.py" for used in uses)
    return files


@functools.cache
def cuda_files() -> Files:
    files = {}
    for line in _C.cuda_code().split("|")[:-1]:
        name, code, *uses = line.split()
        files[name] = code, tuple(uses)
    return files


def of_op(op: str, files: Files, ops) -> set[str]:
    """The files whose names begin with `op` and not with a longer name of an op, and all that they use."""
    longer = tuple(other for other in ops if other != op and other.startswith(op))
    names = {file: file.rpartition("/")[2].removeprefix("cuda_") for file in files}
    todo = [file for file, name in names.items() if name.startswith(op) and not name.startswith(longer)]
    found = set()
    while todo:
        file = todo.pop()
        if file in files and file not in found:
            found.add(file)
            todo += files[file][1]
    return found


@functools.cache
def fingerprint(op: str, backend: str) -> str:
    from pynanochat.ops import backends

    files = {"triton": triton_files, "cuda": cuda_files}.get(backend, dict)()
    if op in OTHERS:
        package = importlib.resources.files("pynanochat")
        return hash_of("\n".join(python_code((package / name).read_text(encoding="utf-8")) for name in OTHERS[op]))
    names = of_op(op, files, backends.ops())
    if not names:
        return __version__
    glue = importlib.resources.files("pynanochat.ops") / f"{op}_gpu.py"
    parts = [f"{name} {files[name][0]}" for name in sorted(names)]
    if glue.is_file():
        parts.append(python_code(glue.read_text(encoding="utf-8")))
    return hash_of("\n".join(parts))
