"""Launch arithmetic of decode_step: blocks fill the GPU where the model does, parts of memory do not overlap."""

import pytest

from pynanochat import _C

HEADS = [(1, 1, 8), (6, 6, 128), (12, 4, 64), (20, 1, 40), (2, 2, 256)]


def launch(width=768, vocab=32768, heads=6, kv_heads=6, head_dim=128, bytes=2, multiprocessors=132):
    return _C.launch_decode_step(width, vocab, heads, kv_heads, head_dim, bytes, multiprocessors)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim"), [(1, 1, 8), (6, 6, 128), (12, 4, 64), (20, 1, 40), (2, 2, 256)]
)
@pytest.mark.parametrize("width", [8, 40, 768, 1536, 2048])
@pytest.mark.parametrize("multiprocessors", [1, 20, 132])
def test_parts_of_memory_follow_each_other(heads, kv_heads, head_dim, width, multiprocessors):
    plan = launch(width, 1000, heads, kv_heads, head_dim, 2, multiprocessors)
    queries, keys, warps = heads * head_dim, kv_heads * head_dim, plan["block"] // 32
    assert 1 <= plan["grid"] <= multiprocessors and plan["block"] in (128, 512) and plan["splits"] >= 1
    assert plan["splits"] == 1 or plan["splits"] * heads <= plan["grid"]
    assert plan["lanes"] * plan["vector"] >= head_dim and 32 % plan["lanes"] == 0
    assert plan["operand"] >= 3 * width * 4 and plan["operand"] % 16 == plan["scratch"] % 16 == 0
    assert plan["scratch"] - plan["operand"] >= 2 * max(4 * width, queries)
    assert plan["shared"] - plan["scratch"] >= 4 * max(
        3 * heads * plan["splits"], warps * (head_dim + 2) + 3 * head_dim
    )
    places = [plan[name] for name in ("stream", "heads", "partials", "maxima", "totals", "hidden", "workspace")]
    parts = heads * plan["splits"]
    assert plan["shared"] - plan["scratch"] >= 4 * max(3 * parts, warps * (head_dim + 2) + 3 * head_dim)
    needed = (width, queries + 2 * keys, parts * head_dim, parts, parts, 4 * width)
    assert places[0] > 0 and all(place % 32 == 0 for place in places)
    assert all(end - begin >= size for begin, end, size in zip(places, places[1:], needed, strict=False))


def test_a_model_that_fills_the_gpu_has_a_block_on_each_multiprocessor():
    assert (launch()["grid"], launch()["block"]) == (132, 512)
    assert launch(multiprocessors=108)["splits"] == 18
    assert launch(width=32, heads=2, kv_heads=2, head_dim=16)["grid"] < 10


def test_refuses():
    for wrong, message in (
        ({"heads": 5, "kv_heads": 2}, "multiple"),
        ({"head_dim": 12}, "head_dim"),
        ({"head_dim": 264}, "head_dim"),
        ({"head_dim": 256, "bytes": 4}, "head_dim"),
        ({"width": 12}, "width 12"),
        ({"width": 8192}, "shared memory"),
        ({"multiprocessors": 0}, "multiprocessor"),
    ):
        with pytest.raises(ValueError, match=message):
            launch(**wrong)
