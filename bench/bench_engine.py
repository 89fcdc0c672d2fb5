"""The engine's decoding and prefill, against the naive loop, its own matrix products, and transformers' generate.

    python -m pynanochat.bench.bench_engine [--depth 12] [--rows 1 8 64] [--prompt 128] [--tokens 32] [--seconds 6]
    pytest bench/bench_engine.py --benchmark-enable

Every engine's greedy tokens must first be those of the naive loop, which runs the whole text again for every token.

decode     one token for each of so many rows that stand at --prompt tokens: a step of the engine, the naive forward
           that gives the same tokens, and the model's matrix products alone, which bound it: each weight is read once
prefill    the first token of so many prompts: the engine, the naive forward, the products
requests   so many greedy requests of --tokens tokens from start to end, of the 2025 architecture: together, one after
           another, and by transformers where that is installed (`pip install transformers`), on the same weights
"""

import argparse
import functools
import importlib.util

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
GREEDY = {"temperature": 0, "stop_tokens": (), "tools": False}
HAVE_TRANSFORMERS = importlib.util.find_spec("transformers") is not None


class Tokenizer:
    """Names no tokens: the benchmark has no text."""

    special_tokens = dict.fromkeys(SPECIAL_TOKENS, -1)


@functools.lru_cache(maxsize=2)
def build(depth: int, arch: str = "2026", vocab_size: int = 32768) -> GPT:
    """A model in which no output projection is zero, as it would be untrained."""
    model = GPT(GPTConfig.from_depth(depth, arch, vocab_size=vocab_size)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("c_proj.weight") or name == "lm_head.weight":
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
    return model


def as_transformers(model: GPT):
    """A model of the 2025 architecture as transformers' own class, with the same weights."""
    from transformers import NanoChatConfig, NanoChatForCausalLM

    c = model.config
    theirs = NanoChatForCausalLM(
        NanoChatConfig(
            vocab_size=c.padded_vocab_size,
            hidden_size=c.n_embd,
            intermediate_size=4 * c.n_embd,
            num_hidden_layers=c.n_layer,
            num_attention_heads=c.n_head,
            num_key_value_heads=c.n_kv_head,
            max_position_embeddings=c.sequence_len,
            rope_parameters={"rope_type": "default", "rope_theta": c.rope_base},
            rms_norm_eps=c.norm_eps,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        )
    )
    names = {
        "transformer.wte": "model.embed_tokens",
        "transformer.h.": "model.layers.",
        "attn.c_proj": "self_attn.o_proj",
    }
    names |= {f"attn.c_{x}": f"self_attn.{x}_proj" for x in "qkv"} | {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    weights = {}
    for name, weight in model.state_dict().items():
        for ours, its in names.items():
            name = name.replace(ours, its)
        weights[name] = weight
    theirs.load_state_dict(weights)
    return theirs.eval()


def prompts(model, rows, length):
    generator = torch.Generator().manual_seed(rows)
    return torch.randint(0, model.config.vocab_size, (rows, length), generator=generator)


@torch.inference_mode()
def naive_tokens(model, ids, count):
    """Greedy tokens (rows, count) by running the whole text for every one."""
    for _ in range(count):
        ids = torch.cat([ids, model(ids, last=True)[:, -1].argmax(-1, keepdim=True)], dim=1)
    return ids[:, -count:]


def together(model, ids, count):
    """Greedy tokens of every row by the engine."""
    answers = Engine(model, Tokenizer()).generate_batch(ids.tolist(), max_tokens=count, **GREEDY)
    return [answer.ids for [answer] in answers]


def one_by_one(model, ids, count):
    """The same, a row at a time."""
    engine = Engine(model, Tokenizer())
    return [[token.id for token in engine.generate(row, max_tokens=count, **GREEDY)] for row in ids.tolist()]


@torch.inference_mode()
def by_transformers(theirs, ids, count):
    """The same by transformers' generate."""
    made = theirs.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False, eos_token_id=None
    )
    return made[:, ids.size(1) :].tolist()


def prove(model, rows, length=24, theirs=None):
    ids = prompts(model, rows, length)
    wanted = naive_tokens(model, ids, PROVE_TOKENS).tolist()
    assert together(model, ids, PROVE_TOKENS) == wanted, "the engine's greedy tokens are not the naive loop's"
    assert len({tuple(tokens) for tokens in wanted}) == rows
    if theirs is not None:
        assert by_transformers(theirs, ids, PROVE_TOKENS) == wanted, "transformers' greedy tokens are others"


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


def naive_step(model, ids):
    @torch.inference_mode()
    def run():
        model(ids, last=True)

    return run


def decode_contest(model, rows, length) -> dict:
    """engine -> a step of it, of `rows` sequences that stand at `length` tokens."""
    ids = prompts(model, rows, length)
    scheduler = Scheduler(model, Tokenizer(), most_rows=rows)
    for prompt in ids.tolist():
        scheduler.submit(Request(tuple(prompt), 1, model.config.sequence_len, Sampling(0), 0, frozenset(), tools=False))
    while scheduler.stats()["made_tokens"] < rows or len(scheduler.step()) < rows:
        scheduler.step()
    return {"engine": scheduler.step, "naive": naive_step(model, ids), "products": products(model, rows, rows)}


def prefill_contest(model, rows, length) -> dict:
    """engine -> the first token of `rows` prompts."""
    ids = prompts(model, rows, length)
    engine = lambda: together(model, ids, 1)  # noqa: E731
    return {"engine": engine, "naive": naive_step(model, ids), "products": products(model, rows * length, rows)}


def requests_contest(model, theirs, rows, length, count) -> dict:
    """engine -> `rows` requests from start to end."""
    ids = prompts(model, rows, length)
    engines = {"engine": functools.partial(together, model, ids, count)}
    engines["one by one"] = functools.partial(one_by_one, model, ids, count)
    if theirs is not None:
        engines["transformers"] = functools.partial(by_transformers, theirs, ids, count)
    return engines


@functools.lru_cache(maxsize=1)
def contest(what: str, rows: int, length: int) -> dict:
    """A contest on a d4; first, the engine's tokens must be the naive loop's."""
    model = build(4)
    prove(model, rows)
    return decode_contest(model, rows, length) if what == "decode" else prefill_contest(model, rows, length)


@pytest.mark.parametrize("engine", ("engine", "naive", "products"))
@pytest.mark.parametrize("rows", (1, 8))
def test_decode(benchmark, rows, engine):
    race(benchmark, contest, engine, "decode", rows, 128)


@pytest.mark.parametrize("engine", ("engine", "naive", "products"))
def test_prefill(benchmark, engine):
    race(benchmark, contest, engine, "prefill", 1, 512)


@pytest.mark.skipif(not HAVE_TRANSFORMERS, reason="pip install transformers")
def test_transformers_says_the_same():
    model = build(4, "2025")
    prove(model, 3, theirs=as_transformers(model))


def row_of(case, times, tokens):
    row = {"case": case, "tokens/s": tokens / times["engine"][0]}
    row |= {f"times {peer}": speedup(times, "engine", peer) for peer in times if peer not in ("engine", "products")}
    if "products" in times:
        row["of its products alone"] = speedup(times, "engine", "products")
    return row


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    p.add_argument("--depth", type=int, default=12)
    p.add_argument("--vocab-size", type=int, default=32768)
    p.add_argument("--rows", type=int, nargs="+", default=[1, 8, 64])
    p.add_argument("--prompt", type=int, default=128, help="tokens of a prompt")
    p.add_argument("--tokens", type=int, default=32, help="of each answer, where whole requests run")
    p.add_argument("--seconds", type=float, default=6.0, help="for each line of the table")
    args = p.parse_args()
    table = []
    model = build(args.depth, "2026", args.vocab_size)
    for rows in args.rows:
        prove(model, rows)
        at = f"{rows} at {args.prompt}"
        times = interleave(decode_contest(model, rows, args.prompt), args.seconds)
        table.append(row_of(f"decode, {at}", times, rows))
        times = interleave(prefill_contest(model, rows, args.prompt), args.seconds)
        table.append(row_of(f"prefill, {at}", times, rows * args.prompt))
    model = build(args.depth, "2025", args.vocab_size)
    theirs = as_transformers(model) if HAVE_TRANSFORMERS else None
    if theirs is None:
        print("transformers is not installed: its column is left out")
    for rows in args.rows:
        prove(model, rows, theirs=theirs)
        times = interleave(requests_contest(model, theirs, rows, args.prompt, args.tokens), args.seconds)
        table.append(row_of(f"{rows} requests, {args.prompt} + {args.tokens}", times, rows * args.tokens))
    report(f"engine d{args.depth}", table)


if __name__ == "__main__":
    main()
