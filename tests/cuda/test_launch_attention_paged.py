"""Launch arithmetic of attention_paged: heads and lanes cover a row, and there are splits where blocks are few."""

import pytest

from pynanochat import _C


def launch(rows=1, heads=6, kv_heads=6, head_dim=128, tokens=2048, bytes=2, aligned=True, multiprocessors=132):
    return _C.launch_attention_paged(rows, heads, kv_heads, head_dim, tokens, bytes, aligned, multiprocessors)


@pytest.mark.parametrize("rows", [0, 1, 64, 4096])
@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (6, 6), (12, 4), (16, 2), (20, 1)])
@pytest.mark.parametrize("head_dim", [1, 3, 16, 33, 64, 96, 128, 256])
@pytest.mark.parametrize("bytes", [2, 4])
@pytest.mark.parametrize("aligned", [True, False])
def test_every_head_and_channel_has_its_place(rows, heads, kv_heads, head_dim, bytes, aligned):
    for tokens in (0, 1, 129, 2**20):
        plan = launch(rows, heads, kv_heads, head_dim, tokens, bytes, aligned)
        share = heads // kv_heads
        assert (plan["chunks"] - 1) * plan["heads"] < share <= plan["chunks"] * plan["heads"]
        assert plan["grid"] == rows * kv_heads * plan["chunks"] * plan["splits"]
        assert 32 % plan["lanes"] == 0 and plan["block"] % 32 == 0
        if plan["vector"] > 1:
            assert aligned and plan["vector"] * bytes == 16 and head_dim % plan["vector"] == 0
            assert plan["lanes"] * plan["vector"] >= head_dim and plan["heads"] in (1, 2, 4, 8)
        else:
            assert plan["lanes"] == 32 and plan["heads"] == 1
        assert 1 <= plan["splits"] <= max(1, -(-tokens // 128)) and plan["splits"] <= 64


def test_few_rows_fill_the_gpu_and_many_are_not_split():
    assert launch(rows=1, tokens=8192)["grid"] >= 132
    assert launch(rows=1, tokens=100)["splits"] == 1
    assert launch(rows=512)["splits"] == 1


def test_refuses():
    for wrong, message in (
        ({"heads": 5, "kv_heads": 2}, "no multiple"),
        ({"head_dim": 257}, "head_dim"),
        ({"rows": 2**31}, "too many"),
    ):
        with pytest.raises(ValueError, match=message):
            launch(**wrong)
