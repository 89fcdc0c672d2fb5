"""What the CUDA build promises: it imports anywhere, says why it cannot run, and its kernels spill no register."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from pynanochat import _C
from pynanochat.errors import BackendError
from pynanochat.ops import linear_softcap_cross_entropy, rotary_qk_norm, rotary_table

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "csrc/cuda").glob("*.cu"))
built = pytest.mark.skipif(not _C.cuda_architectures(), reason="built without CUDA")
NVCC = os.environ.get("CUDACXX") or shutil.which("nvcc")
nvcc = pytest.mark.skipif(NVCC is None, reason="no nvcc")


def test_available_gives_a_reason():
    able, reason = _C.cuda_available()
    assert able == (reason == "")
    assert able or re.search("built without CUDA|driver", reason)


def test_architectures():
    names = _C.cuda_architectures().split(",")
    assert names == [""] or (any(n.endswith("-real") for n in names) and names[-1].endswith("-virtual"))


@built
def test_links_no_driver_and_no_shared_runtime():
    needed = subprocess.run(["ldd", _C.__file__], capture_output=True, text=True, check=True).stdout
    assert not re.search(r"libcuda|libcudart|libtorch", needed), needed


@built
def test_cpu_tensors_are_refused():
    x = torch.zeros(1, 2, 2, 8)
    with pytest.raises(ValueError, match="not on a GPU"):
        _C.cuda_rotary_qk_norm(x, x, x[0, :, 0, :4], x[0, :, 0, :4], x, x, 1.0, 1e-6, 0)
    with pytest.raises(ValueError, match="not on a GPU"):
        _C.cuda_linear_softcap_cross_entropy(x[0, 0], torch.zeros(2).long(), None, torch.zeros(2), 15.0, -1, 0)


@pytest.mark.parametrize("backend", ["cuda", "triton"])
def test_a_forced_backend_that_cannot_run_names_the_remedy(backend, monkeypatch):
    monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    x, (cos, sin) = torch.zeros(1, 2, 2, 8), rotary_table(2, 8, 10_000.0)
    with pytest.raises(BackendError, match=f"{backend} backend runs on GPUs .*unset PYNANOCHAT_BACKEND"):
        rotary_qk_norm(x, x, cos, sin)
    with pytest.raises(BackendError, match=f"{backend} backend runs on GPUs .*unset PYNANOCHAT_BACKEND"):
        linear_softcap_cross_entropy(x[0, 0], x[0, 1], torch.zeros(2).long())


def ptxas_figures(source: Path, architecture: str, folder: Path) -> list[tuple[int, int, int]]:
    """(stack frame bytes, spilled bytes, registers) of every kernel of `source`."""
    command = [NVCC, "-std=c++17", "-O3", f"-I{ROOT / 'csrc'}", "-Xptxas", "-v", f"-arch={architecture}", "-cubin"]
    command += ["-Werror", "all-warnings", str(source), "-o", str(folder / "kernel.cubin")]
    log = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert "serialized" not in log, "ptxas makes wgmma wait for each other"
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log)
    registers = re.findall(r"Used (\d+) registers", log)
    assert len(frames) == len(registers) == log.count("Compiling entry function")
    return [(int(f), int(a) + int(b), int(r)) for (f, a, b), r in zip(frames, registers, strict=True)]


@nvcc
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90a"])
@pytest.mark.parametrize("source", [s for s in SOURCES if "__global__" in s.read_text()], ids=lambda s: s.stem)
def test_no_spills_and_registers_as_the_header_says(source, architecture, tmp_path):
    figures = ptxas_figures(source, architecture, tmp_path)
    assert figures and all(frame == spilled == 0 for frame, spilled, _ in figures), figures
    version, low, high = re.search(r"Registers \(ptxas ([\d.]+)[^)]*\): (\d+) to (\d+)", source.read_text()).groups()
    if f"release {version}," in subprocess.run([NVCC, "--version"], capture_output=True, text=True).stdout:
        assert int(low) <= min(f[2] for f in figures) and max(f[2] for f in figures) <= int(high), figures


@nvcc
@pytest.mark.parametrize(
    "name, kernels, adds",
    [
        ("attention_sm90", 4, False),
        ("attention_backward_sm90", 8, False),  # for queries and for keys
        ("attention_backward_fused_sm90", 4, True),
    ],
)
def test_hopper_attention_is_tma_and_wgmma(name, kernels, adds, tmp_path):
    """The cubin for sm_90a holds both, and products in flight together: with a wait for each, ptxas gave up."""
    triton = pytest.importorskip("triton")
    ptxas_figures(ROOT / f"csrc/cuda/{name}.cu", "sm_90a", tmp_path)
    command = [triton.knobs.nvidia.cuobjdump.path, "-sass", tmp_path / "kernel.cubin"]
    sass = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    bodies = [body for body in sass.split("Function :")[1:] if "convert_dq" not in body]
    assert len(bodies) == kernels, "head dims 64 and 128 in bf16 and fp16"
    for body in bodies:
        assert ("UBLKRED.G.S.ADD.F32" in body) == adds
        assert "UTMALDG.4D" in body and "UTMASTG.4D" in body and "USETMAXREG" in body
        assert body.count("HGMMA.64x") > 2 * body.count("WARPGROUP.DEPBAR") > 0


@nvcc
def test_cuda_on_without_nvcc_is_a_clear_error(tmp_path):
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    if shutil.which("nvcc", path=environment["PATH"]) or shutil.which("cmake", path=environment["PATH"]) is None:
        pytest.skip("nvcc stands beside the system's programs, or no system cmake")
    script = tmp_path / "CMakeLists.txt"
    script.write_text((ROOT / "CMakeLists.txt").read_text().split("find_package(Python")[0])
    run = subprocess.run(
        ["cmake", "-S", str(tmp_path), "-B", str(tmp_path / "b"), "-DPYNANOCHAT_CUDA=on"],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert run.returncode != 0 and "PYNANOCHAT_CUDA=on, but no working nvcc" in " ".join(run.stderr.split())
