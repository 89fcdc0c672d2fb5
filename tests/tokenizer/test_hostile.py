"""Hostile texts and vocabularies, those of bench_bpe_hostile: the same ids and merges as the references, and memory
within bounds. That the time is linear shows in the bench; here a quadratic path would not come back."""

import resource
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import rustbpe
import tiktoken

from pynanochat import _C
from pynanochat.bench.bench_bpe_hostile import TEXTS, VOCABULARIES, train, usual
from pynanochat.tokenizer import SPECIAL_TOKENS, Tokenizer

LARGE, SMALL = 200_000, 3000  # units: for us, and for tiktoken, which is quadratic on some


@pytest.fixture(scope="module")
def engines():
    """Ours and tiktoken's, on the same ranks."""
    return Tokenizer.from_ranks(usual()), tiktoken.Encoding(
        "usual", pat_str=Tokenizer.pattern, mergeable_ranks=usual(), special_tokens={}
    )


@pytest.mark.parametrize("name", TEXTS)
def test_texts(engines, name):
    ours, theirs = engines
    text = TEXTS[name](LARGE)
    ids = ours.encode_array(text)
    assert ours.decode_bytes(ids) == text.encode()
    assert np.array_equal(ids, ours.encode_array(text))
    assert np.array_equal(_C.bpe_split(text), _C.bpe_split(text, "scalar"))
    assert ours.encode(TEXTS[name](SMALL)) == theirs.encode_ordinary(TEXTS[name](SMALL))


@pytest.mark.parametrize("name", TEXTS)
def test_training(name):
    tokenizer = train(TEXTS[name](LARGE))
    assert len(tokenizer) >= 256 + len(SPECIAL_TOKENS)
    peer = rustbpe.Tokenizer()
    peer.train_from_iterator(iter([TEXTS[name](SMALL)]), 600 - len(SPECIAL_TOKENS), pattern=Tokenizer.pattern)
    merges = {bytes(token): rank for token, rank in peer.get_mergeable_ranks()}
    assert train(TEXTS[name](SMALL)).mergeable_ranks == merges


@pytest.mark.parametrize("name", VOCABULARIES)
def test_vocabularies(name):
    table, text = VOCABULARIES[name]
    ours = Tokenizer.from_ranks(table())
    theirs = tiktoken.Encoding(name, pat_str=Tokenizer.pattern, mergeable_ranks=ours.mergeable_ranks, special_tokens={})
    long = text(LARGE)
    assert ours.decode_bytes(ours.encode_array(long)) == long.encode()
    for size in (63, 64, 65, 255, 256, SMALL):
        assert ours.encode(text(size)) == theirs.encode_ordinary(text(size))


def _chosen_pairs(buckets: int, count: int) -> list[tuple[int, int]]:
    """Pairs of ids from 256 to 65535, no id twice, all in the first of `buckets` places where the first multiplier of
    the table puts pairs."""
    inverse = np.uint64(pow(0x9E3779B97F4A7C15, -1, 1 << 48))
    found, taken = [], set()
    for start in range(0, (1 << 48) // buckets, 1 << 20):
        pairs = np.arange(start, start + (1 << 20), dtype=np.uint64) * inverse & np.uint64((1 << 48) - 1)
        lefts, rights = pairs >> np.uint64(24), pairs & np.uint64(0xFFFFFF)
        small = (np.minimum(lefts, rights) >= 256) & (np.maximum(lefts, rights) < 65536)
        for left, right in zip(lefts[small].tolist(), rights[small].tolist(), strict=True):
            if left != right and not {left, right} & taken:
                found.append((left, right))
                taken |= {left, right}
    return found[:count]


def _memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(sys.platform != "linux", reason="reads what Linux tells of memory")
def test_ids_chosen_against_the_table_of_merges():
    """Pairs that all fall into one bucket of a table of any size once made it double again and again."""
    pairs = _chosen_pairs(1 << 21, 600)
    assert len(pairs) == 600
    tokens = [bytes([byte]) for byte in range(256)] + [b""] * (65536 - 256)
    for number, (left, right) in enumerate(pairs):
        tokens[left], tokens[right] = bytes(divmod(number * 2, 256)), bytes(divmod(number * 2 + 1, 256))
    tokens += [tokens[left] + tokens[right] for left, right in pairs]
    before = _memory()
    tokenizer = Tokenizer(tokens, {})
    assert _memory() - before < 50_000_000
    assert len(tokenizer) == 65536 + 600


MEMORY = """
    import resource
    from pathlib import Path
    from pynanochat.bench.bench_bpe_hostile import TEXTS, train, usual
    from pynanochat.tokenizer import Tokenizer
    tokenizer = Tokenizer.from_ranks(usual())
    tokenizer.encode("a")
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + {megabytes} * 1_000_000,) * 2)
    for text in TEXTS.values():
        tokenizer.encode_array(text(1_000_000))
        train(text(1_000_000))
    """


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space as Linux does")
def test_memory_is_bounded():
    """A million repetitions of each, the longest of 4 MB, go through where 400 MB may be added and no more."""
    script = textwrap.dedent(MEMORY.format(megabytes=400))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
