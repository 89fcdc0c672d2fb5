"""One run: a folder under runs/ with its settings, its data and its stages.

    RUN/settings.json            the resolved settings of every stage
    RUN/environment.json         the machine and the versions
    RUN/tokenizer/               tokenizer.json ... and done.json
    RUN/pretrain/                metrics.jsonl, checkpoints/, summary.json, done.json; so midtrain/, sft/, rl/

A stage is a module with NAME, `identity(run)` (a flat dict of all that decides its result) and `train(run)` (does the
work and returns a summary). A stage whose done.json holds the same identity is not done again; with another identity
it is an error, unless --fresh asks to begin anew or the stage RENEWS: it is done again by itself.
"""

import contextlib
import dataclasses
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from pynanochat import checkpoint, settings
from pynanochat.checkpoint import write_json
from pynanochat.errors import CheckpointError, DataError, UsageError
from pynanochat.runtime import Ranks


@dataclass(frozen=True)
class RunSettings:
    run: str = ""
    """Name of the run, a folder under runs/ (or a path with a slash); by default the preset's name."""
    data: str = "toyworld"
    """Where text comes from: toyworld, hub, hub:NAME or a folder with pretrain/ in it."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    dtype: str = "auto"
    """What matrix products are computed in: auto, bf16 or fp32."""
    fp8: bool = False
    """Multiply the blocks' large matrices in 8-bit floats in training, RL left out; for GPUs from Ada and Hopper on."""
    seed: int = 0
    """Seed of the weights and of the toy world."""
    deterministic: bool = False
    """On a GPU, the same bits from every run and after every resume, at the cost of some speed; a CPU's are anyway."""
    toyworld_entities: int = 0
    """People, places and things of the toy world; 0 for its own default."""
    toyworld_megabytes: float = 0.0
    """Distinct toy-world text, in MB; 0 for its own default."""
    hub_shards: int = 0
    """Training shards to fetch from the Hub; 0 for as many as the training needs."""
    price_per_hour: float = 0.0
    """What the machine costs an hour, in dollars, for the report; 0 where it costs nothing."""
    merged: bool = False
    """No midtraining: SFT begins from the base model, on the merged mixture (the 2026 form)."""
    identity: str = ""
    """A JSONL file of conversations in which the model says who it is; empty for generated ones."""

    OPERATIONAL = frozenset({"run", "device", "deterministic", "price_per_hour"})


