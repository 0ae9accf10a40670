"""Checkpoints: everything needed to resume training exactly.

checkpoints/step_00000200/
    model.safetensors   the model tensors that training changes or creates
    state.pt            optimizer and data position; read with weights_only
    meta.json           step, the best validation loss so far, digests of the files

No random state is among them: every generator is derived from the seed and a name, and nothing draws from torch's own.

A folder is complete or absent. The newest and the best are kept; one that was damaged since is left out, and said so.
The files are the same whatever number of processes has trained, so that any other number can go on.
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.optim import Optimizer

from lab.core.errors import CheckpointError
from lab.core.parallel.layout import Layout, assign, part_of, whole
from lab.core.runs.atomic_files import folder_atomically, make_folder, remove_partial_folders
from lab.core.runs.tensor_files import write_tensors
from lab.core.train.background import Background
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
        layout: how tensors and optimizer lie in the processes that train them.
    """

    tensors: Mapping[str, Tensor]
    optimizer: Optimizer
    data: Resumable
    step: int = 0
    best_step: int | None = None
    best_loss: float | None = None
    facts: Mapping[str, object] = field(default_factory=dict)
    more_facts: Callable[[], Mapping[str, object]] = dict
    layout: Layout = field(default_factory=Layout)
    _background: Background = field(default_factory=Background, init=False)

    def note_validation(self, loss: float) -> bool:
        """Whether this is the lowest validation loss so far; if so, record it as the best."""
        is_best = self.best_loss is None or loss < self.best_loss
        if is_best:
            self.best_step, self.best_loss = self.step, loss
        return is_best

    def save(self, folder: Path) -> None:
        """Write a checkpoint of this step into `folder`, then remove all others except the best.

        Of several processes, all call this; the first one writes, while the next steps go on: from copies of the state,
        and of `more_facts`, which are those of this moment.

        Raises:
            RunError: if the disk is full or cannot be written; of several processes, `finish_writing` may raise it.
        """
        ranks = self.layout.ranks
        if ranks.size == 1:
            content = {"optimizer": self.optimizer.state_dict(), "data": self.data.state}
            self._write(folder, self.tensors, content, self._meta())
            return
        # every process gives its parts of each tensor
        tensors = {name: _copied(tensor, ranks.is_first) for name, tensor in self.tensors.items()}
        optimizer = _map_tensors(self.optimizer.state_dict(), lambda tensor: _copied(tensor, ranks.is_first))
        if ranks.is_first:
            self.finish_writing()
            content = {"optimizer": optimizer, "data": self.data.state}
            self._background.start(partial(self._write, folder, tensors, content, self._meta()))

    def finish_writing(self) -> None:
        """Wait until the last checkpoint is on disk.

        Raises:
            RunError: if it could not be written.
        """
        self._background.finish()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """A context at whose end nothing is being written any more, however it ends."""
        try:
            yield
        except BaseException:
            self._background.abandon()
            raise
        self.finish_writing()

    def _meta(self) -> dict[str, object]:
        facts = {**self.facts, **self.more_facts()}
        return {"step": self.step, "best_step": self.best_step, "best_loss": self.best_loss, **facts}

    def _write(
        self, folder: Path, tensors: Mapping[str, Tensor], content: Mapping[str, object], meta: Mapping[str, Any]
    ) -> None:
        make_folder(folder)
        with folder_atomically(checkpoint_path(folder, meta["step"])) as partial_folder:
            write_tensors(partial_folder / "model.safetensors", tensors)
            # into an open file, whose errors are those of the disk
            with (partial_folder / "state.pt").open("wb") as file:
                torch.save(content, file)
            write_meta(partial_folder, meta)
        kept = {checkpoint_path(folder, step) for step in (meta["step"], meta["best_step"]) if step is not None}
        for path in checkpoints(folder):
            if path not in kept:
                shutil.rmtree(path)

    def load_newest(self, folder: Path) -> bool:
        """Load the newest checkpoint in `folder` that is whole; False if there is none.

        Raises:
            CheckpointError: if it is damaged, or belongs to other tensors.
        """
        path = self.layout.ranks.of_first(partial(_newest, folder))
        if path is None:
            return False
        meta = read_meta(path)
        load_tensors(path, into=self.tensors)
        try:
            state = torch.load(path / "state.pt", map_location="cpu", weights_only=True)
            self.optimizer.load_state_dict(_laid_out(state["optimizer"], self.optimizer))
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
            assign(tensor, stored[name])


def _newest(folder: Path) -> Path | None:
    remove_partial_folders(folder)
    return newest_whole(checkpoints(folder))


def _copied(tensor: Tensor, is_kept: bool) -> Tensor:
    """A copy of the whole tensor on the CPU, where it is written; elsewhere it is only asked for."""
    complete = whole(tensor.detach())
    return complete.to("cpu", copy=True) if is_kept else complete.new_empty(0)


def _map_tensors(content: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(content, Tensor):
        return change(content)
    if isinstance(content, dict):
        return {key: _map_tensors(value, change) for key, value in content.items()}
    return [_map_tensors(value, change) for value in content] if isinstance(content, list) else content


def _laid_out(state: Mapping[str, Any], optimizer: Optimizer) -> dict[str, Any]:
    """The state of an optimizer, with what has the shape of a trained tensor cut into parts as that is."""
    trained = [each for group in optimizer.param_groups for each in group["params"]]

    def like(tensor: Tensor, value: Tensor) -> Tensor:
        return part_of(tensor, value) if value.shape == tensor.shape else value

    moments = {place: _map_tensors(values, partial(like, trained[place])) for place, values in state["state"].items()}
    return {**state, "state": moments}
