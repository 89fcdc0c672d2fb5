"""`pynanochat doctor`: what this machine has, which backend each op uses, and what to do about each problem.

It looks and reports, and never ends in a traceback: what cannot be found out is a problem with a remedy.
Exit code 1 where something essential (torch, the extension) is broken, else 0.
"""

import importlib.util
import os
import platform
import sys

from pynanochat import __version__
from pynanochat.errors import PynanochatError
from pynanochat.runtime import cpu_name, cpu_threads


class Findings:
    """What was found, in order: facts (name, value), ops (op, ...) and problems (what, remedy)."""

    def __init__(self) -> None:
        self.facts: list[tuple[str, str]] = []
        self.ops: list[tuple[str, ...]] = []
        self.problems: list[tuple[str, str]] = []
        self.broken = False

    def fact(self, name: str, value: object) -> None:
        self.facts.append((name, str(value)))

    def problem(self, what: str, remedy: str, essential: bool = False) -> None:
        self.problems.append((what, remedy))
        self.broken |= essential


def look_at_python(findings: Findings) -> None:
    findings.fact("pynanochat", __version__)
    findings.fact("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


def look_at_torch(findings: Findings) -> None:
    import torch

    findings.fact("torch", torch.__version__)
    findings.fact("torch's CUDA", torch.version.cuda or "none: this torch was built for CPUs")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            gpu = torch.cuda.get_device_properties(index)
            findings.fact(f"GPU {index}", f"{gpu.name}, sm_{gpu.major}{gpu.minor}, {gpu.total_memory / 2**30:.0f} GiB")
    else:
        findings.fact("GPU", "none that torch can use")


def look_at_cpu(findings: Findings) -> None:
    findings.fact("CPU", f"{cpu_name()}, {cpu_threads()} processors for this process")


def look_at_extension(findings: Findings) -> None:
    from pynanochat import _C

    findings.fact("extension", "pynanochat._C, CPU kernels for " + getattr(_C, "cpu_isa", lambda: "any CPU")())
    built = _C.cuda_architectures()
    findings.fact("CUDA kernels", f"built for {built.replace(',', ', ')}" if built else "not built")
    able, reason = _C.cuda_available()
    findings.fact("CUDA here", "can run" if able else reason)
    if able and not built:
        return
    import torch

    if torch.cuda.is_available() and not able:
        findings.problem(
            f"torch sees a GPU but our CUDA kernels cannot run: {reason}",
            "reinstall with nvcc on PATH: pip install --force-reinstall --no-deps . -C cmake.define.PYNANOCHAT_CUDA=on",
        )
    if able and not torch.cuda.is_available():
        findings.problem(
            "the driver sees a GPU but torch does not",
            "install a torch built for CUDA: see https://pytorch.org/get-started/locally",
        )


def look_at_triton(findings: Findings) -> None:
    import torch

    if importlib.util.find_spec("triton") is None:
        findings.fact("triton", "not installed")
        if torch.cuda.is_available():
            findings.problem("triton is not installed, so its kernels cannot run", "pip install triton")
        return
    import triton

    findings.fact("triton", triton.__version__)


def look_at_results(findings: Findings) -> None:
    """What `pynanochat bench gpu` has left of each GPU that it ran on."""
    import torch

    import pynanochat.ops  # noqa: F401  registers every op
    from pynanochat.ops import backends

    here = backends.architecture(0) if torch.cuda.is_available() else None
    for result in backends.results():
        file, tests = result["file"], result["file"].get("tests", {})
        device = file.get("device", "a GPU")
        findings.fact(
            "checked",
            f"{device} ({result['architecture']}), {file.get('date', 'no date')}, commit "
            f"{str(file.get('commit', 'unknown'))[:12]}: {len(result['verified'])} verified, "
            f"{tests.get('failed', 0)} tests failed",
        )
        if result["architecture"] == here and (tests.get("failed") or tests.get("unfinished")):
            findings.problem(
                f"the tests on {device} did not all pass: "
                + ", ".join([*tests.get("failures", []), *tests.get("unfinished", [])][:3]),
                "what failed is not used; run `pynanochat bench gpu` again once it is mended",
            )
        if result["architecture"] == here and result["stale"]:
            stale = ", ".join(f"{op} ({backend})" for op, backend in sorted(result["stale"]))
            findings.problem(
                f"changed since it was verified on {device}, so it is not used: {stale}",
                "run `pynanochat bench gpu` again",
            )
    if here is not None:
        left = unverified(backends.verified(here))
        findings.fact(f"not verified on {here}", ", ".join(left) or "nothing: all that there is has passed")


def look_at_fp8(findings: Findings) -> None:
    import torch

    from pynanochat.model.fp8 import unable

    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    findings.fact("--fp8", f"no: {reason}" if (reason := unable(device)) else "can be used here")


def unverified(passed) -> list[str]:
    """What is for GPUs, "op (backend)", and not among `passed`: it is never used unasked."""
    from pynanochat.ops import backends, fingerprints

    pairs = [(op, b) for op in backends.ops() for b in ("triton", "cuda") if b in backends.implementations(op)]
    pairs += [(name, "cuda") for name in fingerprints.OTHERS]
    return [f"{op} ({backend})" for op, backend in pairs if (op, backend) not in passed]


def look_at_ops(findings: Findings) -> None:
    import torch

    import pynanochat.ops  # noqa: F401  registers every op
    from pynanochat.ops import backends

    wanted = backends.forced()
    findings.fact("PYNANOCHAT_BACKEND", wanted or "not set: each op takes the best that is verified here")
    devices = [torch.device("cpu")]
    passed = frozenset()
    if torch.cuda.is_available():
        devices.append(torch.device("cuda", 0))
        architecture = backends.architecture(0)
        passed = backends.verified(architecture)
    for op in backends.ops():
        chosen = [backends.choose(op, torch.empty(0, device=device)) for device in devices]
        have = ", ".join(backends.implementations(op))
        here = ", ".join(sorted(backend for o, backend in passed if o == op)) or "-"
        findings.ops.append((op, *chosen, *([here] if len(devices) > 1 else []), have))
    if len(devices) > 1 and not passed:
        findings.problem(
            f"no GPU kernel of ours is verified on {architecture}, so GPU tensors use plain torch",
            "run `pynanochat bench gpu` from a checkout: ten minutes, no network",
        )


def look_at_sandbox(findings: Findings) -> None:
    from pynanochat.tools import sandbox

    findings.fact("sandbox", sandbox.active_tier())
    if not sandbox.isolated():
        findings.problem(
            "programs that a model writes (HumanEval) are not cut off from the network and from your files here",
            "allow unprivileged user namespaces, or Landlock and seccomp; or leave HumanEval out of --tasks",
        )


LOOKS = [
    ("python", look_at_python, None),
    ("torch", look_at_torch, "reinstall it: pip install --force-reinstall torch"),
    ("the CPU", look_at_cpu, None),
    ("the extension", look_at_extension, "reinstall from the repository: pip install --force-reinstall --no-deps ."),
    ("triton", look_at_triton, "reinstall it: pip install --force-reinstall triton"),
    ("the results of GPUs", look_at_results, "remove bench/results and run `pynanochat bench gpu` again"),
    ("fp8", look_at_fp8, "use --no-fp8"),
    ("the sandbox", look_at_sandbox, "reinstall from the repository: pip install --force-reinstall --no-deps ."),
    ("the ops", look_at_ops, "see the problems above it; if there are none, report this line"),
]


def examine() -> Findings:
    """Look at everything; a look that fails becomes a problem, whatever it raised."""
    findings = Findings()
    for name, look, remedy in LOOKS:
        try:
            look(findings)
        except PynanochatError as error:
            findings.problem(str(error), "mend what the line names")
        except (Exception, SystemExit) as error:
            line = " ".join(str(error).split())[:300]
            findings.problem(
                f"looking at {name} failed: {type(error).__name__}: {line}",
                remedy or "report this line",
                essential=name in ("torch", "the extension"),
            )
    return findings


def op_columns(findings: Findings) -> list[str]:
    """The headings of the table of ops, as many as its rows have cells."""
    with_gpu = findings.ops and len(findings.ops[0]) > 3
    return ["op", "on CPU", *(["on GPU", "verified here"] if with_gpu else []), "has"]


def aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """The rows as lines of plain text in columns."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def print_plain(findings: Findings) -> None:
    lines = aligned(findings.facts)
    if findings.ops:
        lines += ["", *aligned([tuple(op_columns(findings)), *findings.ops])]
    lines.append("")
    for what, remedy in findings.problems:
        lines += [f"problem: {what}", f"  remedy: {remedy}"]
    print("\n".join(lines if findings.problems else [*lines, "no problems found"]))


def print_rich(findings: Findings) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    facts = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    for name, value in findings.facts:
        facts.add_row(f"[bold]{escape(name)}[/]", escape(value))
    console.print(facts)
    if findings.ops:
        table = Table(*op_columns(findings), title="ops", title_justify="left")
        for row in findings.ops:
            table.add_row(*row)
        console.print(table)
    for what, remedy in findings.problems:
        console.print(f"[bold red]problem[/]: {escape(what)}\n  [bold]remedy[/]: {escape(remedy)}")
    if not findings.problems:
        console.print("[green]no problems found[/]")


def main(argv: list[str]) -> None:
    """`pynanochat doctor [--plain]`; a table in a terminal, aligned lines elsewhere."""
    if argv and argv[0] in ("-h", "--help"):
        print("usage: pynanochat doctor [--plain]\n\n" + __doc__)
        return
    findings = examine()
    rich = sys.stdout.isatty() and "--plain" not in argv and "NO_COLOR" not in os.environ
    (print_rich if rich else print_plain)(findings)
    if findings.broken:
        sys.exit(1)