class Run:
    """A run's folder and settings. `tables` are the resolved settings by name: {"run": RunSettings, ...}."""

    def __init__(self, folder: Path, tables: dict, ranks: Ranks | None = None):
        self.folder, self.tables, self.ranks = folder, tables, ranks or Ranks.from_environment()
        self.settings: RunSettings = tables["run"]
        self._source = self._tokenizer = None
        self._mixtures: dict[tuple[str, str], object] = {}
        self._mixture_hashes: dict[str, str] = {}
        self._check_folder()

    def _check_folder(self) -> None:
        """A run in a folder of data would write among the shards, and --fresh would remove them."""
        data = Path(self.settings.data)
        if data.is_dir() and self.folder.resolve() in (data.resolve(), (data / "pretrain").resolve()):
            raise UsageError(f"--run {self.folder} is the folder of --data; use another --run")

    @contextlib.contextmanager
    def alone(self):
        """Hold the run's lock (first rank): two commands that write the same files would spoil both."""
        if not self.ranks.first:
            yield
            return
        import fcntl

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = open(self.folder / ".lock", "a+")  # noqa: SIM115
        except OSError as error:
            raise UsageError(f"{self.folder}: cannot be written ({error.strerror}); use another --run") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                raise UsageError(
                    f"{self.folder}: process {lock.read().strip() or '?'} is working on this run; "
                    "wait for it or use another --run"
                ) from None
            except OSError:
                pass  # a file system without locks
            lock.truncate(0)
            with contextlib.suppress(OSError):
                lock.write(str(os.getpid()))
                lock.flush()
            yield

    def stage_folder(self, stage: str) -> Path:
        return self.folder / stage

    def source(self):
        """The data source of the run, opened once."""
        if self._source is None:
            from pynanochat.data.sources import open_source

            s = self.settings
            self._source = open_source(
                s.data,
                seed=s.seed,
                toyworld_megabytes=s.toyworld_megabytes or None,
                toyworld_entities=s.toyworld_entities or None,
                shards=s.hub_shards or None,
            )
        return self._source

    def tokenizer(self):
        """The run's tokenizer, loaded once. Raises CheckpointError where it is not trained yet."""
        if self._tokenizer is None:
            from pynanochat.tokenizer import Tokenizer

            folder = self.stage_folder("tokenizer")
            if not (folder / "done.json").exists():
                command = f"pynanochat speedrun --run {self.folder.name}"
                raise CheckpointError(f"{self.folder} has no tokenizer yet; `{command}` trains one first")
            self._tokenizer = Tokenizer.load(folder)
        return self._tokenizer

    def task_data(self):
        """Where the run's tasks find their rows: a tasks.TaskData. Raises DataError for a folder that is not there."""
        from pynanochat.tasks import TaskData

        s = self.settings
        world = self.source().world if s.data == "toyworld" else None
        where = TaskData(s.data, seed=s.seed, world=world, identity=s.identity)
        if where.folder is not None and not where.folder.is_dir():
            raise DataError(f"--data {s.data}: no such folder; use toyworld, hub or the folder that the run began with")
        return where

    def mixture(self, stage: str, split: str = "train"):
        """The conversations that a stage trains on ("train") or is validated on ("val"), opened once."""
        if (stage, split) not in self._mixtures:
            from pynanochat.tasks import mixtures

            of = mixtures.training if split == "train" else mixtures.validation
            self._mixtures[stage, split] = of(stage, self.task_data(), self.settings.merged)
        return self._mixtures[stage, split]

    def mixture_hash(self, stage: str) -> str:
        """What identifies the conversations that a stage trains on; they are read through for it once."""
        if stage not in self._mixture_hashes:
            self._mixture_hashes[stage] = self.mixture(stage).hash()
        return self._mixture_hashes[stage]

    def save_settings(self) -> None:
        """Write settings.json (first rank)."""
        if self.ranks.first:
            write_json(self.folder / "settings.json", {k: dataclasses.asdict(v) for k, v in self.tables.items()})

    def done(self, stage: str) -> dict | None:
        """{"identity", "summary"} of a finished stage, or None."""
        file = self.stage_folder(stage) / "done.json"
        try:
            done = json.loads(file.read_text())
            if isinstance(done["identity"], dict) and isinstance(done["summary"], dict):
                return done
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, KeyError, TypeError):
            pass
        raise CheckpointError(f"{file}: damaged; remove it or use --fresh")

    def check(self, stage) -> None:
        """Raise UsageError where the stage is done or begun with settings that are not these, and does not renew."""
        if getattr(stage, "RENEWS", False):
            return
        folder = self.stage_folder(stage.NAME)
        done = self.done(stage.NAME)
        if done is not None:
            before = done["identity"]
        elif found := checkpoint.latest(folder):
            before = found.state("state")["identity"]
        else:
            return
        if changed := settings.differences(before, before | self._identity(stage)):
            raise UsageError(
                f"{folder} was made with other settings ({changed}); give those again, "
                "or another --run, or --fresh to begin anew"
            )

    def _identity(self, stage) -> dict:
        return json.loads(json.dumps(stage.identity(self)))

    def finished(self, stage) -> dict | None:
        """As `done`, of a stage that need not be done again."""
        before = self.done(stage.NAME)
        if before is not None and getattr(stage, "RENEWS", False) and before["identity"] != self._identity(stage):
            return None
        return before

    def carry_out(self, stage) -> dict:
        """Do a stage unless it is done for the same settings; its summary."""
        self.check(stage)
        before = self.finished(stage)
        if before is not None:
            self.say(f"{stage.NAME}: already done")
            return before["summary"]
        identity = self._identity(stage)
        self.stage_folder(stage.NAME).mkdir(parents=True, exist_ok=True)
        summary = stage.train(self)
        if self.ranks.first:
            write_json(self.stage_folder(stage.NAME) / "summary.json", summary)
            write_json(self.stage_folder(stage.NAME) / "done.json", {"identity": identity, "summary": summary})
        return summary

    def forget(self, stage: str) -> None:
        """Remove a stage's folder. Raises UsageError for one that no run has made."""
        folder = self.stage_folder(stage)
        if folder.exists() and not (self.folder / "settings.json").is_file():
            raise UsageError(f"--fresh: {self.folder} is no run (no settings.json), {folder} stays; use another --run")
        if self.ranks.first:
            shutil.rmtree(self.stage_folder(stage), ignore_errors=True)

    def say(self, text: str) -> None:
        if self.ranks.first:
            print(text, flush=True)


def run_folder(name: str) -> Path:
    """The folder of run `name`: under runs/, unless the name is a path."""
    return Path(name) if "/" in name else Path("runs") / name
