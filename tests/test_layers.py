"""The arrows of the house: which package may import which, read from the imports themselves."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALL = {"*"}

# Each room and the rooms that it may import (itself always). A module directly under pynanochat/ is a room.
MAY_IMPORT = {
    "errors": set(),
    "runtime": {"errors"},
    "settings": {"errors"},
    "runs": {"errors"},
    "checkpoint": {"errors", "model", "runs"},
    "kernels": {"errors", "runtime"},
    "ops": {"errors", "runtime", "kernels", "_C", "bench"},
    "model": {"errors", "runtime", "ops"},
    "optim": {"errors", "runtime", "ops"},
    "tokenizer": {"errors", "runtime", "settings", "checkpoint", "data", "_C"},
    "data": {"errors", "runtime", "settings", "tokenizer", "tools", "_C"},
    "tasks": {"errors", "data", "tokenizer", "tools"},
    "tools": {"errors", "_C"},
    "engine": {"errors", "runtime", "runs", "checkpoint", "model", "ops", "tokenizer", "tools"},
    "serve": {"errors", "runtime", "settings", "runs", "engine", "tokenizer", "report"},
    "evals": {"errors", "runtime", "engine", "tasks", "tokenizer", "ops"},
    "report": {"errors", "runtime", "runs"},
    "stages": {
        "errors", "runtime", "settings", "runs", "checkpoint", "data", "tokenizer", "model", "optim", "ops", "evals",
        "tasks", "engine", "report", "tools",
    },
    "chat": {"errors", "runtime", "runs", "checkpoint", "engine", "tokenizer", "tools"},
    "doctor": ALL,
    "bench_commands": ALL,
    "cli": ALL,
    "speedrun": ALL,
    "__main__": {"cli"},
    "__init__": set(),
}  # fmt: skip
TORCHLESS = (
    "tokenizer", "data", "tasks", "tools", "report", "errors", "settings", "cli", "engine.process", "serve.app",
)  # fmt: skip
EAGER_ENTRY_POINTS = {"cli", "speedrun", "__main__"}


def room_of(path: Path) -> str:
    relative = path.relative_to(ROOT)
    if relative.parts[0] == "kernels":
        return "kernels"
    return relative.parts[1] if len(relative.parts) > 2 else relative.stem


def sources() -> list[Path]:
    return sorted([*(ROOT / "pynanochat").rglob("*.py"), *(ROOT / "kernels").glob("*.py")])


def imported_rooms(path: Path) -> set[str]:
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; name the package"
            names = [
                f"{node.module}.{alias.name}" if node.module == "pynanochat" else node.module for alias in node.names
            ]
        else:
            continue
        rooms |= {name.split(".")[1] for name in names if name.startswith("pynanochat.")}
    return rooms


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_follow_the_arrows(path):
    room = room_of(path)
    assert room in MAY_IMPORT, f"{path} is in a room that DESIGN does not know"
    allowed = MAY_IMPORT[room]
    if allowed is not ALL:
        wrong = imported_rooms(path) - allowed - {room, "__version__"}
        assert not wrong, f"{room} imports {sorted(wrong)}"


def test_nothing_imports_the_entry_points():
    for path in sources():
        if room_of(path) not in EAGER_ENTRY_POINTS:
            assert not imported_rooms(path) & EAGER_ENTRY_POINTS, path


def test_no_pickle_and_no_eval():
    banned = re.compile(r"\b(import pickle|from pickle|torch\.load\(|[^.\w]eval\(|[^.\w]exec\()")
    for path in sources():
        # what runs inside the sandbox runs code: that is all it is for
        assert path.name == "sandbox_guest.py" or not banned.search(path.read_text()), path


def test_cpp_arrows():
    may_include = {
        "common": set(),
        "bpe": {"common"},
        "cpu": {"common"},
        "cuda": {"common"},
        "data": set(),
        "sandbox": set(),
        "bindings": {"common", "bpe", "data", "cpu", "cuda"},
    }
    for path in (ROOT / "csrc").rglob("*.*"):
        if path.suffix not in (".h", ".cpp", ".cu", ".cuh"):
            continue
        room = path.relative_to(ROOT / "csrc").parts[0]
        text = path.read_text()
        included = set(re.findall(r'#include "(\w+)/', text))
        assert included <= may_include[room] | {room}, path
        if room != "bindings":
            assert "pybind11" not in text and "Python.h" not in text, path
        assert "torch/" not in text, path


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_import_brings_no_torch():
    assert run_python("import sys, pynanochat, pynanochat.cli; print('torch' in sys.modules)").strip() == "False"


@pytest.mark.parametrize("room", TORCHLESS)
def test_these_rooms_need_no_torch(room):
    assert run_python(f"import sys, pynanochat.{room}; print('torch' in sys.modules)").strip() == "False"
