"""Where runs lie: from the name of a run to its folder, and which stages it may have."""

from pathlib import Path

from pynanochat.errors import CheckpointError

STAGES = ("pretrain", "midtrain", "sft", "rl")
"""Those that train a model, each on what the one before it left; a folder of a run bears the name."""


def find_run(name: str | None, runs: Path = Path("runs")) -> Path:
    """The folder of run `name`, or the run with the newest checkpoint. Raises CheckpointError where there is none."""
    trained = {folder: _newest_checkpoint(folder) for folder in runs.glob("*")}
    trained = {folder: when for folder, when in trained.items() if when}
    if name is None:
        if not trained:
            raise CheckpointError(
                f"no trained run in {runs}/: train one with `pynanochat speedrun`, or name its folder"
            )
        return max(trained, key=trained.get)
    here, there = Path(name), runs / name
    folder = here if "/" in name or (here.is_dir() and not there.is_dir()) else there
    if not folder.is_dir():
        names = ", ".join(sorted(f.name for f in trained)) or "none"
        raise CheckpointError(
            f"no run {name}: {folder} is not there; trained runs in {runs}/: {names}; "
            f"train it with `pynanochat speedrun --run {name}`"
        )
    return folder


def _newest_checkpoint(folder: Path) -> float:
    """When the newest checkpoint of a run was written, 0 where there is none."""
    return max((f.stat().st_mtime for f in folder.glob("*/checkpoints/step_*")), default=0)
