"""A whole training step on the CPU: ours, the same model on plain torch ops, and that under torch.compile.

    python -m pynanochat.bench.bench_train_step [--depth 4] [--compiled]
    pytest bench/bench_train_step.py --benchmark-enable

The model is the d4 of the field's CPU figures (width 256, vocabulary 8,192, rows of 512, 16 rows a step). The fraction
is of the measured rate of torch's matrix product in the dtype that is computed in.
"""

import argparse
import functools
import os

import pytest
import torch

from pynanochat import runtime
from pynanochat.bench.harness import gemm_rate, interleave, prove, race, ratios, report
from pynanochat.model import GPT, GPTConfig
from pynanochat.model.scaling import measure
from pynanochat.optim import build_optimizer

ROWS = 16
DTYPES = (torch.float32, torch.bfloat16)


class Trainer:
    """A model and its optimizer; `step()` is one whole step on `backend` ("" for the default)."""

    def __init__(self, config, dtype, backend="", compiled=False, seed=0):
        self.model = GPT(config, seed=1, compute_dtype=dtype)
        self.forward = torch.compile(self.model, dynamic=False) if compiled else self.model
        self.optimizer = build_optimizer(self.model, "2026", lr_multiplier=0.1)
        generator = torch.Generator().manual_seed(seed)
        shape = (ROWS, config.sequence_len + 1)
        self.ids = torch.randint(0, config.vocab_size, shape, generator=generator)
        self.backend = backend

    def gradients(self):
        os.environ["PYNANOCHAT_BACKEND"] = self.backend
        loss = self.forward(self.ids[:, :-1], self.ids[:, 1:])
        loss.backward()
        return loss.detach()

    def step(self):
        self.gradients()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def check(config, dtype) -> None:
    """The loss and some gradients are as near to float64's as plain torch's are."""
    trainers = Trainer(config, dtype), Trainer(config, dtype, "reference"), Trainer(config, torch.float64, "reference")
    trainers[2].model.double()
    for trainer in trainers:  # output projections start at zero; give every gradient something to do
        for name, parameter in trainer.model.named_parameters():
            if name.endswith("c_proj.weight"):
                torch.manual_seed(len(name))
                parameter.data.copy_(torch.randn(parameter.shape) * 0.02)
    losses = [trainer.gradients() for trainer in trainers]
    named = [dict(trainer.model.named_parameters()) for trainer in trainers]
    results = {"loss": tuple(losses)}
    for name in ("lm_head.weight", "transformer.h.0.attn.c_q.weight", "transformer.h.1.mlp.c_fc.weight"):
        results[name] = tuple(parameters[name].grad for parameters in named)
    prove(results, dtype)


def configuration(depth: int) -> GPTConfig:
    return GPTConfig.from_depth(depth, vocab_size=8192, sequence_len=512)


@functools.lru_cache(maxsize=1)
def contest(depth: int, dtype) -> dict:
    """engine -> a step of its own model; first, loss and gradients must be as good as plain torch's."""
    config = configuration(depth)
    check(config, dtype)
    return {
        "ours": Trainer(config, dtype).step,
        "eager": Trainer(config, dtype, "reference").step,
        "compiled": Trainer(config, dtype, "reference", compiled=True).step,
    }


@pytest.mark.parametrize("engine", ("ours", "eager", "compiled"))
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_train_step(benchmark, monkeypatch, dtype, engine):
    monkeypatch.setenv("PYNANOCHAT_BACKEND", "")  # the trainers set it; afterwards it is as before
    race(benchmark, contest, engine, 4, dtype)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="bench_train_step", description=__doc__.split("\n\n")[0])
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--compiled", action="store_true", help="measure torch.compile too (a minute to compile)")
    parser.add_argument("--seconds", type=float, default=40.0)
    flags = parser.parse_args(argv)
    runtime.keep_freed_memory()
    config = configuration(flags.depth)
    flops = measure(config).flops_per_token
    rows = []
    for dtype in (torch.float32, runtime.pick_compute_dtype(torch.device("cpu"))):
        if rows and dtype == torch.float32:
            break  # no bf16 here
        engines = contest(flags.depth, dtype)
        if not flags.compiled:
            engines = {engine: engines[engine] for engine in ("ours", "eager")}
        times = interleave(engines, seconds=flags.seconds)
        rate = ROWS * config.sequence_len / times["ours"][0]
        rows.append(
            {
                "dtype": str(dtype)[6:],
                **ratios(times),
                "tokens/s": rate,
                "of GEMM rate": rate * flops / gemm_rate(dtype),
                "of fp32 GEMM rate": rate * flops / gemm_rate(torch.float32),
            }
        )
    os.environ.pop("PYNANOCHAT_BACKEND")
    report("train_step", rows)


if __name__ == "__main__":
    main()
