"""Sizes that follow from the depth, the layers' windows and value embeddings, and settings that are refused."""

import json

import pytest

from pynanochat.errors import UsageError
from pynanochat.model import GPTConfig
from pynanochat.model.scaling import horizon, measure, nearest_power_of_two


@pytest.mark.parametrize(
    ("depth", "arch", "parameters"),
    [(20, "2025", 560_988_160), (32, "2025", 1_879_048_192), (26, "2025", 1_081_999_360)],
)
def test_parameters(depth, arch, parameters):
    assert measure(GPTConfig.from_depth(depth, arch)).parameters == parameters


def test_parameters_of_2026_by_hand():
    c = GPTConfig.from_depth(12)
    width, vocab = 768, 32768
    blocks = 12 * 12 * width**2
    gates = 6 * 6 * 12  # six layers, six heads, twelve channels
    rest = 6 * vocab * width + 12 + 12 + 24 + 1 + 1  # value embeddings, λr, λ0, smear gate, smear λ, backout λ
    size = measure(c)
    assert size.parameters == blocks + gates + 2 * vocab * width + rest
    assert size.matmul == blocks + gates + vocab * width + 24
    assert size.scaling == blocks + vocab * width


@pytest.mark.parametrize(("arch", "seen"), [("2025", [2048] * 12), ("2026", [512, 512, 512, 2048] * 3)])
def test_flops(arch, seen):
    size = measure(GPTConfig.from_depth(12, arch))
    assert size.flops_per_token == 6 * size.matmul + sum(12 * 6 * 128 * s for s in seen)


@pytest.mark.parametrize(
    ("depth", "head_dim", "width", "heads"),
    [(1, 128, 128, 1), (2, 128, 128, 1), (3, 128, 256, 2), (4, 64, 256, 4), (12, 128, 768, 6), (20, 128, 1280, 10)],
)
def test_from_depth(depth, head_dim, width, heads):
    c = GPTConfig.from_depth(depth, head_dim=head_dim)
    assert (c.n_layer, c.n_embd, c.n_head, c.n_kv_head, c.head_dim) == (depth, width, heads, heads, head_dim)


def test_the_architectures():
    old, new = GPTConfig.from_depth(4, "2025"), GPTConfig.from_depth(4)
    assert (old.vocab_size, old.rope_base, old.qk_scale, old.padded_vocab_size) == (65536, 10_000, 1.0, 65536)
    assert (new.vocab_size, new.rope_base, new.qk_scale, new.arch) == (32768, 100_000, 1.2, "2026")
    assert not (old.value_embeddings or old.residual_scalars or old.smear or old.backout)
    assert new.value_embeddings and new.residual_scalars and new.smear and new.backout
    assert GPTConfig.from_depth(4, vocab_size=50257).padded_vocab_size == 50304
    assert GPTConfig.from_depth(4, "2025", vocab_size=50257).padded_vocab_size == 50257


@pytest.mark.parametrize(
    ("sequence_len", "short"), [(2048, 512), (2047, 512), (1024, 256), (512, 128), (100, 128), (2052, 640)]
)
def test_windows(sequence_len, short):
    c = GPTConfig.from_depth(10, sequence_len=sequence_len)
    assert [c.window(i) for i in range(10)] == [short, short, short, -1] * 2 + [short, -1]
    assert {GPTConfig.from_depth(10, "2025", sequence_len=sequence_len).window(i) for i in range(10)} == {-1}


@pytest.mark.parametrize("depth", [1, 2, 3, 12, 13])
def test_value_embedding_layers(depth):
    layers = [i for i in range(depth) if GPTConfig.from_depth(depth).has_value_embedding(i)]
    assert layers == sorted(range(depth - 1, -1, -2))
    assert not any(GPTConfig.from_depth(depth, "2025").has_value_embedding(i) for i in range(depth))


def test_through_json():
    c = GPTConfig.from_depth(7, n_kv_head=2, vocab_size=999)
    assert GPTConfig.from_dict(json.loads(json.dumps(c.to_dict()))) == c


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"depth": 0}, "--depth 0"),
        ({"depth": 4, "arch": "2024"}, "--arch 2024"),
        ({"depth": 4, "head_dim": 0}, "head_dim=0"),
        ({"depth": 4, "head_dim": 63}, "head_dim=63"),
        ({"depth": 4, "n_kv_head": 0}, "n_kv_head=0"),
        ({"depth": 6, "n_kv_head": 2}, "n_kv_head=2 does not divide n_head=3"),
        ({"depth": 4, "vocab_size": 0}, "vocab_size=0"),
        ({"depth": 4, "sequence_len": 0}, "sequence_len=0"),
        ({"depth": 4, "window_pattern": "SX"}, "window_pattern='SX'"),
        ({"depth": 4, "colour": 1}, "unknown model settings: colour"),
    ],
)
def test_refused(fields, message):
    with pytest.raises(UsageError) as error:
        GPTConfig.from_depth(**fields)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_horizon_of_the_reference_model():
    c = GPTConfig.from_depth(12)
    h = horizon(c, 10.0)
    assert h.tokens == 10 * measure(c).scaling
    assert (h.batch_tokens, h.lr_multiplier, h.weight_decay_multiplier) == (2**19, 1.0, 1.0)


def test_horizon_grows_with_depth():
    d12, d24 = (horizon(GPTConfig.from_depth(d), 8.0) for d in (12, 24))
    ratio = d24.tokens / d12.tokens
    assert d24.batch_tokens == 2**20
    assert d24.lr_multiplier == pytest.approx(2**0.5)
    assert d24.weight_decay_multiplier == pytest.approx(2**0.5 / ratio)
    given = horizon(GPTConfig.from_depth(12), 8.0, batch_tokens=2**17)
    assert given.lr_multiplier == 0.5 and given.batch_tokens == 2**17


@pytest.mark.parametrize(
    ("x", "power"), [(0.3, 1), (1, 1), (1.4, 1), (1.5, 2), (2**19 * 1.41, 2**19), (2**19 * 1.42, 2**20)]
)
def test_nearest_power_of_two(x, power):
    assert nearest_power_of_two(x) == power


def test_horizon_of_the_2025_reference_run():
    """20 tokens for each of the 560,988,160 parameters, half a million a step: 4e19 FLOPs in all."""
    c = GPTConfig.from_depth(20, "2025")
    h = horizon(c, 20.0)
    assert (h.tokens, h.batch_tokens, h.lr_multiplier) == (20 * 560_988_160, 524_288, 1.0)
    assert h.tokens * measure(c).flops_per_token == pytest.approx(4e19, rel=0.03)
