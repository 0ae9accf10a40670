"""The scaling of a rotary embedding in a GGUF file, which transformers leaves aside, as config.json has it."""

# Letters: Q channels of a head that turn.

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from lab.core.errors import CheckpointError, ConfigError
from lab.core.mixers.rotary import Rotary, RotaryConfig, RotaryKind

_SCALING = "rope.scaling."
_ORIGINAL = "original_max_position_embeddings"
_YARN = {"original_context_length": _ORIGINAL, "yarn_beta_fast": "beta_fast", "yarn_beta_slow": "beta_slow"}
# keys that change the angles, with the value at which they do not
_NEUTRAL = {"attn_factor": 1, "yarn_attn_factor": 1, "yarn_ext_factor": 1, "yarn_log_multiplier": 0, "alpha": 0}
# of files from before llama.cpp had kinds of scaling
_OLD_FACTOR = "rope.scale_linear"
# Meta's numbers for Llama 3.1, 3.2 and 3.3: the original length, and the two bounds of the turns in it
_PUBLISHED = (8192, 1.0, 4.0)
# of divisors, which a file has in float32
_TOLERANCE = 1e-4
_INSTEAD = "give the folder that the file was made of"


def rope_scaling(
    path: Path, keys: Mapping[str, Any], divisors: Float64[ndarray, " Q_half"] | None, *, theta: float
) -> dict[str, Any]:
    """What `rope_parameters` of config.json holds besides the base; empty for a plain embedding.

    Args:
        path: of the file, for errors.
        keys: of the file, without its architecture in front.
        divisors: of the frequencies, its tensor `rope_freqs.weight`; None where it has none.
        theta: base of the frequencies.

    Raises:
        CheckpointError: for a scaling that is not implemented, naming the key or the tensor.
    """
    scaling = _scaling(path, keys)
    if divisors is None or np.all(divisors == 1):
        return scaling
    if scaling:
        raise CheckpointError(
            f"{path} has both rope_freqs.weight and {_SCALING}type={scaling['rope_type']}; {_INSTEAD}"
        )
    return _llama3(path, divisors, theta)


def _scaling(path: Path, keys: Mapping[str, Any]) -> dict[str, Any]:
    """As llama.cpp reads the keys: a factor without a kind is a linear one."""
    kind = keys.get(f"{_SCALING}type", "linear")
    factor = float(keys.get(f"{_SCALING}factor", keys.get(_OLD_FACTOR, 0))) or 1.0
    if kind not in ("none", "linear", "yarn"):
        raise CheckpointError(f"{path}: {_SCALING}type={kind} is not implemented, only linear and yarn; {_INSTEAD}")
    for key, neutral in _NEUTRAL.items():
        value = keys.get(_SCALING + key, neutral)
        if value != neutral and kind != "none":
            raise CheckpointError(f"{path}: {_SCALING}{key}={value} is not implemented, only {neutral}; {_INSTEAD}")
    if kind == "none" or factor == 1:
        return {}
    scaling = {"rope_type": kind, "factor": factor}
    if kind == "yarn":
        scaling[_ORIGINAL] = keys.get("context_length")
        scaling |= {name: keys[_SCALING + key] for key, name in _YARN.items() if keys.get(_SCALING + key)}
    return scaling


def _llama3(path: Path, divisors: Float64[ndarray, " Q_half"], theta: float) -> dict[str, Any]:
    """The numbers of llama3 whose divisors these are.

    Between the bounds, the share of a frequency that stays is linear in it, with two numbers for the original length
    and both bounds: the same divisors follow from all three times any number. The lower bound is taken as 1, as
    published.
    """
    factor = float(divisors.max())
    turns = theta ** -(np.arange(len(divisors)) / len(divisors)) / (2 * math.pi)
    kept = (1 / divisors - 1 / factor) / (1 - 1 / factor)
    between = (kept > _TOLERANCE) & (kept < 1 - _TOLERANCE)
    found = [_PUBLISHED]
    if between.sum() > 1:
        slope, start = np.polyfit(turns[between], kept[between], 1)
        if slope > 0 > start:
            found.append((round(float(-slope / start)), 1.0, round(float(1 - 1 / start), 3)))
    for original, low, high in found:
        try:
            config = RotaryConfig(
                theta=theta,
                max_length=original,
                kind=RotaryKind.llama3,
                factor=factor,
                original_length=original,
                low_freq_factor=low,
                high_freq_factor=high,
            )
            made = Rotary(config, head_dim=2 * len(divisors)).divisors().numpy()
        except ConfigError:
            continue
        if np.allclose(made, divisors, rtol=_TOLERANCE, atol=0):
            bounds = {"low_freq_factor": low, "high_freq_factor": high}
            return {"rope_type": "llama3", "factor": factor, _ORIGINAL: original, **bounds}
    raise CheckpointError(
        f"{path}: rope_freqs.weight holds divisors of frequencies that no scaling of kind llama3 has; {_INSTEAD}"
    )
