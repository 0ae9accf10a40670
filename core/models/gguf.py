"""GGUF files, the format of llama.cpp, through transformers."""

import struct
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lab.core.data.jinja_chat import special_tokens
from lab.core.errors import CheckpointError
from lab.core.models.hf_config import Json
from lab.core.optional_packages import load_package

# what a student is written as
_OF_STUDENTS = "granitehybrid"
# bytes of magic, version and two counts; enough of a file for its first key; and how a text is marked
_HEADER, _START, _STRING = 24, 256, 8


def read_gguf(path: Path) -> tuple[Json, Mapping[str, Tensor]]:
    """The config.json and the dequantised tensors that transformers makes of a GGUF file.

    Raises:
        BackendError: if transformers, accelerate or gguf is not installed.
        CheckpointError: if the file is missing, damaged or of a family that transformers cannot read.
    """
    transformers = _load_transformers(path)
    # where it exists, it must be told not to keep the packed blocks; before, it never did
    options = {}
    if hasattr(transformers, "GgufConfig"):
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    with _one_line(path), _alone(path) as folder:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=path.name, dtype=torch.float32, local_files_only=True, **options
        )
    # what is left of it says how the file was packed
    content = {key: value for key, value in model.config.to_dict().items() if key != "quantization_config"}
    return content, model.state_dict()


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
    transformers = _load_transformers(path)
    with _one_line(path), _alone(path) as folder:
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
    """A folder with the file and nothing else: a tokenizer.json beside it would be read in the place of its own."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / path.name).symlink_to(path.resolve())
        yield Path(folder)


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    """What transformers says of a file that it cannot read, in a line."""
    try:
        yield
    except (OSError, ValueError, RuntimeError, KeyError, struct.error) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} cannot be read as GGUF: {reason}") from error
