"""Checkpoint folders: config.json beside safetensors, in one file or in shards with an index; ours with SHA256SUMS."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from lab.core.errors import CheckpointError
from lab.core.models.hf_config import load_json
from lab.core.models.tensor_names import KeyMap
from lab.core.runs.atomic_files import as_run_error, folder_atomically
from lab.core.runs.json_files import write_json
from lab.core.runs.sums import write_sums
from lab.core.runs.tensor_files import write_tensors
from lab.core.streams import say_once

ONE_FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
CONFIG = "config.json"
MAX_SHARD_BYTES = 5 * 10**9


class StoredTensors(Mapping[str, Tensor]):
    """The tensors of a checkpoint folder by name; each is read from the disk when it is asked for."""

    def __init__(self, folder: Path, rename: Callable[[str], str] | None = None) -> None:
        """Open every file.

        Args:
            folder: of the checkpoint.
            rename: a name in the files to the one that it is asked for by; None where they are the same.

        Raises:
            CheckpointError: if a file is missing or damaged, or the index does not fit the files.
        """
        indexed = None if _is_one_file(folder) else _read_index(folder)
        self._files = {
            path: _open(path) for path in sorted({folder / ONE_FILE} if indexed is None else {*indexed.values()})
        }
        if indexed is None:
            indexed = dict.fromkeys(self._files[folder / ONE_FILE].keys(), folder / ONE_FILE)
        held = {path: set(file.keys()) for path, file in self._files.items()}
        for name, path in indexed.items():
            if name not in held[path]:
                raise CheckpointError(f"{path} lacks {name}, which {INDEX} says it holds; copy the checkpoint again")
        self._places = {name if rename is None else rename(name): (path, name) for name, path in indexed.items()}

    def __getitem__(self, name: str) -> Tensor:
        path, in_file = self._places[name]
        return self._files[path].get_tensor(in_file)

    def described(self, name: str) -> tuple[tuple[int, ...], str]:
        """Shape and dtype of a tensor, the latter as safetensors writes it, from the header of its file."""
        path, in_file = self._places[name]
        entry = self._files[path].get_slice(in_file)
        return tuple(entry.get_shape()), entry.get_dtype()

    def rows(self, name: str, rows: slice | None) -> Tensor:
        """A copy of some rows of a tensor, or of all; the file is closed again, so none of it stays mapped into memory.

        Args:
            name: of the tensor.
            rows: along its first dimension; None for all.

        Raises:
            CheckpointError: if the file is gone or damaged by now.
        """
        path, in_file = self._places[name]
        with _open(path) as file:
            entry = file.get_slice(in_file)
            return cast("Tensor", entry[:] if rows is None else entry[rows]).clone()

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def load_weights(
    model: nn.Module,
    keys: KeyMap,
    stored: Mapping[str, Tensor],
    *,
    source: Path,
    device: torch.device,
    dtype: torch.dtype,
    keeps_wider: bool = False,
) -> None:
    """Give a model, built on the meta device, the weights of a checkpoint.

    Args:
        model: its parameters say which shapes are expected.
        keys: where each tensor belongs.
        stored: tensors by public name.
        source: named in errors.
        device: of the weights.
        dtype: of the weights.
        keeps_wider: whether those that are stored in a wider dtype keep it.

    Raises:
        CheckpointError: naming the first tensor that is missing, unknown, of a wrong shape, no floats or not finite.
    """
    expected = expected_shapes(model, keys, stored, source=source)

    def checked(name: str) -> Tensor:
        tensor = stored[name]
        # numbers of a byte mean nothing without the scales that are kept beside them
        is_floating = tensor.is_floating_point() and tensor.dtype.itemsize > 1
        refuse_another_kind(source, name, tuple(tensor.shape), expected[name], tensor.dtype, is_floating)
        refuse_not_finite(source, name, tensor)
        # copied: what safetensors gives is the file itself, mapped into memory
        ours = torch.promote_types(dtype, tensor.dtype) if keeps_wider else dtype
        return tensor.to(device=device, dtype=ours, copy=True)

    model.load_state_dict(keys.to_ours(checked), assign=True)


def expected_shapes(
    model: nn.Module, keys: KeyMap, stored: Iterable[str], *, source: Path
) -> dict[str, tuple[int, ...]]:
    """The tensors that a checkpoint of a model must have, with their shapes.

    Args:
        model: as for `load_weights`.
        keys: where each tensor belongs.
        stored: the names that it has.
        source: named in errors.

    Raises:
        CheckpointError: naming the first tensor that is missing or unknown.
    """
    expected = {name: tuple(tensor.shape) for name, tensor in keys.to_public(model.state_dict()).items()}
    found = list(stored)
    missing = expected.keys() - set(found)
    for name in expected:
        if name in missing:
            raise CheckpointError(f"{source} lacks {name}; the checkpoint is incomplete, copy it again")
    for name in found:
        if name not in expected and not name.endswith(keys.ignored):
            raise CheckpointError(
                f"{source} holds {name}, which {CONFIG} has no place for; the two do not belong together"
            )
    return expected


def refuse_another_kind(
    source: Path, name: str, shape: tuple[int, ...], expected: tuple[int, ...], dtype: object, is_floating: bool
) -> None:
    """Refuse a tensor of a wrong shape, or of no floats.

    Raises:
        CheckpointError: naming it.
    """
    if shape != expected:
        raise CheckpointError(
            f"{source}: {name} has shape {shape} but {CONFIG} makes it {expected}; the two do not belong together"
        )
    if not is_floating:
        raise CheckpointError(f"{source}: {name} has dtype {dtype}; quantised weights are not implemented")


def refuse_not_finite(source: Path, name: str, tensor: Tensor) -> None:
    """Refuse numbers that none has trained.

    Raises:
        CheckpointError: naming the tensor.
    """
    if not torch.isfinite(tensor).all():
        raise CheckpointError(f"{source}: {name} holds NaN or infinity; the checkpoint is damaged, copy it again")


def write_checkpoint(
    folder: Path,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, Any],
    *,
    carried: Sequence[Path] = (),
    write_more: Callable[[Path], None] | None = None,
    replace: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write tensors under their public names, config.json and SHA256SUMS into a folder that is complete or absent.

    Args:
        folder: must not exist or be empty, unless `replace`.
        tensors: by public name.
        config: what config.json holds.
        carried: files that are copied beside them.
        write_more: writes other files into the folder that it gets, such as a tokenizer's.
        replace: whether a folder that is in use is replaced, by a rename once the new one is complete.
        max_shard_bytes: above it the tensors go into several files, with an index.

    Raises:
        CheckpointError: if the folder is in use.
        RunError: if the disk is full or cannot be written.
    """
    _refuse_in_use(folder, replace=replace)
    shards = _split(tensors, max_shard_bytes)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise as_run_error(error, folder) from error
    with folder_atomically(folder) as partial:
        files = [ONE_FILE]
        if len(shards) > 1:
            files = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
            weight_map = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
            total = sum(tensor.nbytes for tensor in tensors.values())
            write_json(partial / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
        for file, shard in zip(files, shards, strict=True):
            write_tensors(partial / file, shard, metadata={"format": "pt"})
        write_json(partial / CONFIG, config)
        for path in carried:
            shutil.copyfile(path, partial / path.name)
        if write_more is not None:
            write_more(partial)
        write_sums(partial)
        # another one may have been put there meanwhile
        _refuse_in_use(folder, replace=replace)


def _refuse_in_use(folder: Path, *, replace: bool) -> None:
    is_used = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if is_used and not (replace and folder.is_dir()):
        raise CheckpointError(f"{folder} exists; give a folder that does not, or remove it")


def _is_one_file(folder: Path) -> bool:
    """Whether a folder has the tensors in one file, which transformers prefers to shards beside it."""
    is_one = (folder / ONE_FILE).is_file()
    if is_one and (folder / INDEX).exists():
        say_once(
            f"{folder} has both {ONE_FILE}, which is read, and {INDEX}, whose files are left; remove one of the two"
        )
    return is_one


def _read_index(folder: Path) -> dict[str, Path] | None:
    """The file of each tensor; None if there is no index."""
    if not (folder / INDEX).exists():
        return None
    weight_map = load_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{folder / INDEX} has no weight_map; copy the checkpoint again")
    for name, file in weight_map.items():
        if not isinstance(file, str) or not file or Path(file).name != file:
            raise CheckpointError(
                f"{folder / INDEX} says that {name} is in {file!r}; give the name of a file beside it"
            )
        if not (folder / file).is_file():
            raise CheckpointError(f"{folder / file} is missing, though {INDEX} names it; copy the checkpoint again")
    return {name: folder / file for name, file in weight_map.items()}


def _open(path: Path) -> Any:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing and there is no {INDEX}; give the folder of a checkpoint")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is cut off or no safetensors file ({error}); copy it again") from error


def _split(tensors: Mapping[str, Tensor], max_bytes: int) -> list[dict[str, Tensor]]:
    """Tensors in order, a new shard whenever the next one would overflow the current."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > max_bytes:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    return shards
