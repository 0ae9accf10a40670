"""Checkpoints: everything needed to resume training exactly.

checkpoints/step_00000200/
    model.safetensors   the model tensors that training changes or creates
    state.pt            optimizer and data position; read with weights_only
    meta.json           step, the best validation loss so far, digests of the files

No random state is among them: every generator is derived from the seed and a name, and nothing draws from torch's own.

A folder is complete or absent. The newest and the best are kept; one that was damaged since is left out, and said so.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.optim import Optimizer

from lab.core.errors import CheckpointError
from lab.core.runs.atomic_files import folder_atomically, make_folder, remove_partial_folders
from lab.core.runs.tensor_files import write_tensors
from lab.core.train.digests import HINT, newest_whole, read_meta, write_meta

_PREFIX = "step_"


class Resumable(Protocol):
    """A source of batches whose position can be saved and restored."""

    @property
    def state(self) -> dict[str, int]:
        """The current position."""
        ...

    def restore(self, state: dict[str, int]) -> None:
        """Continue from a saved position."""
        ...


@dataclass(kw_only=True)
class TrainingState:
    """The state of a training between two optimizer steps.

    Attributes:
        tensors: the model tensors in a checkpoint; loading writes into them.
        optimizer: of the trained tensors among them.
        data: the source of batches.
        step: optimizer steps done.
        best_step: the step with the lowest validation loss.
        best_loss: that loss.
        facts: extra fields for meta.json.
        more_facts: returns more of them at the moment of writing, when all that they count on is on disk.
    """

    tensors: Mapping[str, Tensor]
    optimizer: Optimizer
    data: Resumable
    step: int = 0
    best_step: int | None = None
    best_loss: float | None = None
    facts: Mapping[str, object] = field(default_factory=dict)
    more_facts: Callable[[], Mapping[str, object]] = dict

    def note_validation(self, loss: float) -> bool:
        """Whether this is the lowest validation loss so far; if so, record it as the best."""
        is_best = self.best_loss is None or loss < self.best_loss
        if is_best:
            self.best_step, self.best_loss = self.step, loss
        return is_best

    def save(self, folder: Path) -> None:
        """Write a checkpoint of this step into `folder`, then remove all others except the best.

        Raises:
            RunError: if the disk is full or cannot be written.
        """
        facts = {**self.facts, **self.more_facts()}
        make_folder(folder)
        with folder_atomically(checkpoint_path(folder, self.step)) as partial:
            write_tensors(partial / "model.safetensors", self.tensors)
            state = {"optimizer": self.optimizer.state_dict(), "data": self.data.state}
            # into an open file, whose errors are those of the disk
            with (partial / "state.pt").open("wb") as file:
                torch.save(state, file)
            write_meta(partial, {"step": self.step, "best_step": self.best_step, "best_loss": self.best_loss, **facts})
        kept = {checkpoint_path(folder, step) for step in (self.step, self.best_step) if step is not None}
        for path in checkpoints(folder):
            if path not in kept:
                shutil.rmtree(path)

    def load_newest(self, folder: Path) -> bool:
        """Load the newest checkpoint in `folder` that is whole; False if there is none.

        Raises:
            CheckpointError: if it is damaged, or belongs to other tensors.
        """
        remove_partial_folders(folder)
        path = newest_whole(checkpoints(folder))
        if path is None:
            return False
        meta = read_meta(path)
        load_tensors(path, into=self.tensors)
        try:
            state = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
            self.optimizer.load_state_dict(state["optimizer"])
            self.data.restore(state["data"])
            self.step, self.best_step, self.best_loss = int(meta["step"]), meta["best_step"], meta["best_loss"]
        except CheckpointError:
            raise
        # a damaged file can raise anything
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise CheckpointError(f"{path}/state.pt is damaged or of another training ({reason}); {HINT}") from error
        return True


def checkpoint_path(folder: Path, step: int) -> Path:
    """The folder of a step's checkpoint."""
    return folder / f"{_PREFIX}{step:08}"


def checkpoints(folder: Path) -> list[Path]:
    """All checkpoints in a folder, newest last."""
    return sorted(folder.glob(f"{_PREFIX}*"))


def load_tensors(path: Path, *, into: Mapping[str, Tensor]) -> None:
    """Copy a checkpoint's tensors into the ones with the same names.

    Raises:
        CheckpointError: if names or shapes differ, or the file is damaged; nothing is copied then.
    """
    file = path / "model.safetensors"
    try:
        stored = load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file} is missing or cut off ({error}); {HINT}") from error
    for name in sorted(stored.keys() | into.keys()):
        if name not in into or name not in stored:
            holder = "the file" if name in stored else "the model"
            raise CheckpointError(f"{file}: only {holder} has {name}; it is of another model, choose its own run")
        if stored[name].shape != into[name].shape:
            raise CheckpointError(
                f"{file}: {name} has shape {tuple(stored[name].shape)} but the model's is {tuple(into[name].shape)}; "
                "choose a run of the same model"
            )
        if not torch.isfinite(stored[name]).all():
            raise CheckpointError(f"{file}: {name} has entries that are not finite; {HINT}")
    with torch.no_grad():
        for name, tensor in into.items():
            tensor.copy_(stored[name])
