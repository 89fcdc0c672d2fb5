"""Launch arithmetic of the CUDA kernels, without a GPU: each row covered once, within the limits of sm_80 and sm_90."""

import pytest

from pynanochat import _C

MAX_GRID, MAX_BLOCK, WARP = 2**31 - 1, 1024, 32


@pytest.mark.parametrize("rows", [0, 1, 7, 8, 31, 1000, 2**20 * 48, 2**31 - 2])
@pytest.mark.parametrize("bytes", [2, 4])
@pytest.mark.parametrize("head_dim", [2, 6, 16, 24, 32, 64, 96, 128, 256, 512, 1024])
@pytest.mark.parametrize("aligned", [True, False])
def test_rotary_qk_norm(rows, head_dim, bytes, aligned):
    launch = _C.launch_rotary_qk_norm(rows, head_dim, bytes, aligned)
    grid, block, vector, lanes = (launch[key] for key in ("grid", "block", "vector", "lanes"))
    per_block = block // lanes
    assert block % WARP == 0 and block <= MAX_BLOCK and 0 <= grid <= MAX_GRID
    assert WARP % lanes == 0, "a row's threads must share a warp, or the shuffles mix rows"
    assert (grid - 1) * per_block < rows <= grid * per_block or rows == grid == 0
    assert grid * per_block < 2**32, "the kernel counts rows in 32 bits"
    if vector > 1:
        assert aligned and vector * bytes == 16 and lanes * vector == head_dim // 2, "one vector of each half a thread"
    else:
        assert lanes == WARP


def test_rotary_qk_norm_takes_vectors_where_it_can():
    for bytes, sizes in ((2, (16, 32, 64, 128, 256, 512)), (4, (8, 16, 32, 64, 128, 256))):
        for head_dim in sizes:
            assert _C.launch_rotary_qk_norm(100, head_dim, bytes, True)["vector"] == 16 // bytes, head_dim


@pytest.mark.parametrize("head_dim", [0, 1, 7, 65537, 65538])
def test_rotary_qk_norm_refuses(head_dim):
    with pytest.raises(ValueError, match="head_dim"):
        _C.launch_rotary_qk_norm(10, head_dim, 2, True)


def test_too_many_rows():
    with pytest.raises(ValueError, match="2\\^31"):
        _C.launch_rotary_qk_norm(2**31, 128, 2, True)
    with pytest.raises(ValueError, match="2\\^31"):
        _C.launch_linear_softcap_cross_entropy(2**31, 8, 2, True)


@pytest.mark.parametrize("rows", [0, 1, 2048, 2**31 - 1])
@pytest.mark.parametrize("columns", [1, 3, 50257, 32768, 65536, 2**30])
@pytest.mark.parametrize("bytes", [2, 4])
@pytest.mark.parametrize("aligned", [True, False])
def test_linear_softcap_cross_entropy(rows, columns, bytes, aligned):
    launch = _C.launch_linear_softcap_cross_entropy(rows, columns, bytes, aligned)
    assert launch["grid"] == rows, "one block a row"
    assert launch["block"] in (64, 128, 256, 512), "whole warps, at most the kernel's 16"
    assert launch["vector"] == (16 // bytes if aligned else 1)


def test_linear_softcap_cross_entropy_refuses_no_vocabulary():
    for columns in (0, 2**30 + 1):
        with pytest.raises(ValueError, match="vocabulary"):
            _C.launch_linear_softcap_cross_entropy(1, columns, 2, True)


def seen(query, key, window):
    return key <= query and (window < 0 or query - key <= window)


@pytest.mark.parametrize("rows", [64, 128])
@pytest.mark.parametrize("positions", [1, 63, 64, 65, 130, 256, 300])
@pytest.mark.parametrize("window", [0, 1, 63, 64, 65, 100, 300])
def test_attention_tiles_are_those_that_are_seen(rows, positions, window):
    columns, window = 64, min(window, positions)
    for first in range(0, positions, rows):
        mine = range(first, min(first + rows, positions))
        for of_keys in (True, False):
            others = [j for j in range(positions) if any(seen(*((i, j) if of_keys else (j, i)), window) for i in mine)]
            begin, end = _C.attention_tiles(first, rows, columns, positions, window, of_keys)
            assert (begin, end) == (others[0] // columns, others[-1] // columns + 1), "none skipped, none for nothing"


@pytest.mark.parametrize("window", [0, 5, 63, 64, 130, 1000])
def test_attention_masks_a_tile_unless_all_of_it_is_seen(window):
    for query in range(0, 256, 16):
        for key in range(0, 256, 64):
            every = all(seen(i, j, window) for i in (query, query + 31) for j in (key, key + 63))
            assert _C.attention_needs_no_mask(query, 32, key, 64, window) == every


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("positions", [0, 1, 64, 2048, 2049])
def test_attention(positions, head_dim, backward):
    launch = _C.launch_attention(3, positions, 6, head_dim, backward)
    assert launch["grid"] == 3 * 6 * -(-positions // launch["rows"])
    assert launch["columns"] == 64 and launch["block"] == 4 * WARP
    assert launch["rows"] % (16 * launch["block"] // WARP) == 0, "each warp has whole products of 16 rows"
    assert 2 * (launch["shared"] + 1024) <= 164 * 1024, "two blocks on a multiprocessor of sm_80"


def test_attention_refuses():
    with pytest.raises(ValueError, match="head_dim 96.*PYNANOCHAT_BACKEND=triton"):
        _C.launch_attention(1, 10, 1, 96, False)
    with pytest.raises(ValueError, match="positions"):
        _C.launch_attention(1, 2**31, 1, 64, False)
    with pytest.raises(ValueError, match="too large"):
        _C.launch_attention(2**14, 2**30, 6, 64, False)
