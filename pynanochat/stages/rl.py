"""Reinforcement learning: the chat model answers questions that can be checked, and learns from what its answers earn.

Every step asks `examples_per_step` questions of the reward tasks, samples `samples` answers to each with the weights of
the moment, and makes those likelier that earned more than the others to the same question (REINFORCE with the group's
mean as baseline). Whether it helps is measured on held-out questions: the chance that one of k sampled answers is right
(pass@k), beside the mean length, so that a longer answer is not taken for a better one.
"""

import copy
import dataclasses
import functools
from dataclasses import dataclass

import torch

from pynanochat import runtime, settings
from pynanochat.data.mixture import Mixture
from pynanochat.engine import Engine
from pynanochat.errors import DataError, UsageError
from pynanochat.model import lora
from pynanochat.model.scaling import measure
from pynanochat.optim import RECIPES
from pynanochat.runtime import Ranks
from pynanochat.stages import begin, pretrain
from pynanochat.stages.evaluate import check_isolation
from pynanochat.stages.held_out import evaluation, held_out_questions, samples_of
from pynanochat.stages.loop import LoopSettings, TrainingLoop
from pynanochat.stages.rollout_streams import StepRollouts, Stream
from pynanochat.stages.rollouts import Questions, Sampling, policy_loss

NAME = "rl"
HELD_OUT = "test"  # a generated task may ask a training question again in its "val"


@dataclass(frozen=True)
class RLSettings(LoopSettings):
    tasks: str = ""
    """Reward tasks to learn from, by name with commas between; empty for all that the data offer."""
    examples_per_step: int = 16
    """Questions of one step, over all ranks."""
    samples: int = 16
    """Answers sampled to each question."""
    max_new_tokens: int = 256
    """Tokens of an answer at most."""
    temperature: float = 1.0
    """Temperature that answers are sampled at."""
    top_k: int = 50
    """Only the k most probable tokens are sampled; 0 for all."""
    epochs: float = 1.0
    """Times that the smallest reward task is gone through; the tasks take turns."""
    steps: int = 0
    """Optimizer steps; 0 for what epochs gives."""
    lr_scale: float = 1.0
    """Factor on every learning rate."""
    divide_by_std: bool = False
    """Divide advantages by the standard deviation of their group's rewards."""
    kl: float = 0.0
    """Weight of the divergence from the policy that the stage began with; 0 for none."""
    clip: float = 0.0
    """Hold the ratio of new to sampling probability within 1 ± this (PPO); 0 for no ratio at all."""
    uses: int = 1
    """Optimizer steps on each set of answers; with more than 1 the policy leaves them behind, so give --clip too."""
    device_rows: int = 0
    """Rows of one micro-batch; 0 for as many as memory allows, at most 32."""
    engine_rows: int = 64
    """Answers that are decoded at once."""
    eval_every: int = 60
    """Steps between evaluations on held-out questions; 0 for only at the end."""
    eval_examples: int = 400
    """Held-out questions of each task."""
    pass_k: int = 8
    """Answers sampled to each held-out question, for pass@1 to pass@k."""
    lora_rank: int = 0
    """Rank of adapters to the blocks' matrices, which then alone learn; 0 trains the whole model."""
    lora_alpha: float = 16.0
    """Weight of the adapters: what they add is times alpha/rank."""
    lora_lr: float = 0.001
    """Learning rate of the adapters, in the place of pretraining's and the schedule's scale."""


def check_settings(wanted: RLSettings) -> None:
    """Raise UsageError for values that mean nothing."""
    whole = ("steps", "device_rows", "top_k", "kl", "clip", "temperature", "eval_every", "sample_every", "save_every")
    some = ("examples_per_step", "max_new_tokens", "epochs", "lr_scale", "uses", "engine_rows", "eval_examples")
    more = ("pass_k", "lora_alpha", "lora_lr", "keep_checkpoints", "max_bad_steps")
    settings.check_numbers(wanted, zero_or_more=(*whole, "lora_rank"), positive=(*some, *more))
    if wanted.samples < 2:
        raise UsageError(f"--samples {wanted.samples}: an answer is compared with others; use at least 2")
    if wanted.clip >= 1:
        raise UsageError(f"--clip {wanted.clip}: the ratio's bounds are 1 ± clip; use less than 1, such as 0.2")
    if wanted.uses > 1 and not wanted.clip:
        raise UsageError(f"--uses {wanted.uses}: answers that are used again need the ratio; add --clip 0.2")


