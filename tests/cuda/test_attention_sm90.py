"""Attention's Hopper kernel without a GPU: run on the CPU through tests/cuda/emulator under the sanitizers.

The emulator computes TMA's boxes, wgmma's descriptors and registers, and the mbarriers, so that a wrong layout, parity
or count shows; it knows nothing of speed, and nothing here has run on a GPU.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from pynanochat.ops.attention import attention_reference

ROOT = Path(__file__).parents[2]
KERNEL = ROOT / "csrc/cuda/attention_sm90.cu"
EMULATOR = ROOT / "tests/cuda/emulator"
COMPILER = os.environ.get("CXX", "g++")


def build(kernel: Path, program: Path, *flags):
    command = [COMPILER, "-std=c++20", "-w", *flags, f"-I{EMULATOR}", f"-I{ROOT / 'csrc'}", "-x", "c++", str(kernel)]
    command += [str(EMULATOR / "attention_sm90.cpp"), "-o", str(program)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    if shutil.which(COMPILER) is None:
        pytest.skip("needs a C++ compiler")
    path = tmp_path_factory.mktemp("sm90") / "attention_sm90"
    build(KERNEL, path, "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
    return path


def bits(tensor):
    """The tensor's storage from its first element on, as bytes."""
    size = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return size, tensor.as_strided((size,), (1,)).view(torch.int16).numpy().tobytes()


def run(program, folder, q, k, v, window, capability="9"):
    (batch, positions, heads, head_dim), groups = q.shape, k.size(2)
    command = [str(program), str(q.dtype).split(".")[1]]
    command += map(str, (batch, positions, heads, groups, head_dim, window, folder / "in", folder / "out"))
    with open(folder / "in", "wb") as file:
        for x in (q, k, v):
            size, data = bits(x)
            file.write(data)
            command += map(str, (*x.stride()[:3], size))
    environment = {**os.environ, "EMULATED_COMPUTE_CAPABILITY": capability}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        return done
    data = bytearray((folder / "out").read_bytes())
    out = torch.frombuffer(data, dtype=q.dtype, count=q.numel()).view(q.shape)
    lse = torch.frombuffer(data, dtype=torch.float32, offset=2 * q.numel()).view(batch, heads, positions)
    return out, lse


def exact_lse(q, k, window):
    groups = q.size(2) // k.size(2)
    scores = torch.einsum("bihd,bjhd->bhij", q.double(), k.double().repeat_interleave(groups, 2)) / q.size(-1) ** 0.5
    i = torch.arange(q.size(1))
    behind = i[:, None] - i
    hidden = (behind < 0) | ((behind > window) & (window >= 0))
    return scores.masked_fill(hidden, -torch.inf).logsumexp(-1)


# B, T, H, G, window: one tile cut short, whole tiles, GQA with more rounds than stages, windows inside and across tiles
SHAPES = [(1, 1, 1, 1, -1), (2, 77, 2, 1, -1), (1, 256, 1, 1, -1)]
SHAPES += [(1, 600, 2, 1, -1), (1, 515, 1, 1, 130), (1, 300, 1, 1, 0)]


def errors(done, q, k, v, window):
    """The largest errors of out and lse against fp64, and what out is allowed: twice that of torch in q's dtype."""
    out, lse = done
    truth = attention_reference(q.double(), k.double(), v.double(), window)
    plain = attention_reference(q, k, v, window).double()
    allowed = max(2 * (plain - truth).abs().max(), torch.finfo(q.dtype).eps * truth.abs().max())
    return (out.double() - truth).abs().max(), (lse.double() - exact_lse(q, k, window)).abs().max(), allowed


def inputs(batch, positions, heads, groups, head_dim, dtype):
    torch.manual_seed(positions + head_dim)
    fused = torch.randn(batch, positions, heads + 2 * groups, head_dim).to(dtype)  # so k and v are strided views
    q, k, v = fused.split([heads, groups, groups], 2)
    return q * 3, k, v  # scores with a sharp maximum


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward(program, tmp_path, shape, head_dim):
    *sizes, window = shape
    q, k, v = inputs(*sizes, head_dim, torch.float16 if sizes[1] == 77 else torch.bfloat16)
    done = run(program, tmp_path, q, k, v, window)
    assert isinstance(done, tuple), done.stdout + done.stderr[-3000:]
    out_error, lse_error, allowed = errors(done, q, k, v, window)
    assert out_error <= allowed and lse_error <= 1e-4, (out_error, allowed, lse_error)


def test_other_cards_and_tensors_are_left_to_others(program, tmp_path):
    q = torch.zeros(1, 4, 1, 64, dtype=torch.bfloat16)
    odd = torch.zeros(1, 4, 1, 66, dtype=torch.bfloat16)[..., :64]  # 132 bytes from row to row
    for tensors, capability in (((q, q, q), "8"), ((odd, q, q), "9"), ((q, odd, q), "9"), ((q, q, odd), "9")):
        assert run(program, tmp_path, *tensors, -1, capability).stdout == "not taken\n"


MISTAKES = {
    "tiles replaced while they are read": ("barrier_wait(ring.empty[turn.stage], turn.parity ^ 1);", ""),
    "values read before they are there": ("barrier_wait(barriers.v.full[v.stage], v.parity);", ""),
    "scores read before they are there": ("wgmma_wait<1>();", ""),
    "a descriptor beside its operand": ("step % 4 * along_row", "step % 4 * 2 * along_row"),
    "parts of v one on the other": ("step * down_rows, part_bytes)", "step * down_rows, 0)"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_emulation_sees(mistake, program, tmp_path):
    """Each of these must show, or the tests above would prove little."""
    right, wrong = MISTAKES[mistake]
    source = KERNEL.read_text()
    assert right in source
    (tmp_path / "wrong.cu").write_text(source.replace(right, wrong))
    build(tmp_path / "wrong.cu", tmp_path / "wrong", "-O0")
    q, k, v = inputs(1, 385, 1, 1, 128, torch.bfloat16)
    done = run(tmp_path / "wrong", tmp_path, q, k, v, -1)
    if isinstance(done, tuple):
        out_error, _, allowed = errors(done, q, k, v, -1)
        assert not out_error <= allowed
