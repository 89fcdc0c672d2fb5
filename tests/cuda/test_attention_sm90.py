"""Attention's Hopper kernels without a GPU: run on the CPU through tests/cuda/emulator under the sanitizers.

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
EMULATOR = ROOT / "tests/cuda/emulator"
NAMES = ("attention_sm90", "attention_backward_sm90", "attention_backward_fused_sm90")
KERNELS = [ROOT / f"csrc/cuda/{name}.cu" for name in NAMES]
MAIN = EMULATOR / "attention_sm90.cpp"
SANITIZED = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
COMPILER = os.environ.get("CXX", "g++")


def compile_to(target: Path, *arguments):
    command = [COMPILER, "-std=c++20", "-w", *map(str, arguments), "-o", str(target)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    return target


def compile_one(source: Path, target: Path, *flags):
    return compile_to(target, *flags, f"-I{EMULATOR}", f"-I{ROOT / 'csrc'}", "-x", "c++", "-c", source)


@pytest.fixture(scope="module")
def objects(tmp_path_factory):
    if shutil.which(COMPILER) is None:
        pytest.skip("needs a C++ compiler")
    folder = tmp_path_factory.mktemp("sm90")
    return [compile_one(s, folder / f"{i}.o", "-O1", *SANITIZED) for i, s in enumerate((*KERNELS, MAIN))]


@pytest.fixture(scope="module")
def program(objects):
    return compile_to(objects[0].with_name("program"), *SANITIZED, *objects)


def storage(tensor):
    """The tensor's storage from its first element to its last: how many elements, and their bytes."""
    size = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return size, tensor.as_strided((size,), (1,)).view(torch.int16).numpy().tobytes()


