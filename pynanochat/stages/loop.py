"""The one training loop: a stage hands it a model, an optimizer, a schedule, streams of batches and a loss.

A step is `stream_count` micro-batches, dealt over the ranks; gradients are averaged over all of them. Because the
streams and not the ranks own the data, one process that accumulates S micro-batches and S processes with one each see
the same batches in the same step.

A batch is whatever the stage's loss understands: token rows, int32 (B, T+1), for the loss that is used where none is
given, or an object of the stage with `tokens`, the number of tokens that the step is to count for it.

Files, all in the stage's folder and written by the first rank: metrics.jsonl (a line a step, an evaluation or a
sample), checkpoints/ (see checkpoint.py). A run that is killed goes on from its newest checkpoint, and lines of metrics
after it are dropped, so that the file too is that of an uninterrupted run.
"""

import contextlib
import json
import math
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from pynanochat import checkpoint, settings
from pynanochat.errors import CheckpointError, Interrupted, TrainingError
from pynanochat.model import lora
from pynanochat.runtime import Ranks, current_memory, peak_memory
from pynanochat.stages.gradients import Gradients
from pynanochat.stages.progress import Display, duration


@dataclass(frozen=True)
class LoopSettings:
    eval_every: int = 50
    """Steps between validations; 0 for only at the end."""
    sample_every: int = 100
    """Steps between printed samples; 0 for only at the end."""
    save_every: int = 50
    """Steps between checkpoints; 0 for only at the end."""
    keep_checkpoints: int = 2
    """How many of the newest checkpoints stay on disk."""
    max_bad_steps: int = 3
    """Steps in a row whose loss or gradient is not finite before the weights roll back to the last checkpoint."""
    max_rollbacks: int = 3
    """Rollbacks before training gives up."""
    stop_after: int = 0
    """Stop (resumable) after this many steps in this process; 0 for never."""

    OPERATIONAL = frozenset({"save_every", "keep_checkpoints", "stop_after", "eval_every", "sample_every"})