def generator(model, tokenizer, rows: int):
    """`generate` for roll_out: the engine over `model` with the weights that it has at each call.

    Where the model computes in half precision, or has adapters, the engine runs on a plain copy in that precision, made
    anew at each call: the products are the same, and decoding does not convert or add up all weights for every token.
    """
    twin = model
    if model.compute_dtype != torch.float32 or lora.adapters(model):
        twin = copy.deepcopy(lora.merged(model)).to(model.compute_dtype).requires_grad_(False)
        twin.cos, twin.sin = model.cos, model.sin  # positions need all their digits
    engine = Engine(twin, tokenizer)

    def generate(prompts, **settings):
        if twin is not model:
            weights = lora.merged_state(model)
            with torch.no_grad():
                for name, parameter in twin.named_parameters():
                    parameter.copy_(weights[name])
        return engine.generate_batch(prompts, rows=rows, **settings)

    return generate


def longest_prompt(context: int, max_new_tokens: int) -> int:
    """Tokens that a prompt may have: an answer keeps its room, or at least half of a small context."""
    return max(context - max_new_tokens, context // 2)


def training_loop(
    model,
    tokenizer,
    tasks: list,
    held_out: list,
    wanted: RLSettings,
    *,
    optimizer,
    schedule,
    seed: int,
    rows: int,
    ranks: Ranks | None = None,
    reference=None,
    **loop,
) -> TrainingLoop:
    """The loop that teaches `model` by the rewards of `tasks` and evaluates it on the `held_out` ones.

    rows: of a micro-batch, a divisor of a rank's answers. reference: the model as the stage began, for wanted.kl.
    **loop: folder, identity and what else TrainingLoop takes. Raises UsageError for questions that cannot be dealt.
    """
    ranks, device = ranks or Ranks(), next(model.parameters()).device
    most = longest_prompt(model.config.sequence_len, wanted.max_new_tokens)
    generate = generator(model, tokenizer, wanted.engine_rows)
    questions = Questions(tasks, tokenizer, seed=seed, longest_prompt=most)
    drawn = Sampling(wanted.samples, wanted.max_new_tokens, wanted.temperature, wanted.top_k)
    shared = StepRollouts(
        questions,
        generate,
        tokenizer,
        drawn,
        seed=seed,
        questions_per_step=wanted.examples_per_step,
        rows=rows,
        streams=wanted.examples_per_step * wanted.samples // rows,
        device=device,
        ranks=ranks,
        divide_by_std=wanted.divide_by_std,
        reference=reference if wanted.kl else None,
    )
    # Another seed than the training's: a question that stands in both must not draw the same numbers.
    held_seed = seed + 1
    asked = held_out_questions(held_out, tokenizer, each=wanted.eval_examples, longest_prompt=most, seed=held_seed)
    tried = dataclasses.replace(drawn, samples=wanted.pass_k)
    return TrainingLoop(
        name=NAME,
        model=model,
        optimizer=optimizer,
        schedule=schedule,
        streams={i: Stream(shared, i, wanted.uses) for i in shared.mine},
        stream_count=shared.stream_count,
        loss=functools.partial(policy_loss, clip=wanted.clip, kl=wanted.kl),
        total_steps=total_steps(wanted, questions.epoch),
        options=wanted,
        evaluate=evaluation(asked, generate, tokenizer, tried, seed=held_seed, device=device, ranks=ranks),
        sample=samples_of(asked, generate, tokenizer, wanted.max_new_tokens),
        ranks=ranks,
        **loop,
    )


def total_steps(wanted: RLSettings, epoch: int) -> int:
    """Optimizer steps of the stage, for an epoch of so many questions."""
    return wanted.steps or max(1, round(wanted.epochs * epoch / wanted.examples_per_step)) * wanted.uses


def answers_of_rank(wanted: RLSettings, world_size: int) -> int:
    """Answers that each rank samples in a step. Raises UsageError where the questions cannot be dealt evenly."""
    if wanted.examples_per_step % world_size:
        raise UsageError(
            f"--examples-per-step {wanted.examples_per_step}: questions are dealt to {world_size} ranks; use a "
            f"multiple of {world_size}"
        )
    answers = wanted.examples_per_step // world_size * wanted.samples
    if wanted.device_rows and answers % wanted.device_rows:
        raise UsageError(
            f"--device-rows {wanted.device_rows}: a step's {answers} answers of each rank do not divide into "
            f"micro-batches of {wanted.device_rows}; use a divisor of {answers}"
        )
    return answers


# --- the stage of a run


def reward_tasks(run, split: str = "train") -> list:
    """The run's reward tasks: those that its settings name, or all that its data offer; HELD_OUT for what tests them.

    Raises UsageError for a task that cannot pay for answers, or whose grading would run programs without isolation.
    """
    names = [name.strip() for name in run.tables[NAME].tasks.split(",")]
    return list(_opened(run.task_data(), tuple(filter(None, names)), split))


def nothing_to_learn(run) -> str:
    """Why the run's folder of data offers no reward task; empty where it does, or where the settings name some."""
    if run.tables[NAME].tasks or run.task_data().folder is None:
        return ""
    run.source()  # what is wrong with the folder as a whole is said as it is
    try:
        reward_tasks(run, HELD_OUT)
    except DataError as error:
        return str(error)
    return ""


@functools.lru_cache(maxsize=4)
def _opened(where, names: tuple[str, ...], split: str) -> tuple:
    """The tasks of `names`, opened once: keeping test questions out of the training ones takes time."""
    from pynanochat.tasks import mixtures, open_task

    if split != "train":
        return tuple(open_task(task.name, split, where) for task in _opened(where, names, "train"))
    offered = {task.name: task for task in mixtures.reward_tasks(where)}
    tasks = [offered.get(name) or open_task(name, "train", where) for name in names] or offered.values()
    for task in tasks:
        check_task(task)
    return tuple(tasks)


def check_task(task) -> None:
    """Raise UsageError for a task that reinforcement learning must not use here."""
    if task.kind != "generate":
        raise UsageError(f"--tasks {task.name}: nothing is generated there that could be paid for; leave it out")
    check_isolation(task)


def identity(run) -> dict:
    return begin.origin(run, NAME) | {"tasks_hash": Mixture([(task, 1) for task in reward_tasks(run)]).hash()}


def describe_plan(run, processes: int = 1) -> str:
    """The line of a dry run; nothing need be there yet."""
    begin.earlier(run, NAME)
    wanted = run.tables[NAME]
    check_settings(wanted)
    answers_of_rank(wanted, processes)
    extent = f"{wanted.steps:,} steps" if wanted.steps else f"{wanted.epochs:g} x the smallest reward task, in steps"
    return (
        f"rl: {extent} of {wanted.examples_per_step} questions x {wanted.samples} answers of at most "
        f"{wanted.max_new_tokens} tokens"
    )


def check_plan(run, processes: int = 1) -> None:
    """Raise what can be known to go wrong before anything is changed: settings, tasks that cannot be had."""
    check_settings(run.tables[NAME])
    answers_of_rank(run.tables[NAME], processes)
    reward_tasks(run, HELD_OUT)


def train(run) -> dict:
    """Teach the finetuned model of `run`; resumes from its newest checkpoint. Returns the loop's summary."""
    wanted: RLSettings = run.tables[NAME]
    check_plan(run, run.ranks.world_size)
    tasks, held_out = reward_tasks(run), reward_tasks(run, HELD_OUT)
    start = begin.Beginning(run, NAME)
    arch, rows, size = start.config.arch, _rows(start), measure(start.config)
    loop = training_loop(
        start.model,
        start.tokenizer,
        tasks,
        held_out,
        wanted,
        folder=run.stage_folder(NAME),
        optimizer=start.optimizer(),
        schedule=start.schedule(),
        seed=run.settings.seed,
        rows=rows,
        ranks=run.ranks,
        reference=copy.deepcopy(start.model).requires_grad_(False) if wanted.kl else None,
        identity=identity(run) | {"fitted_rows": rows},
        flops_per_token=size.flops_per_token,
        peak_flops=runtime.peak_flops(start.device, start.dtype) * run.ranks.world_size,
        gradient_clip=RECIPES[arch].gradient_clip,
    )
    names = [task.name for task in tasks]
    run.say(
        f"rl: {', '.join(names)}; {loop.total_steps:,} steps of {wanted.examples_per_step} questions x "
        f"{wanted.samples} answers, begins from {begin.earlier(run, NAME)}"
    )
    return loop.run() | {"tasks": names, "parameters": size.parameters}


def _rows(start: begin.Beginning) -> int:
    """Rows of a micro-batch: as set, as a begun run has them, or as many as fit."""
    answers = answers_of_rank(start.wanted, start.ranks.world_size)
    rows = start.wanted.device_rows or start.recorded().get("fitted_rows", 0)
    rows = rows or pretrain.fit_device_rows(
        start.config, start.device, answers, dtype=start.dtype, processes=start.ranks.world_size
    )
    if answers % rows:
        raise UsageError(
            f"this run has micro-batches of {rows} rows, which do not divide the {answers} answers of each of "
            f"{start.ranks.world_size} ranks; use as many processes as before, or --fresh"
        )
    return rows
