"""What a stage after pretraining begins from: the weights, the settings and the learning rates of those before it.

    start = Beginning(run, "sft")             # the model with the weights of the stage before, tokenizer, device
    optimizer = start.optimizer()             # pretraining's recipe and rates

Each stage begins from the final checkpoint of the stage before it: rl from sft, sft from midtrain, midtrain from
pretrain; with `[run] merged` there is no midtraining and sft begins from pretrain.
"""

import dataclasses
import hashlib

from pynanochat import checkpoint, runtime, settings
from pynanochat.errors import CheckpointError, UsageError
from pynanochat.model import GPT, GPTConfig, lora
from pynanochat.model.scaling import horizon
from pynanochat.optim import SCHEDULES, MuonAdamW, Schedule, build_optimizer
from pynanochat.runs import STAGES
from pynanochat.stages import pretrain

ADAPTERS = {"betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.0}


def earlier(run, stage: str) -> str:
    """The stage that `stage` of this run begins from. Raises UsageError for midtraining in a merged run."""
    chain = [s for s in STAGES if s != "midtrain" or not run.settings.merged]
    if stage not in chain:
        raise UsageError(f"--merged: {stage} is part of sft in this run; train sft, or give --no-merged")
    return chain[chain.index(stage) - 1]


def begin(run, stage: str) -> checkpoint.Checkpoint:
    """The final checkpoint of the stage before, verified. Raises CheckpointError where it is not there."""
    before = earlier(run, stage)
    found = checkpoint.latest(run.stage_folder(before)) if run.done(before) else None
    if found is None:
        merged = ", or --merged to do without it" if before == "midtrain" else ""
        raise CheckpointError(
            f"{run.folder}: {stage} begins from {before}, which is not finished; "
            f"`pynanochat {before} --run {run.folder.name}` does it first{merged}"
        )
    return found


def identity(run, stage: str) -> dict:
    """All that decides the result of a stage that trains on a mixture."""
    return origin(run, stage) | {"mixture_hash": run.mixture_hash(stage), "fp8": run.settings.fp8}


def origin(run, stage: str) -> dict:
    """All that decides the result of a stage after pretraining, but what it learns from."""
    before = earlier(run, stage)
    found = checkpoint.steps(run.stage_folder(before))
    return {
        **settings.binding(run.tables[stage]),
        "seed": run.settings.seed,
        "dtype": run.settings.dtype,
        "begins_from": before,
        "weights_hash": file_hash(found[-1][1] / checkpoint.MANIFEST) if found else None,
        "tokenizer_hash": run.tokenizer().hash(),
    }


def file_hash(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def pretrained(run) -> pretrain.PretrainSettings:
    """The settings that the run's base model was trained with."""
    names = {field.name for field in dataclasses.fields(pretrain.PretrainSettings)}
    recorded = (run.done("pretrain") or {"identity": {}})["identity"]
    return dataclasses.replace(run.tables["pretrain"], **{k: v for k, v in recorded.items() if k in names})


class Beginning:
    """A stage's model, with the weights of the stage before, and what is needed to train it on this rank.

    found: the checkpoint of the stage before. base: what pretraining was done with. horizon: its batch and rates.
    Settings with lora_rank above 0 (and lora_alpha, lora_lr) give the model adapters, which alone learn. Joins the
    ranks' process group. Raises CheckpointError where the stage before is not finished.
    """

    def __init__(self, run, stage: str):
        self.run, self.stage, self.ranks, self.wanted = run, stage, run.ranks, run.tables[stage]
        self.found = begin(run, stage)
        self.device = runtime.pick_device(run.settings.device, run.ranks)
        runtime.init_distributed(run.ranks, self.device)
        if self.device.type == "cpu":
            runtime.keep_freed_memory()
        runtime.seed_everything(run.settings.seed, run.settings.deterministic)
        self.tokenizer, self.base = run.tokenizer(), pretrained(run)
        self.dtype = runtime.pick_compute_dtype(self.device, run.settings.dtype)
        self.config = GPTConfig.from_dict(self.found.state("state")["model"])
        ratio = self.base.tokens_per_parameter or pretrain.TOKENS_PER_PARAMETER[self.base.arch]
        self.horizon = horizon(self.config, ratio, self.base.batch_tokens or None)
        self.model = GPT(self.config, seed=run.settings.seed, compute_dtype=self.dtype)
        self.model.load_state_dict(self.found.tensors("model"))
        self.model.to(self.device)
        self.adapted = getattr(self.wanted, "lora_rank", 0) != 0
        if self.adapted:
            lora.adapt(self.model, self.wanted.lora_rank, self.wanted.lora_alpha, seed=run.settings.seed)

    def schedule(self) -> Schedule:
        """The stage's schedule; for adapters its shape alone, as their rate is not pretraining's."""
        schedule = SCHEDULES[self.config.arch][self.stage]
        return dataclasses.replace(schedule, scale=1.0) if self.adapted else schedule

    def recorded(self) -> dict:
        """The identity of this stage's newest checkpoint, with what it settled on; nothing where it is not begun."""
        found = checkpoint.latest(self.run.stage_folder(self.stage))
        return found.state("state")["identity"] if found else {}

    def optimizer(self, *, weight_decay: float = 0.0, warm: bool = False):
        """Pretraining's recipe and rates, times the stage's lr_scale; `warm` with the state of the stage before.

        Adapters have AdamW, a rate of their own and nothing of pretraining's.
        """
        if self.adapted:
            learning = list(lora.adapters(self.model).values())
            lr = self.wanted.lora_lr * self.wanted.lr_scale
            return MuonAdamW([{"kind": "adamw", "name": "lora", "params": learning, "lr": lr, **ADAPTERS}])
        optimizer = build_optimizer(
            self.model,
            self.config.arch,
            lr_multiplier=self.horizon.lr_multiplier * self.base.lr_scale * self.wanted.lr_scale,
            weight_decay=weight_decay,
        )
        if warm:
            if not self.found.has("optimizer"):
                raise CheckpointError(f"{self.found.folder}: it has no optimizer state; use --no-warm-optimizer")
            optimizer.load_named_state(self.found.tensors("optimizer"), self.model.named_parameters())
        return optimizer
