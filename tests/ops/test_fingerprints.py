"""That a fingerprint follows the code of a kernel, and nothing else."""

import re
from pathlib import Path

import pytest

from pynanochat import _C, __version__
from pynanochat.ops import backends, fingerprints

CSRC = Path(__file__).parents[2] / "csrc"
FILES = {
    "cuda/norm.cu": ("1", ("cuda/norm.h", "cuda/shared.h")),
    "cuda/norm_wide.cu": ("2", ("cuda/shared.h",)),
    "cuda/norm_paged.cu": ("3", ("cuda/norm.h",)),
    "cuda/norm.h": ("4", ("cuda/launch.h",)),
    "cuda/shared.h": ("5", ()),
    "cuda/launch.h": ("6", ()),
    "bindings/cuda_norm.cpp": ("7", ("cuda/norm.h", "bindings/cuda_view.h")),
    "bindings/cuda_norm_paged.cpp": ("8", ("bindings/cuda_view.h",)),
    "bindings/cuda_view.h": ("9", ("bindings/view.h",)),
}


def test_the_files_of_an_op_are_its_own_and_what_they_use():
    ops = ["norm", "norm_paged"]
    paged = {"cuda/norm_paged.cu", "bindings/cuda_norm_paged.cpp"}
    assert fingerprints.of_op("norm", FILES, ops) == set(FILES) - paged
    used = {"cuda/norm.h", "cuda/launch.h", "bindings/cuda_view.h"}
    assert fingerprints.of_op("norm_paged", FILES, ops) == paged | used
    assert fingerprints.of_op("graphs", FILES, ops) == set()


def test_every_triton_twin_has_one():
    files = fingerprints.triton_files()
    muon = fingerprints.of_op("muon_step", files, backends.ops())
    assert {"muon_step.py", "muon_step_around.py", "product.py"} <= muon and "relu2_mlp.py" not in muon
    assert "rms_norm.py" in fingerprints.of_op("rms_norm_residual", files, backends.ops())
    assert "rms_norm_residual.py" not in fingerprints.of_op("rms_norm", files, backends.ops())
    ops = [op for op in backends.ops() if f"{op}.py" in files]
    prints = {fingerprints.fingerprint(op, "triton") for op in ops}
    assert len(prints) == len(ops) > 9 and __version__ not in prints
    assert fingerprints.fingerprint("rms_norm", "cuda") == __version__, "there is no such kernel"


def test_what_is_no_op_has_one_of_its_modules(monkeypatch):
    prints = {fingerprints.fingerprint(name, "cuda") for name in fingerprints.OTHERS}
    assert len(prints) == len(fingerprints.OTHERS) and __version__ not in prints
    monkeypatch.setitem(fingerprints.OTHERS, "decode_graphs", ("engine/graphs.py",))
    assert fingerprints.fingerprint.__wrapped__("decode_graphs", "cuda") not in prints


def test_comments_are_no_code():
    code = fingerprints.python_code
    assert code('"""One."""\n# a\nx = 1  # b\n') == code('"""Two,\nlonger."""\nx = 1  # b\n') != code("x = 2  # b\n")


@pytest.mark.skipif(not _C.cuda_code(), reason="built without CUDA")
def test_the_extension_knows_the_files_it_was_built_from():
    files = fingerprints.cuda_files()
    paths = [*(CSRC / "cuda").iterdir(), *(CSRC / "bindings").glob("cuda_*")]
    assert set(files) == {str(path.relative_to(CSRC)) for path in paths}
    for name, (code, uses) in files.items():
        text = (CSRC / name).read_text()
        assert code == fingerprints.hash_of(re.sub(r"//[^\n]*", "", text)), f"{name} has changed since: build again"
        assert list(uses) == re.findall(r'^#include "([^"]+)"', text, re.MULTILINE)
    attention, paged = (fingerprints.of_op(op, files, backends.ops()) for op in ("attention", "attention_paged"))
    assert {"cuda/hopper.cuh", "bindings/cuda_attention.cpp"} <= attention
    assert not {"cuda/hopper.cuh", "bindings/cuda_attention.cpp"} & paged
