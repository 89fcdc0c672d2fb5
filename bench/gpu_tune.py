"""Measures which tile sizes of the Triton kernels are fastest on a GPU, and keeps them in its results file.

    pynanochat bench tune [--output FOLDER] [--minutes 5]

Each kernel with a choice (kernels/tiles.py) runs at shapes of d12 and d24 with each of its few candidates, after every
candidate's results were seen to agree with the first's. The fastest of each case goes into bench/results/DEVICE.json,
which `pynanochat bench gpu` must have written, and is run from then on. A candidate that the card refuses is left out.
Another than the first must be ahead by MARGIN. It has not run on a GPU yet.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch

from pynanochat.bench import gpu
from pynanochat.bench import gpu_timing as timing
from pynanochat.errors import BackendError
from pynanochat.kernels import tiles

MARGIN = 1.02
TOLERANCE = 0.02  # of the largest value: sums in another order, rounded to bf16
BF16 = torch.bfloat16


def workloads() -> dict[str, tuple[Callable, Callable]]:
    """Calls of the kernels with a choice, which return tensors: at the sizes of d12 and d24, to be timed, and at sizes
    of the same case that no tile divides, to be compared."""
    from pynanochat.kernels import attention, attention_paged, linear_softcap_cross_entropy, muon_step, relu2_mlp

    def random(*shape, dtype=BF16):
        return torch.randn(*shape, device=timing.DEVICE, dtype=dtype)

    def attended(heads, size, positions=2048):
        q, k, v, dout = (random(8, positions, heads, size) for _ in range(4))

        def run():
            out, lse = attention.forward(q, k, v, -1)
            return out, *attention.backward(dout, q, k, v, out, lse, -1)

        return run

    def paged(rows, longest, size, before=1024, page=64):
        each = -(-before // page)
        pages = random(2, rows * each, page, 8, size)
        tables = torch.arange(rows * each, device=timing.DEVICE).view(rows, each)
        starts = torch.arange(rows + 1, device=timing.DEVICE) * longest
        lengths, q = torch.full((rows,), before, device=timing.DEVICE), random(rows * longest, 8, size)
        return lambda: [attention_paged.forward(q, *pages, tables, starts, lengths, longest, -1)]

    def products(tokens, width):
        x, w_fc, w_proj = random(tokens, width), random(4 * width, width), random(width, 4 * width)
        h = relu2_mlp.relu2(x, w_fc)
        return lambda: [relu2_mlp.relu2(x, w_fc), relu2_mlp.slope(x, w_proj, h)]

    def muon(count, rows, columns):
        x = random(count, rows, columns, dtype=torch.float16) / (rows * columns) ** 0.5
        return lambda: [muon_step.iterate(x.clone(), [(3.4, -4.8, 2.0)] * 2)]

    def losses(tokens, width, words):
        x, weight = random(tokens, width), random(words, width) / width**0.5
        targets = torch.randint(words, (tokens,), device=timing.DEVICE)
        return lambda: [linear_softcap_cross_entropy.losses(x, weight, targets, 15.0, -1)]

    return {
        "attention, heads of 128": (attended(6, 128), attended(6, 128, 333)),
        "attention, heads of 64": (attended(12, 64), attended(12, 64, 333)),
        "relu2 of many tokens": (products(32768, 1536), products(8101, 1500)),
        "relu2 of few tokens": (products(256, 768), products(219, 740)),
        "Muon, large": (muon(12, 768, 3072), muon(12, 740, 3001)),
        "Muon, small": (muon(1, 768, 768), muon(1, 740, 740)),
        "losses": (losses(8192, 768, 32768), losses(1001, 740, 32701)),
        "decoding, heads of 128": (paged(64, 1, 128), paged(64, 1, 128, 1001)),
        "prefill, heads of 128": (paged(4, 512, 128), paged(4, 333, 128, 1001)),
        "a few tokens of each row": (paged(16, 32, 128), paged(16, 29, 128, 1001)),
        "decoding, heads of 64": (paged(64, 1, 64), paged(64, 1, 64, 1001)),
        "prefill, heads of 64": (paged(4, 512, 64), paged(4, 333, 64, 1001)),
    }


def agree(results, expected) -> bool:
    """Whether tensors differ by no more than sums in another order do."""
    return all(
        (ours.float() - theirs.float()).abs().max() <= TOLERANCE * theirs.float().abs().max()
        for ours, theirs in zip(results, expected, strict=True)
    )


def sound(calls, case: str, candidates: list[dict], expected: list) -> list[int]:
    """Which candidates the card takes and give the first's results in all `calls`."""
    good = []
    for number, candidate in enumerate(candidates):
        try:
            with tiles.trying(case, candidate):
                right = all(agree(call(), results) for call, results in zip(calls, expected, strict=True))
        except Exception as error:  # too much shared memory, a compiler's refusal: whatever it is, not this candidate
            print(f"  {case}: {candidate} is refused: {(str(error) or repr(error)).splitlines()[0]}", flush=True)
            continue
        if right:
            good.append(number)
        else:
            print(f"  {case}: {candidate} gives other results: left out", flush=True)
    return good


