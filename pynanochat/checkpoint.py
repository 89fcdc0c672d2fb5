"""Checkpoints: written whole or not at all, verified when read, nothing pickled.

    RUN/STAGE/checkpoints/step_000200/
        manifest.json             SHA-256 of every other file
        model.safetensors         weights by parameter name
        optimizer.safetensors     moments by parameter name
        fp8.safetensors           scales of products in 8 bits, where the run has them
        state.json                step, settings, counters, model configuration
        loader_0.json, loader_0.safetensors ...   where each data stream stands

A folder is filled under a temporary name, its files and itself synced, and then renamed, so that a kill or a full disk
at any moment leaves the checkpoint before it in place.
"""

import contextlib
import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save as arrays_to_bytes
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save as tensors_to_bytes

from pynanochat.errors import CheckpointError, TrainingError
from pynanochat.runs import STAGES

MANIFEST = "manifest.json"
TEMPORARY = ".writing-"


class Writer:
    """Fills one checkpoint folder; `commit` makes it appear. Several ranks may write into the same one."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.temporary = folder.parent / (TEMPORARY + folder.name)

    def begin(self) -> None:
        """Start with an empty temporary folder (rank 0, before any rank writes)."""
        shutil.rmtree(self.temporary, ignore_errors=True)
        self.temporary.mkdir(parents=True)

    def tensors(self, name: str, tensors: dict[str, torch.Tensor]) -> None:
        flat = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        self._write(name + ".safetensors", tensors_to_bytes(flat))

    def state(self, name: str, state: dict) -> None:
        """A dict whose values are JSON-able or numpy arrays."""
        arrays = {k: np.ascontiguousarray(v) for k, v in state.items() if isinstance(v, np.ndarray)}
        plain = {k: v for k, v in state.items() if k not in arrays}
        self._write(name + ".json", json.dumps(plain, indent=1).encode())
        if arrays:
            self._write(name + ".safetensors", arrays_to_bytes(arrays))

    def commit(self) -> None:
        """Write the manifest, sync, rename (rank 0, after every rank has written)."""
        sums = {f.name: _sha256(f) for f in sorted(self.temporary.iterdir())}
        self._write(MANIFEST, json.dumps({"sha256": sums}, indent=1).encode())
        _sync(self.temporary)
        shutil.rmtree(self.folder, ignore_errors=True)
        os.rename(self.temporary, self.folder)
        _sync(self.folder.parent)

    def _write(self, name, content):
        try:
            write_synced(self.temporary / name, content)
        except OSError as error:
            shutil.rmtree(self.temporary, ignore_errors=True)
            raise TrainingError(
                f"cannot write {self.folder / name} ({len(content):,} bytes): {error.strerror}; "
                f"free some space and run the same command again, it goes on from the checkpoint before"
            ) from error


class Checkpoint:
    """A verified checkpoint folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        verify(folder)

    def has(self, name: str) -> bool:
        """Whether there are tensors of that name."""
        return (self.folder / (name + ".safetensors")).exists()

    def tensors(self, name: str) -> dict[str, torch.Tensor]:
        return load_tensors(self.folder / (name + ".safetensors"))

    def state(self, name: str) -> dict:
        state = json.loads((self.folder / (name + ".json")).read_text())
        arrays = self.folder / (name + ".safetensors")
        return state | load_arrays(arrays) if arrays.exists() else state


def verify(folder: Path) -> None:
    """Raise CheckpointError unless every file of `folder` is there with the sum that its manifest says."""
    try:
        sums = json.loads((folder / MANIFEST).read_text())["sha256"]
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{folder}: no readable {MANIFEST}, so this is not a whole checkpoint") from error
    for name, expected in sums.items():
        file = folder / name
        if not file.is_file():
            raise CheckpointError(f"{file}: missing; remove {folder} to go on from the checkpoint before it")
        if _sha256(file) != expected:
            raise CheckpointError(f"{file}: damaged (SHA-256 differs); remove {folder} to go on from the one before it")


def steps(stage_folder: Path) -> list[tuple[int, Path]]:
    """The committed checkpoints of a stage, oldest first."""
    found = (stage_folder / "checkpoints").glob("step_*")
    return sorted((int(f.name[5:]), f) for f in found if f.name[5:].isdigit())


def latest(stage_folder: Path) -> Checkpoint | None:
    """The newest checkpoint of a stage, verified, or None. Raises CheckpointError for a damaged one."""
    found = steps(stage_folder)
    return Checkpoint(found[-1][1]) if found else None


def folder_of(stage_folder: Path, step: int) -> Path:
    return stage_folder / "checkpoints" / f"step_{step:06d}"


def prune(stage_folder: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints and whatever a killed process left half-written."""
    for _, folder in steps(stage_folder)[:-keep]:
        shutil.rmtree(folder)
    for folder in (stage_folder / "checkpoints").glob(TEMPORARY + "*"):
        shutil.rmtree(folder, ignore_errors=True)


def write_synced(path: Path, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_json(path: Path, value) -> None:
    """Write `value` to `path` so that the file is either the old one or the whole new one."""
    temporary = path.with_name(path.name + ".writing")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_synced(temporary, (json.dumps(value, indent=1) + "\n").encode())
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise TrainingError(
            f"cannot write {path}: {error.strerror}; make room or make it writable, and run it again"
        ) from error


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def load_model(run_folder, stage: str | None = None, *, device="cpu", compute_dtype=torch.float32):
    """The model of a run's newest stage (or of `stage`), in eval mode, and the stage's name.

    Raises CheckpointError where the run or the stage has no checkpoint. The tokenizer is in run_folder/tokenizer.
    """
    from pynanochat.model import GPT, GPTConfig

    run_folder = Path(run_folder)
    wanted = [stage] if stage else [s for s in reversed(STAGES) if steps(run_folder / s)]
    checkpoint = latest(run_folder / wanted[0]) if wanted else None
    if checkpoint is None:
        what = f"stage {stage}" if stage else "any stage"
        raise CheckpointError(f"{run_folder}: no checkpoint of {what}; train one with `pynanochat speedrun --run NAME`")
    model = GPT(GPTConfig.from_dict(checkpoint.state("state")["model"]), compute_dtype=compute_dtype)
    model.load_state_dict(checkpoint.tensors("model"))
    return model.to(device).eval(), wanted[0]
