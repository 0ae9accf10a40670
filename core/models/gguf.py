"""GGUF files, the format of llama.cpp, through transformers."""

import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lab.core.data.jinja_chat import special_tokens
from lab.core.errors import CheckpointError
from lab.core.models.gguf_facts import DIVISORS, GgufFacts, facts_of, with_scaling
from lab.core.models.gguf_header import forget_header, parsed_once, version_of
from lab.core.models.hf_config import Json
from lab.core.optional_packages import load_package
from lab.core.silent_transformers import silent

# keys that transformers adds: how the file was packed, and where it was read
_OF_READING = {"quantization_config", "_name_or_path"}
# what a student is written as
_OF_STUDENTS = "granitehybrid"
# bytes of magic, version and two counts; enough of a file for its first key; and how a text is marked
_HEADER, _START, _STRING = 24, 256, 8
# files whose configuration and tokenizer are kept
_KEPT = 2


def read_gguf_config(path: Path) -> Json:
    """The config.json that transformers makes of a GGUF file; its weights are not read.

    Raises:
        BackendError: if transformers, accelerate or gguf is not installed.
        CheckpointError: if the file is missing, damaged, or of a family that transformers cannot read.
    """
    _load_transformers(path)
    return deepcopy(_config(path, version_of(path)))


# commands look at a model several times before they load it
@lru_cache(maxsize=_KEPT)
def _config(path: Path, version: tuple[int, ...]) -> Json:
    transformers = _load_transformers(path)
    with _alone(path) as folder, silent(transformers):
        found = transformers.AutoConfig.from_pretrained(folder, gguf_file=path.name, local_files_only=True)
    content = {key: value for key, value in found.to_dict().items() if key not in _OF_READING}
    return _as_written(with_scaling(path, content, _facts(path, version)))


def read_gguf_ends(path: Path) -> frozenset[int]:
    """The ids that a GGUF file calls the end of a text, of a turn and of a message.

    Raises:
        BackendError: as `read_gguf_config`.
        CheckpointError: as `read_gguf_config`.
    """
    _load_transformers(path)
    return _facts(path, version_of(path)).ends


@lru_cache(maxsize=_KEPT)
def _facts(path: Path, version: tuple[int, ...]) -> GgufFacts:
    with _alone(path) as folder:
        return facts_of(import_module("gguf").GGUFReader(folder / path.name))


def read_gguf_tensors(path: Path) -> Mapping[str, Tensor]:
    """The dequantised tensors that transformers makes of a GGUF file, in float32.

    Raises:
        BackendError: as `read_gguf_config`.
        CheckpointError: as `read_gguf_config`, and if the file lacks a tensor.
    """
    transformers = _load_transformers(path)
    # where it exists, it must be told not to keep the packed blocks; before, it never did
    options = {}
    if hasattr(transformers, "GgufConfig"):
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    try:
        with _alone(path) as folder, silent(transformers):
            model, loading = transformers.AutoModelForCausalLM.from_pretrained(
                folder,
                gguf_file=path.name,
                dtype=torch.float32,
                local_files_only=True,
                output_loading_info=True,
                **options,
            )
            _refuse_unread(path, model, import_module("gguf").GGUFReader(folder / path.name))
    finally:
        # what comes before weights is known by now
        forget_header()
    # transformers draws what a file lacks at random
    for name in ("missing_keys", "mismatched_keys"):
        if loading[name]:
            raise CheckpointError(f"{path} is not whole: {name} {_first(loading[name])}; fetch the file again")
    return model.state_dict()


def _refuse_unread(path: Path, model: Any, reader: Any) -> None:
    """Refuse tensors that transformers leaves out of a model without a word, such as biases that its class has not."""
    gguf = import_module("gguf")
    facts = facts_of(reader)
    architecture = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == facts.architecture)
    known = gguf.get_tensor_name_map(architecture, facts.keys["block_count"])
    read = {known.get_name(name, try_suffixes=(".weight", ".bias")) for name in model.state_dict()}
    unread = {name for name in facts.tensors if name not in read and name != DIVISORS}
    if unread:
        raise CheckpointError(
            f"{path} holds {_first(unread)}, which transformers has no place for in this architecture; give the folder "
            "that the file was made of"
        )