def fastest_of(calls, case: str, candidates: list[dict], expected: list) -> dict:
    """The candidate with the shortest time of the first call; the first where none is ahead of it by MARGIN."""

    def run(number):
        with tiles.trying(case, candidates[number]):
            return calls[0]()

    good = sound(calls, case, candidates, expected)
    times = timing.interleave({n: (lambda n=n: run(n)) for n in good}, rounds=5)
    best = min(times, key=times.get, default=0)
    best = 0 if 0 in times and times[0] < MARGIN * times[best] else best
    said = ", ".join(f"{list(candidates[n].values())} {seconds * 1e6:.0f} us" for n, seconds in times.items())
    print(f"  {case}: {said}: {list(candidates[best].values())}", flush=True)
    return candidates[best]


def tune(workloads: dict[str, tuple[Callable, ...]], deadline: float, keep: Callable[[dict], None]) -> list[str]:
    """Hands `keep` the fastest candidates by case, after each case; the workloads that time did not allow."""
    fastest, left = {}, []
    for label, calls in workloads.items():
        if time.monotonic() > deadline:
            left.append(label)
            continue
        print(label, flush=True)
        with tiles.watched() as met:
            expected = [call() for call in calls]
        for case, candidates in met.items():
            if case not in fastest and len(candidates) > 1 and time.monotonic() <= deadline:
                fastest[case] = fastest_of(calls, case, candidates, expected)
                keep(fastest)
    return left


def main(argv: list[str]) -> None:
    """`pynanochat bench tune`. Raises BackendError where there is no GPU, or `bench gpu` has not run on it."""
    started = time.monotonic()
    parser = argparse.ArgumentParser(prog="pynanochat bench tune", description=__doc__.split("\n")[0])
    parser.add_argument(
        "--output", type=Path, help="folder of the results file (default: bench/results of the checkout)"
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="stop measuring after so long (default 5)")
    options = parser.parse_args(argv)
    if not torch.cuda.is_available():
        raise BackendError("bench tune: no GPU to measure here; run it on a machine with an NVIDIA GPU")
    folder = options.output or gpu.find_checkout() / "bench" / "results"
    path = gpu.results_file(folder, torch.cuda.get_device_name())
    try:
        result = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise BackendError(f"bench tune: {path} is not there yet; run pynanochat bench gpu first") from error

    def keep(fastest):
        result["tiles"] = {**result.get("tiles", {}), **fastest}
        gpu.publish(folder, result)

    left = tune(workloads(), started + options.minutes * 60, keep)
    print(f"{len(result.get('tiles', {}))} cases in {path}" + (f"; no time for {', '.join(left)}" if left else ""))
