"""GGUF files: written aside, read back, compared with what they were made of, and then put in their place."""

from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from lab.core.errors import CheckpointError
from lab.core.models.gguf_header import parsed_once
from lab.core.optional_packages import load_package
from lab.core.runs.atomic_files import path_atomically
from lab.core.stock.gguf_granitehybrid import Value

Array = npt.NDArray[np.float32]
Tensors = Callable[[], Iterator[tuple[str, Tensor]]]
# what needs gguf
FORMAT = "--format gguf"
# of each block of 32 numbers the largest is 127 steps; the step itself is rounded to 11 bits
_BLOCK, _OF_Q8_0 = 32, 0.5 / 127 + 2.0**-10
# half the last bit of float16, and half its smallest number
_OF_F16, _LEAST_F16 = 2.0**-11, 2.0**-25


class GgufPrecision(Enum):
    """How the matrices of a GGUF file are stored; norms, convolutions and decay rates are always F32."""

    F32 = "F32"
    F16 = "F16"
    Q8_0 = "Q8_0"
    """Blocks of 32 numbers of 8 bits with one scale; matrices whose row length is not a multiple of 32 stay F16."""


def stored_as(name: str, shape: tuple[int, ...], precision: GgufPrecision) -> GgufPrecision:
    """How a tensor is stored: llama.cpp's loops read vectors, norms, convolutions and decay rates in F32 only."""
    is_small = len(shape) == 1 or name.endswith(("norm.weight", "ssm_conv1d.weight", "ssm_a", "ssm_d"))
    if is_small or precision is GgufPrecision.F32:
        return GgufPrecision.F32
    return GgufPrecision.F16 if shape[-1] % _BLOCK else precision


def write_gguf(
    path: Path, architecture: str, keys: Mapping[str, Value], tensors: Tensors, precision: GgufPrecision
) -> dict[str, GgufPrecision]:
    """Write a file that is complete, and holds what it was made of, or absent; how each of its tensors is stored.

    Args:
        path: of the file.
        architecture: as llama.cpp calls it.
        keys: the metadata.
        tensors: gives every tensor in float32 by name, each time that it is called.
        precision: of the matrices.

    Raises:
        BackendError: if gguf is not installed.
        CheckpointError: if the file exists once it is whole, or does not hold them, since numbers are too large for the
            precision, say.
        RunError: if the disk is full or cannot be written.
    """
    gguf = load_package("gguf", needed_by=FORMAT)
    with path_atomically(path) as partial:
        _write(gguf, partial, architecture, keys, tensors, precision)
        difference = _difference(gguf, partial, keys, tensors, precision)
        if difference is not None:
            raise CheckpointError(f"{path}: {difference}; nothing was written")
        # another one may have been put there meanwhile
        if path.exists():
            raise CheckpointError(f"{path} exists; give a name that does not, or remove it")
    return {name: stored_as(name, tuple(tensor.shape), precision) for name, tensor in tensors()}


def keys_in(path: Path, prefix: str) -> dict[str, Value]:
    """The metadata of a GGUF file whose names begin with a prefix.

    Raises:
        BackendError: if gguf is not installed.
        CheckpointError: if the file is damaged.
    """
    gguf = load_package("gguf", needed_by=FORMAT)
    try:
        with parsed_once(gguf):
            fields = gguf.GGUFReader(path).fields
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise CheckpointError(f"{path} cannot be read as GGUF: {error}") from error
    return {name: _value_of(gguf, field) for name, field in fields.items() if name.startswith(prefix)}


