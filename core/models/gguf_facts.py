"""What a GGUF file says that transformers leaves aside: how its rotary embedding is scaled, which tokens end a turn."""

# Letters: Q channels of a head that turn.

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from lab.core.errors import CheckpointError
from lab.core.models.gguf_rotary import rope_scaling

DIVISORS = "rope_freqs.weight"
_ARCHITECTURE, _TOKENIZER = "general.architecture", "tokenizer.ggml."
_ENDS = ("eos_token_id", "eot_token_id", "eom_token_id")
# how the package gguf marks a list among the types of a key
_ARRAY = "ARRAY"


@dataclass(frozen=True, slots=True)
class GgufFacts:
    """Of one file.

    Attributes:
        architecture: as llama.cpp calls it.
        keys: single numbers and texts of the architecture, without its name in front.
        ends: ids at which answers end.
        tensors: their names.
        divisors: of the frequencies of the rotary embedding; None where the file has none.
    """

    architecture: str
    keys: Mapping[str, Any]
    ends: frozenset[int]
    tensors: tuple[str, ...]
    divisors: Float64[ndarray, " Q_half"] | None


def facts_of(reader: Any) -> GgufFacts:
    """The facts in a file that a `gguf.GGUFReader` has open; none of them refers to it."""
    architecture = str(_value(reader.fields[_ARCHITECTURE]))
    prefix = f"{architecture}."
    ends = (reader.fields.get(_TOKENIZER + name) for name in _ENDS)
    return GgufFacts(
        architecture=architecture,
        keys={
            key.removeprefix(prefix): _value(field)
            for key, field in reader.fields.items()
            if key.startswith(prefix) and field.types[0].name != _ARRAY
        },
        ends=frozenset(int(_value(field)) for field in ends if field is not None),
        tensors=tuple(tensor.name for tensor in reader.tensors),
        divisors=next(
            (np.array(tensor.data, dtype=np.float64) for tensor in reader.tensors if tensor.name == DIVISORS), None
        ),
    )


def with_scaling(path: Path, content: dict[str, Any], facts: GgufFacts) -> dict[str, Any]:
    """The config.json that transformers makes of a file, with the scaling of its rotary embedding.

    Args:
        path: of the file, for errors.
        content: of the config.json.
        facts: of the file.

    Raises:
        CheckpointError: for a scaling that is not implemented, and heads that turn in part.
    """
    factors = [name for name in facts.tensors if name.startswith("rope_") and name != DIVISORS]
    if factors:
        raise CheckpointError(
            f"{path} holds {factors[0]}, which is not implemented; give the folder that it was made of"
        )
    width, turning = facts.keys.get("attention.key_length"), facts.keys.get("rope.dimension_count")
    if width is None and "attention.head_count" in facts.keys:
        width = facts.keys["embedding_length"] // facts.keys["attention.head_count"]
    if turning and width and turning != width:
        raise CheckpointError(
            f"{path}: rope.dimension_count={turning} of {width} channels of a head is not implemented, only all; give "
            "the folder that the file was made of"
        )
    parameters = content.get("rope_parameters") or {"rope_theta": content.get("rope_theta")}
    theta = parameters.get("rope_theta") or facts.keys.get("rope.freq_base") or 1e4
    scaling = rope_scaling(path, facts.keys, facts.divisors, theta=float(theta))
    return {**content, "rope_parameters": {"rope_theta": theta, **scaling}} if scaling else content


def _value(field: Any) -> Any:
    """Of a key that is no list."""
    part = field.parts[field.data[0]]
    return bytes(part).decode("utf-8", errors="replace") if field.types[0].name == "STRING" else part.tolist()[0]