def run(program, folder, q, k, v, dout, window, **environment):
    """(out, (dq, dk, dv) fused, (dq, dk, dv) deterministic, lse), or the finished process where it failed."""
    (batch, positions, heads, head_dim), groups = q.shape, k.size(2)
    command = [str(program), str(q.dtype).split(".")[1]]
    command += map(str, (batch, positions, heads, groups, head_dim, window, folder / "in", folder / "out"))
    with open(folder / "in", "wb") as file:
        for x in (q, k, v, dout):
            size, data = storage(x)
            file.write(data)
            command += map(str, (*x.stride()[:3], size))
    environment = {**os.environ, "EMULATED_COMPUTE_CAPABILITY": "9", **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        return done
    data, offset, results = bytearray((folder / "out").read_bytes()), 0, []
    for like in (q, *(q, k, k) * 2):
        results.append(torch.frombuffer(data, dtype=q.dtype, count=like.numel(), offset=offset).view(like.shape))
        offset += 2 * like.numel()
    lse = torch.frombuffer(data, dtype=torch.float32, offset=offset).view(batch, heads, positions)
    return results[0], results[1:4], results[4:], lse


def exact_lse(q, k, window):
    groups = q.size(2) // k.size(2)
    scores = torch.einsum("bihd,bjhd->bhij", q.double(), k.double().repeat_interleave(groups, 2)) / q.size(-1) ** 0.5
    i = torch.arange(q.size(1))
    behind = i[:, None] - i
    hidden = (behind < 0) | ((behind > window) & (window >= 0))
    return scores.masked_fill(hidden, -torch.inf).logsumexp(-1)


def reference(dtype, q, k, v, dout, window):
    """out, dq, dk, dv of torch computing in `dtype`, as fp64."""
    leaves = [x.to(dtype).detach().requires_grad_() for x in (q, k, v)]
    out = attention_reference(*leaves, window)
    out.backward(dout.to(dtype))
    return [x.double().detach() for x in (out, *(leaf.grad for leaf in leaves))]


def check(results, q, k, v, dout, window):
    """Errors against fp64 are at most twice those of torch in q's dtype."""
    out, fused, deterministic, lse = results
    truths, plains = (reference(dtype, q, k, v, dout, window) for dtype in (torch.float64, q.dtype))
    for backward in (fused, deterministic):
        for name, ours, truth, plain in zip(("out", "dq", "dk", "dv"), (out, *backward), truths, plains, strict=True):
            allowed = max(2 * (plain - truth).abs().max(), torch.finfo(q.dtype).eps * truth.abs().max())
            error = (ours.double() - truth).abs().max()
            assert error <= allowed, f"{name}: {error} of {allowed}"
    assert (lse.double() - exact_lse(q, k, window)).abs().max() <= 1e-4


def inputs(batch, positions, heads, groups, head_dim, dtype):
    torch.manual_seed(positions + head_dim)
    fused = torch.randn(batch, positions, heads + 2 * groups, head_dim).to(dtype)  # so k and v are strided views
    q, k, v = fused.split([heads, groups, groups], 2)
    dout = torch.randn(batch, heads, positions, head_dim).to(dtype).transpose(1, 2)
    return q * 3, k, v, dout  # scores with a sharp maximum


CASES = [  # B, T, H, G, D, window
    (1, 1, 1, 1, 128, -1),
    (2, 77, 2, 1, 64, -1),  # GQA and a tile cut short
    (1, 77, 2, 2, 128, -1),
    (1, 530, 1, 1, 64, -1),  # more tiles than stages
    (1, 385, 2, 1, 128, -1),
    (1, 300, 1, 1, 64, 130),  # windows across tiles and inside one
    (1, 256, 1, 1, 128, 60),
    (1, 200, 1, 1, 64, 0),
    (1, 63, 1, 1, 64, 17),  # lengths and windows around the sizes of tiles
    (1, 64, 1, 1, 128, 1),
    (2, 65, 4, 2, 64, 64),
    (1, 127, 1, 1, 64, 17),
    (1, 128, 1, 1, 64, 0),
    (1, 129, 1, 1, 128, 128),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_forward_and_backward(program, tmp_path, case):
    *sizes, window = case
    tensors = inputs(*sizes, torch.float16 if sizes[1] in (63, 65, 77, 129) else torch.bfloat16)
    results = run(program, tmp_path, *tensors, window, EMULATED_ORDER="forth" if sizes[1] % 2 else "back")
    assert isinstance(results, tuple), results.stdout + results.stderr[-3000:]
    check(results, *tensors, window)


def test_any_order_of_blocks_and_warps(program, tmp_path):
    """The deterministic form has the same bits in any order, the other errors as small."""
    tensors = inputs(1, 300, 1, 1, 64, torch.bfloat16)
    forth, back = (run(program, tmp_path, *tensors, -1, EMULATED_ORDER=order) for order in ("forth", "back"))
    for results in (forth, back):
        check(results, *tensors, -1)
    assert all(torch.equal(x, y) for x, y in zip(forth[2], back[2], strict=True))


@pytest.mark.parametrize("positions", [1, 65])
def test_strides_that_are_never_stepped(program, tmp_path, positions):
    """torch gives a dimension of one element any stride; TMA's must be multiples of 16 bytes."""
    dense = inputs(1, positions, 1, 1, 64, torch.bfloat16)
    strides = (7, 64 if positions > 1 else 5, 3, 1)
    odd = [x.contiguous().as_strided(x.shape, strides) for x in dense]
    check(run(program, tmp_path, *odd, -1), *dense, -1)


def test_other_cards_and_tensors_are_left_to_others(program, tmp_path):
    q = torch.zeros(1, 4, 1, 64, dtype=torch.bfloat16)
    odd = torch.zeros(1, 4, 1, 66, dtype=torch.bfloat16)[..., :64]  # 132 bytes from row to row
    assert run(program, tmp_path, q, q, q, q, -1, EMULATED_COMPUTE_CAPABILITY="8").stdout == "not taken\n"
    for tensors in ((odd, q, q, q), (q, odd, q, q), (q, q, odd, q)):
        assert run(program, tmp_path, *tensors, -1).stdout == "not taken\n"
    assert run(program, tmp_path, q, q, q, odd, -1).stdout == "half taken\n"


@pytest.mark.parametrize("tiles, pairs, section", [(1, 1, 1), (3, 7, 4), (4, 6, 2), (2, 5, 5)])
def test_each_block_has_its_own_rows(program, tiles, pairs, section):
    command = [str(program), "order", str(tiles), str(pairs), str(section)]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")[:-1]
    works = [tuple(map(int, line.split())) for line in lines]
    assert sorted(works) == [(tile, pair) for tile in range(tiles) for pair in range(pairs)]
    assert works[0][0] == tiles - 1, "the last tile sees most"
    for first in range(0, pairs, section):
        of_section = [tile for tile, pair in works if first <= pair < first + section]
        assert of_section == sorted(of_section, reverse=True)


MISTAKES = {
    "tiles replaced while they are read": (0, 385, "barrier_wait(ring.empty[turn.stage], turn.parity ^ 1);", ""),
    "scores read before they are there": (0, 385, "wgmma_wait<1>();", ""),
    "a kept row beside its own": (1, 100, "tiles.kept(1) + half}", "tiles.kept(1) + half / 8}"),
    "dq over what TMA has yet to read": (2, 200, "if (thread == 0) tma_stores_have_read();", ""),
    "dS over what the other has yet to read": (2, 200, "room.ds(turn.stage)", "room.ds(0)"),
    "keys gone that the other has yet to read": (2, 100, "named_wait(both_barrier, 2 * group_threads);  //", "//"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_emulation_sees(mistake, objects, tmp_path):
    """Each of these must show, or the tests above would prove little."""
    which, positions, right, wrong = MISTAKES[mistake]
    source = KERNELS[which].read_text()
    assert right in source
    (tmp_path / "wrong.cu").write_text(source.replace(right, wrong))
    wrong_object = compile_one(tmp_path / "wrong.cu", tmp_path / "wrong.o", "-O0")
    others = objects[:which] + objects[which + 1 :]
    program = compile_to(tmp_path / "wrong", *SANITIZED, wrong_object, *others)
    tensors = inputs(1, positions, 1, 1, 128, torch.bfloat16)
    results = run(program, tmp_path, *tensors, -1, EMULATED_ORDER="forth")
    if isinstance(results, tuple):
        with pytest.raises(AssertionError, match="out|dq|dk|dv"):
            check(results, *tensors, -1)
