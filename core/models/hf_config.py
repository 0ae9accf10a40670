"""Public config.json files: the parts that families share, read and written.

Public files carry dozens of keys that have nothing to do with the mathematics; they are ignored. A key that would
change the mathematics in a way that is not implemented here is refused by name.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lab.core.errors import CheckpointError, ConfigError
from lab.core.models.config import MOST_LAYERS, DecoderConfig
from lab.core.ranges import LARGEST_COUNT
from lab.core.runs.json_files import read_json_object

Json = Mapping[str, Any]
Config = TypeVar("Config", bound=DecoderConfig)

FULL, SLIDING = "full_attention", "sliding_attention"

# of any number but a count; bases of rotary embeddings are the largest
_LARGEST = 1e15


def load_json(path: Path) -> Json:
    """The object in a JSON file of a checkpoint.

    Raises:
        CheckpointError: if the file is missing, damaged or holds something else.
    """
    hint = "copy the checkpoint again" if path.exists() else "give the folder of a checkpoint"
    return read_json_object(path, hint=hint, error=CheckpointError)


@dataclass(frozen=True, slots=True)
class Section:
    """An object of a config.json; errors give the full name of a key."""

    content: Json
    prefix: str = ""

    def section(self, key: str) -> "Section":
        """An object in this one."""
        value = self.content.get(key)
        if not isinstance(value, dict):
            raise ConfigError(f"{self.prefix}{key}={value} must be an object")
        return Section(value, f"{self.prefix}{key}.")

    def whole(self, key: str, *, at_least: int = 1, at_most: int = LARGEST_COUNT, default: int | None = None) -> int:
        """A whole number."""
        value = self._value(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
            raise ConfigError(f"{self.prefix}{key}={value} must be a whole number of {at_least} or more")
        if value > at_most:
            raise ConfigError(f"{self.prefix}{key}={value} must be at most {at_most}; copy the checkpoint again")
        return value

    def number(self, key: str, *, at_most: float = _LARGEST, default: float | None = None) -> float:
        """A finite number above 0."""
        value = self._value(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
            raise ConfigError(f"{self.prefix}{key}={value} must be a number above 0")
        if value > at_most:
            raise ConfigError(f"{self.prefix}{key}={value} must be at most {at_most:g}; copy the checkpoint again")
        return float(value)

    def flag(self, key: str, *, default: bool = False) -> bool:
        """True or false."""
        value = self._value(key, default)
        if not isinstance(value, bool):
            raise ConfigError(f"{self.prefix}{key}={value} must be true or false")
        return value

    def listed(self, key: str, *, length: int) -> list[Any]:
        """A list of so many values."""
        value = self.content.get(key)
        if not isinstance(value, list) or len(value) != length:
            raise ConfigError(f"{self.prefix}{key}={value} must be a list of {length}")
        return value

    def has(self, key: str) -> bool:
        """Whether the key is there and not null."""
        return self.content.get(key) is not None

    def accept_only(self, **implemented: object) -> None:
        """Refuse a key with another value; a key that is absent or null is what its default is."""
        for key, value in implemented.items():
            if self.has(key) and self.content[key] != value:
                only = "without it" if value is None else f"only {value}"
                raise ConfigError(f"{self.prefix}{key}={self.content[key]} is not implemented, {only}")

    def _value(self, key: str, default: object) -> Any:
        value = self.content.get(key)
        return default if value is None else value


def read_text(kind: type[Config], content: Json, *, tie_output: bool = False, **more: Any) -> Config:
    """The architecture of a decoder of text whose config.json has Llama's keys.

    Args:
        kind: of the family.
        content: of config.json.
        tie_output: where `tie_word_embeddings` is absent.
        more: what the family has besides: fields of `kind`.

    Raises:
        ConfigError: naming the key that is missing, of a wrong type or not implemented, and its value.
    """
    top = Section(content)
    top.accept_only(hidden_act="silu", quantization_config=None)
    tied = top.flag("tie_word_embeddings", default=tie_output)
    return kind(**({"vocab_size": top.whole("vocab_size"), "tie_output": tied} | decoder_fields(top) | more))


def decoder_fields(section: Section) -> dict[str, Any]:
    """The fields of `DecoderConfig` that every family calls by the same names, but for the rotary embedding's.

    Raises:
        ConfigError: as `read_text`.
    """
    hidden_size, num_heads = section.whole("hidden_size"), section.whole("num_attention_heads")
    if not section.has("head_dim") and hidden_size % num_heads:
        raise ConfigError(
            f"{section.prefix}hidden_size={hidden_size} must be a multiple of num_attention_heads={num_heads}"
        )
    num_kv_heads = section.whole("num_key_value_heads", default=num_heads)
    if num_heads % num_kv_heads:
        raise ConfigError(
            f"{section.prefix}num_attention_heads={num_heads} must be a multiple of num_key_value_heads={num_kv_heads}"
        )
    return {
        "num_layers": section.whole("num_hidden_layers", at_most=MOST_LAYERS),
        "hidden_size": hidden_size,
        "intermediate_size": section.whole("intermediate_size"),
        "num_heads": num_heads,
        "num_kv_heads": num_kv_heads,
        "head_dim": section.whole("head_dim", default=hidden_size // num_heads),
        "rms_norm_eps": section.number("rms_norm_eps", at_most=1),
    }


def text_json(config: DecoderConfig, *, model_type: str, model_class: str) -> dict[str, Any]:
    """The keys of a config.json that `read_text` reads, but for the rotary embedding's.

    Args:
        config: the architecture.
        model_type: of the family.
        model_class: of transformers.
    """
    return {
        "model_type": model_type,
        "architectures": [model_class],
        "vocab_size": config.vocab_size,
        "head_dim": config.head_dim,
        "tie_word_embeddings": config.tie_output,
        **decoder_json(config),
    }


def decoder_json(config: DecoderConfig) -> dict[str, Any]:
    """The keys that `decoder_fields` reads."""
    return {
        "num_hidden_layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "hidden_act": "silu",
        "rms_norm_eps": config.rms_norm_eps,
    }


def read_windows(section: Section, *, window: int | None, if_unlisted: Iterable[int]) -> dict[str, Any]:
    """The fields of `DecoderConfig` that say which layers have a sliding window.

    Args:
        section: with `layer_types`, or without.
        window: tokens that a query sees in such a layer; None where the file has none.
        if_unlisted: layers that have it where there is no `layer_types`.

    Raises:
        ConfigError: if `layer_types` holds a kind of layer that is not implemented, or a window that is not given.
    """
    num_layers = section.whole("num_hidden_layers")
    layers = list(if_unlisted)
    if section.has("layer_types"):
        types = section.listed("layer_types", length=num_layers)
        for i, layer_type in enumerate(types):
            if layer_type not in (FULL, SLIDING):
                raise ConfigError(f"layer_types[{i}]={layer_type} is not implemented, only {FULL} and {SLIDING}")
            if layer_type == SLIDING and window is None:
                raise ConfigError(f"layer_types[{i}]={layer_type} needs sliding_window and use_sliding_window=true")
        layers = [i for i, layer_type in enumerate(types) if layer_type == SLIDING]
    return {"window": window, "windowed_layers": layers} if window is not None and layers else {}


def read_qwen_windows(top: Section) -> dict[str, Any]:
    """`read_windows` for Qwen2 and Qwen3: without `layer_types`, the layers from `max_window_layers` on."""
    # transformers' window where config.json has no such key; null means none
    top = Section({"sliding_window": 4096, **top.content}, top.prefix)
    is_windowed = top.flag("use_sliding_window") and top.has("sliding_window")
    window = top.whole("sliding_window") if is_windowed else None
    first = top.whole("max_window_layers", at_least=0, default=28)
    return read_windows(top, window=window, if_unlisted=range(first, top.whole("num_hidden_layers")))


def windows_json(config: DecoderConfig) -> dict[str, Any]:
    """The keys that Qwen2, Qwen3 and SmolLM3 say their windows by; the inverse of `read_windows`."""
    return {
        "use_sliding_window": config.window is not None,
        "sliding_window": config.window,
        "layer_types": [FULL if config.window_of(i) is None else SLIDING for i in range(config.num_layers)],
    }


def refuse_windows(section: Section) -> None:
    """Refuse a sliding window where a family has none.

    Raises:
        ConfigError: naming the key.
    """
    section.accept_only(use_sliding_window=False)
    types = section.content.get("layer_types") or []
    if not isinstance(types, list):
        raise ConfigError(f"{section.prefix}layer_types={types} must be a list of kinds of layers")
    for i, layer_type in enumerate(types):
        if layer_type != FULL:
            raise ConfigError(f"layer_types[{i}]={layer_type} is not implemented, only {FULL}")