class TrainingLoop:
    """Trains until `total_steps`; `run()` returns a summary dict.

    streams: the loaders of this rank by number, each an endless iterator of batches with state_dict/load_state_dict;
    where it has `metrics() -> dict of floats`, they are averaged over all streams and written with the step. A batch
    of a stage's own may have `pieces(count)`, as `pieces_of` gives them, for a GPU whose memory it does not fit.
    stream_count: loaders of all ranks together. loss(forward, batch) -> scalar tensor in nats, by default that of the
    next token. evaluate(model) -> dict of metrics; more_evaluations: pairs (steps between, evaluate) for costly ones,
    0 for never. sample(model) -> list of {"prompt", "text"}. identity: flat dict of everything that decides the result;
    a checkpoint made with another one is refused.
    """

    def __init__(
        self,
        *,
        name: str,
        folder: Path,
        model,
        optimizer,
        schedule,
        streams: dict[int, object],
        stream_count: int,
        total_steps: int,
        options: LoopSettings,
        identity: dict,
        flops_per_token: int,
        peak_flops: float,
        evaluate,
        sample,
        loss=None,
        more_evaluations=(),
        gradient_clip: float | None = None,
        ranks: Ranks | None = None,
        forward=None,
    ):
        self.name, self.folder, self.model, self.optimizer, self.schedule = name, folder, model, optimizer, schedule
        self.streams, self.stream_count, self.total_steps, self.options = streams, stream_count, total_steps, options
        self.identity, self.flops_per_token = identity, flops_per_token
        self.peak_flops, self.evaluate, self.sample = peak_flops, evaluate, sample
        self.gradient_clip, self.ranks = gradient_clip, ranks or Ranks()
        self.more_evaluations = more_evaluations
        loss = loss or next_token_loss
        self.gradients = Gradients(name, model, optimizer, loss, stream_count, self.ranks, self._say, forward)
        self.device = next(model.parameters()).device
        self.step, self.tokens, self.seconds, self.bad_steps, self.rollbacks, self.skipped = 0, 0, 0.0, 0, 0, 0
        self._wall_before, self._started = 0.0, time.perf_counter()
        self.last_eval: dict = {}
        self._stop_signal = 0  # what this rank caught; it stops only once all ranks know, in the same step
        self._stopping = False
        self._smoothed_loss = math.nan
        self._metrics_file = folder / "metrics.jsonl"

    # --- the run

    def run(self) -> dict:
        """Train from the newest checkpoint, or from the start, to the end. Raises Interrupted when told to stop."""
        self._started = time.perf_counter()
        resumed = self._resume()
        handlers = self._catch_signals()
        started = self.step
        try:
            with Display(self.name, self.total_steps, self.ranks.first) as self.display:
                if resumed:
                    self.display.say(f"{self.name}: going on from step {self.step} of {self.total_steps}")
                else:
                    self._evaluate()
                while self.step < self.total_steps:
                    self._one_step()
                    stopping = self._stopping or self.step - started == self.options.stop_after > 0
                    finished = self.step == self.total_steps
                    if self._due(self.options.eval_every, finished):
                        self._evaluate()
                    for every, evaluate in self.more_evaluations:
                        if every and self._due(every, finished):
                            self._evaluate(evaluate)
                    if self._due(self.options.sample_every, finished):
                        self._sample()
                    if self._due(self.options.save_every, finished or stopping):
                        self.save()
                    if stopping and not finished:
                        raise Interrupted(
                            f"{self.name} stopped at step {self.step} of {self.total_steps} and is saved; "
                            "the same command goes on from here"
                        )
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return self.summary()

    def summary(self) -> dict:
        rate = self.tokens / self.seconds if self.seconds else math.nan
        return {
            "steps": self.step,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 3),
            "wall_seconds": round(self.wall_seconds, 3),
            "tokens_per_second": round(rate, 1),
            "mfu": round(rate * self.flops_per_token / self.peak_flops, 4),
            "flops": self.tokens * self.flops_per_token,
            "skipped_steps": self.skipped,
            "peak_memory_bytes": peak_memory(self.device),
            **self.last_eval,
        }

    @property
    def wall_seconds(self) -> float:
        """Since the training began, evaluations and checkpoints included; time lost to a kill is not."""
        return self._wall_before + time.perf_counter() - self._started

    def _due(self, every: int, at_end: bool) -> bool:
        return at_end or (every > 0 and self.step % every == 0)

    # --- one step

    def _one_step(self) -> None:
        started = time.perf_counter()
        values = self.schedule.at(self.step, self.total_steps)
        self.optimizer.apply_schedule(*values)
        loss, tokens = self.gradients.add_up(self.streams)
        self.gradients.sum_over_ranks()
        loss, tokens, metrics, stop = self._sums(loss, tokens, self._stream_metrics())
        norm = self.optimizer.clip_gradients(self.gradient_clip)
        finite = math.isfinite(loss) and bool(torch.isfinite(norm))
        if finite:
            if norm > 0:  # where nothing is to be learnt, momentum and weight decay must not move the weights either
                self.optimizer.step()
            self.bad_steps = 0
        self.gradients.move_scales(finite)
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        self.tokens += tokens
        elapsed = time.perf_counter() - started
        self.seconds += elapsed
        self._stopping = stop > 0
        self._record(loss, float(norm), values.lr, elapsed, tokens, metrics)
        if not finite:
            self._after_bad_step(loss, float(norm))

    def _stream_metrics(self) -> dict[str, float]:
        """This rank's share of the mean over all streams."""
        sums: dict[str, float] = {}
        for stream in self.streams.values():
            for name, value in stream.metrics().items() if hasattr(stream, "metrics") else ():
                sums[name] = sums.get(name, 0.0) + value / self.stream_count
        return sums

    def _sums(self, loss, tokens: int, metrics: dict[str, float]) -> tuple[float, int, dict[str, float], int]:
        """The sums over the ranks; also the highest stop signal that any rank caught."""
        if self.ranks.world_size == 1:
            return loss.item(), tokens, metrics, self._stop_signal
        names = sorted(metrics)
        sums = torch.tensor([tokens, *(metrics[n] for n in names)], dtype=torch.float64, device=self.device)
        dist.all_reduce(loss)
        dist.all_reduce(sums)
        stop = torch.tensor(self._stop_signal, device=self.device)
        dist.all_reduce(stop, dist.ReduceOp.MAX)
        tokens, *means = sums.tolist()
        return loss.item(), round(tokens), dict(zip(names, means, strict=True)), int(stop.item())

    def _after_bad_step(self, loss: float, norm: float) -> None:
        """A step whose loss or gradient was not finite changed nothing; after several in a row, roll back."""
        self.bad_steps += 1
        self.skipped += 1
        self.display.say(f"step {self.step}: loss {loss}, gradient norm {norm}: skipped")
        if self.bad_steps < self.options.max_bad_steps:
            return
        found = checkpoint.latest(self.folder)
        self.rollbacks += 1
        if found is None or self.rollbacks > self.options.max_rollbacks:
            raise TrainingError(
                f"{self.name}: the loss stayed non-finite for {self.bad_steps} steps up to step {self.step} "
                f"({self.rollbacks - 1} rollbacks before); lower the learning rate with --lr-scale"
            )
        self._load_weights(found)
        self.bad_steps = 0
        self.display.say(f"rolled back to the weights of step {found.state('state')['step']}; the data go on")

    # --- evaluation and records

    def _evaluate(self, evaluate=None) -> None:
        started = time.perf_counter()
        metrics = (evaluate or self.evaluate)(self.model)
        if not metrics:
            return
        self.last_eval = self.last_eval | metrics
        facts = "  ".join(f"{k} {v:.4f}" for k, v in metrics.items())
        self.display.say(f"{self.name} step {self.step}: {facts}  ({duration(time.perf_counter() - started)})")
        self._append({"step": self.step, **metrics})

    def _sample(self) -> None:
        if not self.ranks.first:
            return
        samples = self.sample(self.model)
        if not samples:
            return
        for sample in samples:
            self.display.say(f"  {sample['prompt']!r} -> {sample['text']!r}")
        self._append({"step": self.step, "samples": samples})

    def _record(self, loss: float, norm: float, lr: float, elapsed: float, tokens: int, metrics: dict) -> None:
        rate = tokens / elapsed
        mfu = rate * self.flops_per_token / self.peak_flops
        memory = current_memory(self.device)
        # An average that starts at the first loss and forgets with a time constant of ten steps.
        if math.isfinite(loss):
            old = self._smoothed_loss if math.isfinite(self._smoothed_loss) else loss
            self._smoothed_loss = 0.9 * old + 0.1 * loss
        eta = (self.total_steps - self.step) * self.seconds / self.step
        self.display.update(
            self.step,
            f"loss {self._smoothed_loss:.3f}  {rate:,.0f} tokens/s  MFU {mfu:.0%}  {memory / 2**30:.1f} GiB  "
            f"ETA {duration(eta)}",
        )
        self._append(
            {
                "step": self.step,
                "loss": loss,
                "lr": lr,
                "gradient_norm": norm,
                "tokens": self.tokens,
                "tokens_per_second": round(rate, 1),
                "mfu": round(mfu, 4),
                "seconds": round(self.seconds, 3),
                "memory_bytes": memory,
                **metrics,
            }
        )

    def _say(self, words: str) -> None:  # the display comes with the run
        self.display.say(words)

    def _append(self, line: dict) -> None:
        if self.ranks.first:
            with open(self._metrics_file, "a") as file:
                file.write(json.dumps(line) + "\n")

    # --- signals

    def _catch_signals(self) -> dict:
        def remember(number, _frame):
            if self._stop_signal:  # a second time: at once
                raise KeyboardInterrupt
            self._stop_signal = number
            with contextlib.suppress(RuntimeError, AttributeError):  # in the midst of a write, or before the display
                self.display.say("stopping after this step ...")

        try:
            return {n: signal.signal(n, remember) for n in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread: the owner of the signals stops us otherwise
            return {}

    # --- saving and resuming

    def save(self) -> None:
        """Write a checkpoint of this step; every rank adds its streams."""
        writer = checkpoint.Writer(checkpoint.folder_of(self.folder, self.step))
        if self.ranks.first:
            writer.begin()
        self._barrier()
        for index, stream in self.streams.items():
            writer.state(f"loader_{index}", stream.state_dict())
        if self.ranks.first:
            writer.tensors("model", lora.merged_state(self.model))
            if adapters := lora.adapters(self.model):
                writer.tensors("adapters", adapters)
            writer.tensors("optimizer", self.optimizer.named_state(self.model.named_parameters()))
            if self.model.fp8 is not None:
                writer.tensors("fp8", self.model.fp8.state())
            writer.state("state", self._state())
        self._barrier()
        if self.ranks.first:
            writer.commit()
            checkpoint.prune(self.folder, self.options.keep_checkpoints)
        self._barrier()

    def _state(self) -> dict:
        return {
            "stage": self.name,
            "step": self.step,
            "tokens": self.tokens,
            "seconds": self.seconds,
            "wall_seconds": self.wall_seconds,
            "bad_steps": self.bad_steps,
            "rollbacks": self.rollbacks,
            "skipped": self.skipped,
            "smoothed_loss": self._smoothed_loss,
            "last_eval": self.last_eval,
            "optimizer": self.optimizer.scalars(),
            "model": self.model.config.to_dict(),
            "identity": self.identity,
        }

    def _resume(self) -> bool:
        """Load the newest checkpoint, if there is one, and drop the metrics that came after it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        found = checkpoint.latest(self.folder)
        if found is not None:
            state = found.state("state")
            if changed := settings.differences(state["identity"], self.identity):
                raise CheckpointError(
                    f"{self.folder} was begun with other settings ({changed}); give those again, "
                    "or another --run, or --fresh to begin anew"
                )
            self._load_weights(found)
            for name in ("step", "tokens", "seconds", "bad_steps", "rollbacks", "skipped", "last_eval"):
                setattr(self, name, state[name])
            self._smoothed_loss, self._wall_before = state["smoothed_loss"], state.get("wall_seconds", state["seconds"])
            for index, stream in self.streams.items():
                stream.load_state_dict(found.state(f"loader_{index}"))
        if self.ranks.first:
            truncate_metrics(self._metrics_file, self.step if found else -1)
        return found is not None

    def _load_weights(self, found: checkpoint.Checkpoint) -> None:
        if lora.adapters(self.model):  # what they are added to never changes
            lora.load_adapters(self.model, found.tensors("adapters"))
        else:
            self.model.load_state_dict(found.tensors("model"))
        self.optimizer.load_named_state(found.tensors("optimizer"), self.model.named_parameters())
        self.optimizer.load_scalars(found.state("state")["optimizer"])
        if self.model.fp8 is not None and found.has("fp8"):  # else its first steps measure
            self.model.fp8.load_state(found.tensors("fp8"))

    def _barrier(self) -> None:
        if self.ranks.world_size > 1:
            dist.barrier()


def next_token_loss(forward, rows) -> torch.Tensor:
    """The mean loss of each token of `rows`, int32 (B, T+1), given those before it."""
    device = next(forward.parameters()).device
    rows = torch.from_numpy(rows).to(device, torch.int64, non_blocking=True)
    return forward(rows[:, :-1], rows[:, 1:])


def truncate_metrics(path: Path, step: int) -> None:
    """Keep only the whole lines of `path` up to `step`."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue  # the line that a kill cut off
    temporary = path.with_name(path.name + ".writing")
    temporary.write_text("".join(kept))
    temporary.replace(path)
