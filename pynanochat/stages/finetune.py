"""What midtraining and SFT share: rows and steps, validation, samples.

    work = Finetuning(run, "sft")
    return work.train(make_loader, loss)      # the training loop over the stage's mixture

Learning rates are those of pretraining, times the stage's schedule and its lr_scale.
"""

import math
from dataclasses import dataclass

import torch
import torch.distributed as dist

from pynanochat import runtime, settings
from pynanochat.data.conversations import PaddedConversations, batches_in
from pynanochat.data.prefetch import Prefetch
from pynanochat.errors import UsageError
from pynanochat.evals.score import chat_core
from pynanochat.model import lora
from pynanochat.model.scaling import measure
from pynanochat.optim import RECIPES
from pynanochat.stages import begin, fp8, pretrain
from pynanochat.stages.compiling import compiled_forward
from pynanochat.stages.loop import LoopSettings, TrainingLoop
from pynanochat.tasks import GRADED
from pynanochat.tokenizer import render_for_completion

SAMPLES = 3
SAMPLE_TOKENS = 96


@dataclass(frozen=True)
class FinetuneSettings(LoopSettings):
    epochs: int = 1
    """Passes over the stage's conversations."""
    steps: int = 0
    """Optimizer steps; 0 for what the epochs take."""
    batch_tokens: int = 0
    """Tokens of one optimizer step over all ranks; 0 for pretraining's."""
    device_rows: int = 0
    """Rows of one micro-batch; 0 for pretraining's, or fewer where memory or the batch asks for it."""
    lr_scale: float = 1.0
    """Factor on pretraining's learning rates, beside that of the schedule."""
    weight_decay: float = 0.0
    """Muon's weight decay; pretraining's has fallen to 0 by its end."""
    warm_optimizer: bool = True
    """Begin with the optimizer state of the stage before."""
    eval_tokens: int = 262_144
    """Validation tokens of each evaluation."""
    buffer_conversations: int = 1000
    """Rendered conversations that packing chooses from."""
    chat_eval_every: int = 0
    """Steps between evaluations of the chat tasks; 0 for never."""
    chat_eval_examples: int = 100
    """Questions of each task in such an evaluation; 0 for all."""
    chat_eval_tasks: str = ""
    """Names of those tasks, with commas between them; empty for all that can be had."""
    compile: str = "auto"
    """Compile the training step with torch.compile: on, off, or auto, which is on for a GPU with Triton."""

    OPERATIONAL = LoopSettings.OPERATIONAL | {"compile", "chat_eval_every", "chat_eval_examples", "chat_eval_tasks"}


def check_settings(wanted: FinetuneSettings) -> None:
    """Raise UsageError for a number out of range."""
    whole = ("steps", "batch_tokens", "device_rows", "weight_decay", "eval_every", "save_every", "chat_eval_every")
    settings.check_numbers(
        wanted,
        finite=("lr_scale", "weight_decay"),
        zero_or_more=(*whole, "chat_eval_examples"),
        positive=("epochs", "lr_scale", "eval_tokens", "buffer_conversations", "keep_checkpoints", "max_bad_steps"),
    )
    runtime.wants_compiling(wanted.compile, torch.device("cpu"))  # the name is right
    for name in names_in(wanted.chat_eval_tasks):
        if name not in GRADED:
            raise UsageError(f"--chat-eval-tasks {name}: no such task to grade; use {', '.join(GRADED)}")


def check_plan(run, stage: str, processes: int, conversations: int = 0) -> None:
    """Raise what can be known to go wrong before anything is changed: settings, data that cannot be had."""
    wanted = run.tables[stage]
    check_settings(wanted)
    fp8.check(run.settings.fp8 and not run.done(stage), runtime.pick_device(run.settings.device, run.ranks))
    if wanted.batch_tokens or conversations:
        check_rows(wanted.batch_tokens, conversations, processes, begin.pretrained(run).sequence_len)
    run.mixture(stage)


def check_rows(batch_tokens: int, conversations: int, processes: int, length: int) -> int:
    """Rows of a step. Raises UsageError where they cannot be dealt evenly to the ranks."""
    rows = conversations or batch_tokens // length
    if rows < 1 or rows % processes or (not conversations and batch_tokens % length):
        what = f"--conversations {conversations}" if conversations else f"--batch-tokens {batch_tokens}"
        unit = processes if conversations else processes * length
        raise UsageError(
            f"{what} does not divide over {processes} ranks with rows of {length}; use a multiple of {unit}"
        )
    return rows


def describe_plan(run, stage: str, processes: int = 1) -> str:
    """The line of a dry run; nothing need be there yet."""
    begin.earlier(run, stage)
    wanted, base = run.tables[stage], begin.pretrained(run)
    check_settings(wanted)
    device = runtime.pick_device(run.settings.device)
    what = pretrain.plan(base, run.tables["tokenizer"].vocab_size, device, processes)
    tokens = wanted.batch_tokens or what.horizon.batch_tokens
    extent = f"{wanted.steps:,} steps" if wanted.steps else f"{wanted.epochs} x its conversations, in steps"
    flops = measure(what.config).flops_per_token
    return f"{stage}: {extent} of {tokens:,} tokens, rows of {base.sequence_len}, {flops:,} FLOPs a token"