def _first(keys: Iterable[object]) -> str:
    """Some of them, and how many there are."""
    names = sorted(str(key) for key in keys)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _as_written(value: Any) -> Any:
    """A configuration with the numbers that were written: the file has 1e-5 in float32, which is 9.99999974738e-06."""
    if isinstance(value, dict):
        return {key: _as_written(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_as_written(each) for each in value]
    return float(str(np.float32(value))) if isinstance(value, float) and value == np.float32(value) else value


def read_gguf_tokenizer(path: Path) -> tuple[Any, str | None, tuple[tuple[str, str], ...]]:
    """What transformers makes of a GGUF file: its tokenizer, its chat template, and the names of special tokens.

    The tokenizer is an object of the library tokenizers.

    Raises:
        BackendError: if transformers, accelerate or gguf is not installed.
        CheckpointError: if the file is missing, damaged, or holds no tokenizer that transformers can read.
    """
    made = _open_tokenizer(path)
    template = made.chat_template
    if isinstance(template, dict):
        template = template.get("default")
    return made.backend_tokenizer, template, special_tokens(made.special_tokens_map)


def write_gguf_tokenizer(path: Path, folder: Path) -> None:
    """Write the tokenizer of a GGUF file as transformers does: `tokenizer.json`, its settings and chat template.

    Raises:
        BackendError: as `read_gguf_tokenizer`.
        CheckpointError: as `read_gguf_tokenizer`.
    """
    _open_tokenizer(path).save_pretrained(folder)


def _open_tokenizer(path: Path) -> Any:
    _load_transformers(path)
    return _tokenizer(path, version_of(path))


@lru_cache(maxsize=_KEPT)
def _tokenizer(path: Path, version: tuple[int, ...]) -> Any:
    transformers = _load_transformers(path)
    with _alone(path) as folder, silent(transformers):
        return transformers.AutoTokenizer.from_pretrained(folder, gguf_file=path.name, local_files_only=True)


def _load_transformers(path: Path) -> Any:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; give a GGUF file")
    if _architecture(path) == _OF_STUDENTS:
        raise CheckpointError(
            f"{path} is a {_OF_STUDENTS}, which llama.cpp runs (llama-cli -m {path.name}) and lab does not read; give "
            "the run that it was exported from, or a folder"
        )
    # transformers reads GGUF only beside these two
    return load_package("transformers", "accelerate", "gguf", needed_by=path)


def _architecture(path: Path) -> str | None:
    """The architecture that a GGUF file names first, as llama.cpp's files do; None if it does not."""
    with path.open("rb") as file:
        start = file.read(_START)
    try:
        size = int.from_bytes(start[_HEADER : _HEADER + 8], "little")
        name, rest = start[_HEADER + 8 : _HEADER + 8 + size], start[_HEADER + 8 + size :]
        kind, length = struct.unpack_from("<IQ", rest)
    except struct.error:
        return None
    if name != b"general.architecture" or kind != _STRING:
        return None
    return rest[12 : 12 + length].decode("utf-8", errors="replace")


@contextmanager
def _alone(path: Path) -> Iterator[Path]:
    """A folder with nothing but the file, and what transformers says of a file that it cannot read in a line.

    transformers prefers a tokenizer.json or config.json beside a GGUF file, whichever model they belong to.
    """
    with TemporaryDirectory() as folder:
        (Path(folder) / path.name).symlink_to(path.resolve())
        try:
            with parsed_once(import_module("gguf")):
                yield Path(folder)
        except (OSError, ValueError, RuntimeError, KeyError, struct.error) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            reason = reason.replace(folder, str(path.parent))
            raise CheckpointError(f"{path} cannot be read as GGUF: {reason}") from error
