"""Launch arithmetic of adamw_step: every element of every tensor in one block, few launches."""

import pytest

from pynanochat import _C

CHUNK = 4096
LISTS = [[], [0], [1], [4096, 4097, 0, 5], [2**33, 3], list(range(0, 10_000, 37)), [7] * 80, [7] * 81]


@pytest.mark.parametrize("sizes", LISTS, ids=lambda s: f"{len(s)} tensors")
def test_every_tensor_has_its_blocks(sizes):
    launches = _C.launch_adamw_step(sizes)
    assert len(launches) == -(-len(sizes) // 80), "one launch for up to 80 tensors"
    assert [launch["first"] for launch in launches] == list(range(0, len(sizes), 80))
    for launch in launches:
        mine = sizes[launch["first"] : launch["first"] + 80]
        ends = [*launch["first_blocks"][1:], launch["grid"]]
        blocks = [end - first for first, end in zip(launch["first_blocks"], ends, strict=True)]
        assert launch["first_blocks"][0] == 0 and blocks == [-(-size // CHUNK) for size in mine]


def test_a_grid_holds_at_most_2_to_31_blocks():
    huge = CHUNK * (2**31 - 1)
    launches = _C.launch_adamw_step([huge, 1])
    assert [launch["grid"] for launch in launches] == [2**31 - 1, 1]
    for sizes in ([huge + 1], [-1]):
        with pytest.raises(ValueError, match="2\\^31"):
            _C.launch_adamw_step(sizes)