def names_in(text: str) -> list[str]:
    """The names of a comma list."""
    return [name.strip() for name in text.split(",") if name.strip()]


class Finetuning(begin.Beginning):
    """One stage's training: everything that does not depend on how its batches and its loss are made.

    conversations: rows of a step, where a step is counted in them and not in tokens.
    """

    def __init__(self, run, stage: str, conversations: int = 0):
        check_settings(run.tables[stage])
        super().__init__(run, stage)
        self.packed = not conversations
        self._plan_rows(conversations)

    def _plan_rows(self, conversations: int) -> None:
        """Rows of a step, of a micro-batch, and micro-batches; those that a begun run has recorded stay."""
        world, length = self.ranks.world_size, self.config.sequence_len
        rows = check_rows(self.wanted.batch_tokens or self.horizon.batch_tokens, conversations, world, length)
        recorded = self.recorded()
        device_rows = self.wanted.device_rows or recorded.get("fitted_rows", 0)
        if not device_rows:
            here = {"dtype": self.dtype, "processes": world, "in_fp8": self.run.settings.fp8}
            most = pretrain.fit_device_rows(self.config, self.device, rows // world, **here)
            most = min(most, self.base.device_rows or most)
            device_rows = max(d for d in range(1, most + 1) if rows // world % d == 0)
        if rows % (device_rows * world):
            raise UsageError(
                f"--device-rows {device_rows}: a step of {rows} rows does not divide into micro-batches of "
                f"{device_rows} on {world} ranks; use a divisor of {rows // world}"
            )
        self.rows, self.device_rows, self.stream_count = rows, device_rows, rows // device_rows
        self.steps = self.wanted.steps or recorded.get("counted_steps", 0)

    def train(self, make_loader, loss=None, forward=None) -> dict:
        """Train on the stage's mixture; make_loader(mixture, tokenizer, **settings) gives one stream's batches."""
        mixture = self.run.mixture(self.stage)
        loaders = lambda: {i: self._loader(make_loader, mixture, i) for i in self._mine()}  # noqa: E731
        if not self.steps:
            self.steps = self._count_steps(loaders())
        self.run.say(self._describe(mixture))
        fp8.give(self.model, self.run, self.stage)
        streams = loaders()
        if self.device.type == "cuda":
            streams = {i: Prefetch(loader) for i, loader in streams.items()}
        size = measure(self.config)
        # Rows of every length would be compiled anew each time.
        wanted = self.wanted.compile if self.packed else "off"
        compiled = compiled_forward(self.model, wanted, self.device, self.run.say)
        loop = TrainingLoop(
            name=self.stage,
            folder=self.run.stage_folder(self.stage),
            model=self.model,
            forward=compiled if forward is None else forward,
            optimizer=self.optimizer(weight_decay=self.wanted.weight_decay, warm=self.wanted.warm_optimizer),
            schedule=self.schedule(),
            streams=streams,
            stream_count=self.stream_count,
            total_steps=self.steps,
            options=self.wanted,
            identity=begin.identity(self.run, self.stage)
            | {"fitted_rows": self.device_rows, "counted_steps": self.steps},
            flops_per_token=size.flops_per_token,
            peak_flops=runtime.peak_flops(self.device, self.dtype) * self.ranks.world_size,
            gradient_clip=RECIPES[self.config.arch].gradient_clip,
            loss=loss,
            evaluate=self.validation(masked=loss is not None),
            more_evaluations=((self.wanted.chat_eval_every, self.chat_evaluation()),),
            sample=self.sampler(),
            ranks=self.ranks,
        )
        learning = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        return loop.run() | {
            "conversations": len(mixture),
            "parameters": size.parameters,
            "trained_parameters": learning,
        }

    # --- batches and steps

    def _mine(self) -> range:
        return range(self.ranks.rank, self.stream_count, self.ranks.world_size)

    def _loader(self, make_loader, mixture, stream: int):
        return make_loader(
            mixture,
            self.tokenizer,
            batch_size=self.device_rows,
            seq_len=self.config.sequence_len,
            rank=stream,
            world_size=self.stream_count,
            buffer_conversations=self.wanted.buffer_conversations,
        )

    def _count_steps(self, loaders: dict) -> int:
        """Steps in which every stream uses all of its conversations: their packing is done once to know."""
        most = max(batches_in(loader, self.wanted.epochs) for loader in loaders.values())
        if self.ranks.world_size == 1:
            return most
        most = torch.tensor(most, device=self.device)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        return int(most.item())

    def _describe(self, mixture) -> str:
        return (
            f"{self.stage}: {len(mixture):,} conversations, {self.steps:,} steps of {self.rows} rows of at most "
            f"{self.config.sequence_len} tokens ({self.stream_count} x {self.device_rows}), begins from "
            f"{begin.earlier(self.run, self.stage)}"
        )

    # --- evaluation

    def validation(self, masked: bool):
        """evaluate(model) -> {"val_loss", "val_bpb"} on the stage's validation mixture; {} where that is empty."""
        mixture = self.run.mixture(self.stage, "val")
        if not len(mixture):
            return lambda model: {}
        loader = PaddedConversations(
            mixture,
            self.tokenizer,
            batch_size=self.device_rows,
            seq_len=self.config.sequence_len,
            buffer_conversations=min(128, self.wanted.buffer_conversations),
            masked=masked,
            epochs=1,
        )
        batches, tokens = [], 0
        for batch in loader:
            batches.append(batch)
            tokens += batch.tokens
            if tokens >= self.wanted.eval_tokens:
                break
        token_bytes = torch.as_tensor(self.tokenizer.token_lengths(), device=self.device)
        return lambda model: validate(model, batches, token_bytes, self.ranks)

    def sampler(self):
        """sample(model) -> answers to the first questions of the validation mixture."""
        questions = questions_of(self.run.mixture(self.stage, "val"), self.tokenizer, self.config.sequence_len)
        return lambda model: answers(model, self.tokenizer, questions)

    def chat_evaluation(self):
        """evaluate(model) -> the accuracy of each chat task on its first questions, and their mean."""

        def evaluate(model) -> dict:
            from pynanochat.engine import Engine
            from pynanochat.evals import chat
            from pynanochat.tasks import available, open_task

            where, scores = self.run.task_data(), {}
            engine = Engine(lora.merged(model), self.tokenizer, self.stage)
            for name in names_in(self.wanted.chat_eval_tasks) or available(where):
                task = open_task(name, "test", where)
                examples = self.wanted.chat_eval_examples
                scores[task.name] = chat.evaluate(engine, task, max_examples=examples, ranks=self.ranks)
            found = {name: score.score for name, score in scores.items()}
            return found | mean_score(scores)

        return evaluate


def mean_score(scores) -> dict[str, float]:
    """{"ChatCORE": ...} of its six tasks, else {"chat_mean": ...}; guessing counts 0 in either."""
    core = chat_core(scores)
    if core and core.task == "ChatCORE":
        return {"ChatCORE": core.score}
    return {"chat_mean": math.fsum(s.centred for s in scores.values()) / len(scores)} if scores else {}


def conversation_loss(forward, batch) -> torch.Tensor:
    """The mean loss over a ConversationBatch's targets; 0 where it has none."""
    device = next(forward.parameters()).device
    return forward(*on(device, batch))


def on(device, batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets of a ConversationBatch as int64 on `device`."""
    return tuple(
        torch.from_numpy(array).to(device, torch.int64, non_blocking=True) for array in (batch.inputs, batch.targets)
    )


@torch.inference_mode()
def validate(model, batches, token_bytes, ranks=None) -> dict[str, float]:
    """{"val_loss": nats a target, "val_bpb": bits a byte of the targets} of ConversationBatches (specials have none).

    Under several ranks each takes every world_size-th batch, and all get the sum. NaN where nothing is to be said.
    """
    nats, count, nats_of_bytes, size = sums = torch.zeros(4, dtype=torch.float64, device=token_bytes.device)
    rank, world = (ranks.rank, ranks.world_size) if ranks else (0, 1)
    was_training = model.training
    model.eval()
    for batch in batches[rank::world]:
        inputs, targets = on(token_bytes.device, batch)
        said = targets >= 0
        size_of = token_bytes[targets.clamp_min(0)] * said
        losses = model(inputs, targets, reduction="none").double() * said
        nats += losses.sum()
        count += said.sum()
        nats_of_bytes += (losses * (size_of > 0)).sum()
        size += size_of.sum()
    model.train(was_training)
    if world > 1:
        dist.all_reduce(sums)
    nats, count, nats_of_bytes, size = sums.tolist()
    return {
        "val_loss": nats / count if count else math.nan,
        "val_bpb": nats_of_bytes / (math.log(2) * size) if size else math.nan,
    }


def questions_of(mixture, tokenizer, context: int) -> list[list[dict]]:
    """The openings, up to the first question, of the first conversations that leave room for an answer."""
    found, room = [], context - min(SAMPLE_TOKENS, context // 4)
    for index in range(min(len(mixture), 100)):
        messages = mixture[index].get("messages")
        if not messages:  # a document
            continue
        opening = messages[: 2 if messages[0]["role"] == "system" else 1]
        if len(render_for_completion(tokenizer, opening)) <= room and opening not in found:
            found.append(opening)
        if len(found) == SAMPLES:
            break
    return found


def answers(model, tokenizer, questions) -> list[dict]:
    """Greedy answers, tool calls and their outputs included, as {"prompt", "text"}."""
    from pynanochat.engine import Engine

    engine = Engine(lora.merged(model), tokenizer)
    prompts = [render_for_completion(tokenizer, messages) for messages in questions]
    generated = engine.generate_batch(prompts, max_tokens=SAMPLE_TOKENS, temperature=0.0)
    return [
        {"prompt": messages[-1]["content"], "text": tokenizer.decode(given[0].ids)}
        for messages, given in zip(questions, generated, strict=True)
    ]
