"""Launch arithmetic of muon_step: one block a tile, of symmetric products only those on and above the diagonal."""

import pytest

from pynanochat import _C

TILE = 128


@pytest.mark.parametrize("count", [0, 1, 24])
@pytest.mark.parametrize("rows", [8, 128, 136, 768, 6144])
@pytest.mark.parametrize("columns", [8, 120, 1536])
def test_tiles(count, rows, columns):
    tiles = -(-rows // TILE) * -(-columns // TILE)
    launch = _C.launch_muon_step(count, rows, columns, False)
    assert launch["grid"] == count * tiles and launch["block"] == 256
    side = -(-rows // TILE)
    assert _C.launch_muon_step(count, rows, rows, True)["grid"] == count * side * (side + 1) // 2


def test_refuses():
    for wrong, message in (
        ((1, 12, 16, False), "multiples of 8"),
        ((1, 0, 16, False), "multiples of 8"),
        ((1, 16, 65544, False), "multiples of 8"),
        ((1, 16, 24, True), "symmetric"),
        ((2**31, 8, 8, False), "too many"),
    ):
        with pytest.raises(ValueError, match=message):
            _C.launch_muon_step(*wrong)
