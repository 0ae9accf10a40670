"""The rotary embedding in public config.json files: read and written."""

from collections.abc import Collection, Mapping
from typing import Any

from lab.core.errors import ConfigError
from lab.core.mixers.rotary import RotaryConfig, RotaryKind, yarn_scale
from lab.core.models.hf_config import Section

_KINDS = {"default": RotaryKind.plain} | {kind.value: kind for kind in RotaryKind if kind is not RotaryKind.plain}
_ORIGINAL = "original_max_position_embeddings"
# keys of rope_parameters (rope_scaling in older files) by the kinds that read them; every kind may have _ANY
_ANY = {"type", "rope_type", "rope_theta", "partial_rotary_factor"}
_KEYS: dict[RotaryKind, set[str]] = {
    RotaryKind.plain: {"factor"},
    RotaryKind.linear: {"factor"},
    RotaryKind.dynamic: {"factor"},
    RotaryKind.llama3: {"factor", "low_freq_factor", "high_freq_factor", _ORIGINAL},
    RotaryKind.yarn: {
        *("factor", "attention_factor", "beta_fast", "beta_slow", "truncate", "mscale", "mscale_all_dim"),
        _ORIGINAL,
    },
    RotaryKind.longrope: {"factor", "attention_factor", "short_factor", "long_factor", _ORIGINAL},
}


def read_rotary(
    section: Section,
    *,
    theta: float = 10000.0,
    original_length: int | None = None,
    has_fraction: bool = False,
    aliases: Mapping[str, str] | None = None,
    kinds: Collection[RotaryKind] = tuple(RotaryKind),
) -> RotaryConfig:
    """rope_theta beside rope_scaling, or both in rope_parameters as transformers 5 writes them.

    Args:
        section: of the decoder.
        theta: where the file has none.
        original_length: of an extended context, where the file has none.
        has_fraction: whether the family knows `partial_rotary_factor`.
        aliases: other names of kinds.
        kinds: those that the family knows.

    Raises:
        ConfigError: naming the key that is missing, of a wrong type or not implemented, and its value.
    """
    name = "rope_parameters" if section.has("rope_parameters") else "rope_scaling"
    scaling = section.section(name) if section.has(name) else Section({}, f"{section.prefix}{name}.")
    written = scaling.content.get("rope_type") or scaling.content.get("type") or "default"
    kind = _KINDS.get((aliases or {}).get(written, written)) if isinstance(written, str) else None
    if kind is None or kind not in kinds:
        known = ", ".join(name for name, kind in _KINDS.items() if kind in kinds)
        raise ConfigError(f"{scaling.prefix}type={written} is not implemented, only {known}")
    for key in scaling.content.keys() - _ANY - _KEYS[kind]:
        scaling.accept_only(**{key: None})
    if not has_fraction:
        section.accept_only(partial_rotary_factor=1)
        scaling.accept_only(partial_rotary_factor=1)
    longest = section.whole("max_position_embeddings")
    fields: dict[str, Any] = {
        "theta": _first("rope_theta", scaling, section, default=theta),
        "max_length": longest,
        "kind": kind,
        "fraction": _first("partial_rotary_factor", scaling, section, default=1.0),
    }
    if kind in (RotaryKind.linear, RotaryKind.dynamic):
        fields["factor"] = scaling.number("factor")
    elif kind is not RotaryKind.plain:
        where = section if section.has(_ORIGINAL) else scaling
        original = where.whole(_ORIGINAL, default=original_length or longest)
        factor = scaling.number("factor", default=max(1.0, longest / original))
        fields |= {"original_length": original, "factor": factor}
    if kind is RotaryKind.llama3:
        fields |= {key: scaling.number(key) for key in ("low_freq_factor", "high_freq_factor")}
    elif kind is RotaryKind.yarn:
        fields["beta_fast"] = scaling.number("beta_fast", default=32.0)
        fields["beta_slow"] = scaling.number("beta_slow", default=1.0)
        fields["truncate"] = scaling.flag("truncate", default=True)
        fields["attention_factor"] = _yarn_attention_factor(scaling, fields["factor"])
    elif kind is RotaryKind.longrope:
        fields["short_factors"] = _numbers(scaling, "short_factor")
        fields["long_factors"] = _numbers(scaling, "long_factor")
        if scaling.has("attention_factor"):
            fields["attention_factor"] = scaling.number("attention_factor")
    return RotaryConfig(**fields)


def rotary_json(rotary: RotaryConfig, *, kind_key: str = "rope_type") -> dict[str, Any]:
    """The keys that `read_rotary` reads; files of before 2024 call the kind `type`."""
    kind = next(name for name, kind in _KINDS.items() if kind is rotary.kind)
    values = {
        kind_key: kind,
        "factor": rotary.factor,
        _ORIGINAL: rotary.original_length,
        "low_freq_factor": rotary.low_freq_factor,
        "high_freq_factor": rotary.high_freq_factor,
        "attention_factor": rotary.attention_factor,
        "beta_fast": rotary.beta_fast,
        "beta_slow": rotary.beta_slow,
        "truncate": rotary.truncate,
        "short_factor": rotary.short_factors,
        "long_factor": rotary.long_factors,
    }
    known = {kind_key, *_KEYS[rotary.kind]}
    scaling = {key: value for key, value in values.items() if key in known and value is not None}
    return {
        "max_position_embeddings": rotary.max_length,
        "rope_theta": rotary.theta,
        "rope_scaling": None if rotary.kind is RotaryKind.plain else scaling,
    }


def _first(key: str, *sections: Section, default: float) -> float:
    """The number in the first section that has the key."""
    for section in sections:
        if section.has(key):
            return section.number(key)
    return default


def _numbers(section: Section, key: str) -> list[float]:
    values = section.content.get(key)
    if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
        raise ConfigError(f"{section.prefix}{key}={values} must be a list of numbers")
    return [float(value) for value in values]


def _yarn_attention_factor(scaling: Section, factor: float) -> float | None:
    """What the file says, or DeepSeek's ratio of two scales (mscale); None for the formula of YaRN's paper."""
    if scaling.has("attention_factor"):
        return scaling.number("attention_factor")
    if not scaling.content.get("mscale") or not scaling.content.get("mscale_all_dim"):
        return None
    scales = [yarn_scale(factor, scaling.number(key)) for key in ("mscale", "mscale_all_dim")]
    return scales[0] / scales[1]