def _write(
    gguf: Any,
    path: Path,
    architecture: str,
    keys: Mapping[str, Value],
    tensors: Tensors,
    precision: GgufPrecision,
) -> None:
    writer = gguf.GGUFWriter(path, architecture)
    try:
        for name, value in keys.items():
            _add(writer, name, value)
        for name, tensor in tensors():
            kind = _kind(gguf, name, tensor, precision)
            block, size = gguf.GGML_QUANT_SIZES[kind]
            num_bytes = tensor.numel() // block * size
            writer.add_tensor_info(name, tuple(tensor.shape), np.dtype(np.float32), num_bytes, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, tensor in tensors():
            writer.write_tensor_data(_packed(gguf, name, tensor, precision))
    finally:
        writer.close()


def _add(writer: Any, name: str, value: Value) -> None:
    if isinstance(value, bool):
        writer.add_bool(name, value)
    elif isinstance(value, int):
        # such as a padding token that is not set, and a length beyond 32 bits
        add = writer.add_int32 if value < 0 else writer.add_uint64 if value >= 2**32 else writer.add_uint32
        add(name, value)
    elif isinstance(value, float):
        writer.add_float32(name, value)
    elif isinstance(value, str):
        writer.add_string(name, value)
    else:
        writer.add_array(name, list(value))


def _kind(gguf: Any, name: str, tensor: Tensor, precision: GgufPrecision) -> Any:
    return gguf.GGMLQuantizationType[stored_as(name, tuple(tensor.shape), precision).value]


def _packed(gguf: Any, name: str, tensor: Tensor, precision: GgufPrecision) -> npt.NDArray[Any]:
    # what is too large for a precision becomes infinite, which the comparison finds
    with np.errstate(over="ignore", invalid="ignore"):
        packed = gguf.quants.quantize(tensor.numpy(), _kind(gguf, name, tensor, precision))
    return np.ascontiguousarray(packed)


def _difference(
    gguf: Any, path: Path, keys: Mapping[str, Value], tensors: Tensors, precision: GgufPrecision
) -> str | None:
    """What a file holds in another way than what it was made of, in words; None if nothing."""
    reader = gguf.GGUFReader(path)
    for name, value in keys.items():
        found = _value_of(gguf, reader.fields[name]) if name in reader.fields else None
        expected = np.float32(value) if isinstance(value, float) else value
        if found != expected and not (value in ("", []) and found is None):
            return f"its key {name} reads {_shortened(found)} instead of {_shortened(value)}"
    held = {tensor.name: tensor for tensor in reader.tensors}
    for name, tensor in tensors():
        found = held.pop(name, None)
        if found is None or tuple(reversed(found.shape.tolist())) != tuple(tensor.shape):
            return f"it has no {name} of shape {tuple(tensor.shape)}"
        numbers = gguf.quants.dequantize(found.data, found.tensor_type).reshape(tensor.shape)
        allowed = _rounding(tensor.numpy(), stored_as(name, tuple(tensor.shape), precision))
        off = np.abs(numbers - tensor.numpy())
        # NaN is not allowed
        if not np.all(off <= allowed):
            return f"{name} as {found.tensor_type.name} is off by {float(np.max(off)):.3g}; --precision F32 would do"
    return f"it holds {next(iter(held))}, which the student does not have" if held else None


def _rounding(numbers: Array, precision: GgufPrecision) -> Array | float:
    """How far a stored number may be from the one that it stands for."""
    if precision is GgufPrecision.F32:
        return 0.0
    if precision is GgufPrecision.F16:
        return np.maximum(_OF_F16 * np.abs(numbers), _LEAST_F16)
    largest = np.abs(numbers.reshape(-1, _BLOCK)).max(axis=1, keepdims=True)
    limits = _OF_Q8_0 * largest + 128 * _LEAST_F16
    return np.broadcast_to(limits, (len(limits), _BLOCK)).reshape(numbers.shape)


def _value_of(gguf: Any, field: Any) -> Any:
    """The value of a key, as `_add` takes it."""
    kind, parts = field.types[0], [field.parts[place] for place in field.data]
    if field.types[-1] is gguf.GGUFValueType.STRING:
        texts = [bytes(part).decode("utf-8") for part in parts]
        return texts if kind is gguf.GGUFValueType.ARRAY else texts[0]
    numbers = [part.item() for part in parts]
    return numbers if kind is gguf.GGUFValueType.ARRAY else numbers[0]


def _shortened(value: object) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:40]}..."
