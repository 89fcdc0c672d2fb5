"""The engine's decoding and prefill, against the naive loop and against its matrix products alone.

    python -m pynanochat.bench.bench_engine [--depth 12] [--rows 1 16] [--prompt 512] [--seconds 6]
    pytest bench/bench_engine.py --benchmark-enable

First the engine's greedy tokens must be those of the naive loop, which runs the whole text again for every token. Then
three things take turns: a step of the engine, the naive forward that gives the same tokens, and the model's matrix
products at that number of rows and nothing else, which is what a step is bound by (one row reads every weight once).
"""

import argparse
import functools

import pytest
import torch
import torch.nn.functional as F

from pynanochat.bench.harness import interleave, race, report, speedup
from pynanochat.engine.engine import Engine
from pynanochat.engine.requests import Request
from pynanochat.engine.sampling import Sampling
from pynanochat.engine.scheduler import Scheduler
from pynanochat.model import GPT, GPTConfig
from pynanochat.tokenizer import SPECIAL_TOKENS

PROVE_TOKENS = 12


class Tokenizer:
    """Names no tokens: the benchmark has no text."""

    special_tokens = dict.fromkeys(SPECIAL_TOKENS, -1)


@functools.lru_cache(maxsize=1)
def build(depth: int, vocab_size: int) -> GPT:
    """A model of the current architecture in which no output projection is zero, as it would be untrained."""
    model = GPT(GPTConfig.from_depth(depth, vocab_size=vocab_size)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("c_proj.weight") or name == "lm_head.weight":
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
    return model


def prompts(model, rows, length):
    generator = torch.Generator().manual_seed(rows)
    return torch.randint(0, model.config.vocab_size, (rows, length), generator=generator)


@torch.inference_mode()
def naive_tokens(model, ids, count):
    """Greedy tokens (rows, count) by running the whole text for every one."""
    for _ in range(count):
        ids = torch.cat([ids, model(ids, last=True)[:, -1].argmax(-1, keepdim=True)], dim=1)
    return ids[:, -count:]


def prove(model, rows, length=24):
    ids = prompts(model, rows, length)
    settings = {"max_tokens": PROVE_TOKENS, "temperature": 0, "stop_tokens": (), "tools": False}
    answers = Engine(model, Tokenizer()).generate_batch(ids.tolist(), **settings)
    wanted = naive_tokens(model, ids, PROVE_TOKENS).tolist()
    assert [answer.ids for [answer] in answers] == wanted, "the engine's greedy tokens are not the naive loop's"
    assert len({tuple(tokens) for tokens in wanted}) == rows


def matmul_weights(model):
    return [
        p
        for name, p in model.named_parameters()
        if p.ndim == 2 and not name.startswith(("transformer.wte", "value_emb"))
    ]


def products(model, rows, head_rows):
    """A function that multiplies `rows` vectors by every matrix of the model, but the head by `head_rows`."""
    weights = matmul_weights(model)
    inputs = {w.size(1): torch.randn(rows, w.size(1)) for w in weights}

    @torch.inference_mode()
    def run():
        for w in weights:
            x = inputs[w.size(1)]
            F.linear(x[:head_rows] if w is model.lm_head.weight else x, w)

    return run


def decode_contest(model, rows, length) -> dict:
    """engine -> a step of it, of `rows` sequences that stand at `length` tokens."""
    ids = prompts(model, rows, length)
    scheduler = Scheduler(model, Tokenizer(), most_rows=rows)
    for prompt in ids.tolist():
        scheduler.submit(Request(tuple(prompt), 1, model.config.sequence_len, Sampling(0), 0, frozenset(), tools=False))
    while scheduler.stats()["made_tokens"] < rows:
        scheduler.step()

    @torch.inference_mode()
    def naive():
        model(ids, last=True)

    return {"engine": scheduler.step, "naive": naive, "products": products(model, rows, rows)}


def prefill_contest(model, length) -> dict:
    """engine -> the first token of a prompt."""
    prompt = prompts(model, 1, length)[0].tolist()
    engine = Engine(model, Tokenizer())
    first = lambda: next(engine.generate(prompt, temperature=0, tools=False))  # noqa: E731
    return {"engine": first, "products": products(model, length, 1)}


@functools.lru_cache(maxsize=1)
def contest(what: str, rows: int, length: int) -> dict:
    """Either contest on a d12; first, the engine's tokens must be the naive loop's."""
    model = build(12, 32768)
    prove(model, rows)
    return decode_contest(model, rows, length) if what == "decode" else prefill_contest(model, length)


@pytest.mark.parametrize("engine", ("engine", "naive", "products"))
@pytest.mark.parametrize("rows", (1, 16))
def test_decode(benchmark, rows, engine):
    race(benchmark, contest, engine, "decode", rows, 128)


@pytest.mark.parametrize("engine", ("engine", "products"))
def test_prefill(benchmark, engine):
    race(benchmark, contest, engine, "prefill", 1, 512)


def decoding(model, rows, length, seconds):
    """One row of the table."""
    times = interleave(decode_contest(model, rows, length), seconds)
    return {
        "case": f"decode, {rows} rows at {length}",
        "tokens/s": rows / times["engine"][0],
        "times naive": speedup(times, "engine", "naive"),
        "of its products alone": speedup(times, "engine", "products"),
        "GB/s of weights": sum(w.numel() * 4 for w in matmul_weights(model)) / times["engine"][0] / 1e9,
    }


def prefilling(model, length, seconds):
    """One row of the table: the time to the first token of a prompt."""
    times = interleave(prefill_contest(model, length), seconds)
    return {
        "case": f"prefill {length}",
        "tokens/s": length / times["engine"][0],
        "of its products alone": speedup(times, "engine", "products"),
    }


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("--depth", type=int, default=12)
    p.add_argument("--vocab-size", type=int, default=32768)
    p.add_argument("--rows", type=int, nargs="+", default=[1, 16])
    p.add_argument("--prompt", type=int, default=512, help="tokens of the prompt")
    p.add_argument("--seconds", type=float, default=6.0, help="for each line of the table")
    args = p.parse_args()
    model = build(args.depth, args.vocab_size)
    table = []
    for rows in args.rows:
        prove(model, rows)
    table.append(prefilling(model, args.prompt, args.seconds))
    for rows in args.rows:
        table.append(decoding(model, rows, args.prompt // 4, args.seconds))
    report(f"engine d{args.depth}", table)


if __name__ == "__main__":
    main()
