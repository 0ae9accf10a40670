"""Public config.json files: read into an architecture, and written from one.

Public files carry dozens of keys that have nothing to do with the mathematics; they are ignored. A key that would
change the mathematics in a way that is not implemented here is refused by name.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab.core.errors import CheckpointError, ConfigError
from lab.core.mixers.rotary import RotaryConfig, RotaryKind
from lab.core.models.config import DecoderConfig, HovleConfig, PixelShuffle, VisionConfig

Json = Mapping[str, Any]


def load_json(path: Path) -> Json:
    """The object in a JSON file of a checkpoint.

    Raises:
        CheckpointError: if the file is missing, damaged or holds something else.
    """
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}); give the folder of a checkpoint") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is no JSON; copy the checkpoint again") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no object; copy the checkpoint again")
    return content


def read_hovle(content: Json) -> HovleConfig:
    """HoVLE, as released and in its HD variant.

    Raises:
        ConfigError: naming the key that is missing, of a wrong type or not implemented, and its value.
    """
    top = _Section(content)
    embedding, llm = top.section("embedding_config"), top.section("llm_config")
    top.accept_only(normalize_encoder_output=False, quantization_config=None)
    embedding.accept_only(
        hidden_act="silu", attention_bias=False, mlp_bias=False, use_ls=False, use_pixel_shuffle_proj=True
    )
    embedding.accept_only(special_token_maps={}, layers_block_type=None)
    llm.accept_only(hidden_act="silu", bias=False, layers_block_type=None)
    image_size, ratio = embedding.whole("image_size"), embedding.number("downsample_ratio")
    if not 0 < ratio <= 1 or abs(1 / ratio - round(1 / ratio)) > 1e-6:
        raise ConfigError(f"embedding_config.downsample_ratio={ratio:g} must be 1, 1/2, 1/3 and so on")
    # the outer keys count the image tokens of a prompt, the inner ones make them
    top.accept_only(force_image_size=image_size, downsample_ratio=ratio)
    embedding.accept_only(llm_hidden_size=llm.whole("hidden_size"))
    location = embedding.content.get("pixel_shuffle_loc", "pre")
    if location not in PixelShuffle.__members__:
        raise ConfigError(f"embedding_config.pixel_shuffle_loc={location} must be pre or post")
    return HovleConfig(
        vision=VisionConfig(
            image_size=image_size,
            patch_size=embedding.whole("patch_size"),
            num_channels=embedding.whole("num_channels"),
            shuffle_factor=round(1 / ratio),
            pixel_shuffle=PixelShuffle[location],
            image_token_id=embedding.whole("img_context_token_id", at_least=0),
        ),
        embedding=_read_decoder(embedding, vocab_size=embedding.whole("llm_vocab_size")),
        llm=_read_decoder(llm, vocab_size=llm.whole("vocab_size")),
    )


def read_llama(content: Json) -> DecoderConfig:
    """A decoder of Llama's family: Llama, SmolLM2 and, with biases on queries, keys and values, Qwen2.

    Raises:
        ConfigError: naming the key that is missing, of a wrong type or not implemented, and its value.
    """
    top = _Section(content)
    top.accept_only(hidden_act="silu", attention_bias=False, mlp_bias=False)
    top.accept_only(use_sliding_window=False, quantization_config=None)
    for i, layer_type in enumerate(content.get("layer_types") or ()):
        if layer_type != "full_attention":
            raise ConfigError(f"layer_types[{i}]={layer_type} is not implemented, only full_attention")
    return _read_decoder(
        top,
        vocab_size=top.whole("vocab_size"),
        qkv_bias=content["model_type"] == "qwen2",
        tie_output=bool(content.get("tie_word_embeddings", False)),
    )


def hovle_json(config: HovleConfig) -> dict[str, Any]:
    """A config.json that describes `config`: `read_hovle` gives it back."""
    vision = config.vision
    tiles = {"image_size": vision.image_size, "downsample_ratio": 1 / vision.shuffle_factor}
    embedding = {
        "model_type": "holistic_embedding",
        "patch_size": vision.patch_size,
        "num_channels": vision.num_channels,
        "pixel_shuffle_loc": vision.pixel_shuffle.value,
        "img_context_token_id": vision.image_token_id,
        "llm_vocab_size": config.embedding.vocab_size,
        "llm_hidden_size": config.llm.hidden_size,
        "use_pixel_shuffle_proj": True,
        "use_ls": False,
        "special_token_maps": {},
        "attention_bias": False,
    }
    llm = {
        "model_type": "internlm2",
        "architectures": ["InternLM2ForCausalLM"],
        "vocab_size": config.llm.vocab_size,
        "bias": False,
        "tie_word_embeddings": False,
    }
    return {
        "model_type": "internvl_chat",
        "force_image_size": vision.image_size,
        "downsample_ratio": tiles["downsample_ratio"],
        "normalize_encoder_output": False,
        "template": "internlm2-chat",
        "embedding_config": embedding | tiles | _decoder_json(config.embedding),
        "llm_config": llm | _decoder_json(config.llm),
    }


def llama_json(config: DecoderConfig) -> dict[str, Any]:
    """A config.json that describes `config`: `read_llama` gives it back."""
    return {
        "model_type": "qwen2" if config.qkv_bias else "llama",
        "architectures": ["Qwen2ForCausalLM" if config.qkv_bias else "LlamaForCausalLM"],
        "vocab_size": config.vocab_size,
        "head_dim": config.head_dim,
        "tie_word_embeddings": config.tie_output,
        **_decoder_json(config),
    }


def _decoder_json(config: DecoderConfig) -> dict[str, Any]:
    rotary = config.rotary
    is_scaled = rotary.kind is not RotaryKind.plain
    return {
        "num_hidden_layers": config.num_layers,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "hidden_act": "silu",
        "rms_norm_eps": config.rms_norm_eps,
        "max_position_embeddings": rotary.max_length,
        "rope_theta": rotary.theta,
        "rope_scaling": {"type": rotary.kind.value, "factor": rotary.factor} if is_scaled else None,
    }


@dataclass(frozen=True, slots=True)
class _Section:
    """An object of a config.json; errors give the full name of a key."""

    content: Json
    prefix: str = ""

    def section(self, key: str) -> "_Section":
        value = self.content.get(key)
        if not isinstance(value, dict):
            raise ConfigError(f"{self.prefix}{key}={value} must be an object")
        return _Section(value, f"{self.prefix}{key}.")

    def whole(self, key: str, *, at_least: int = 1) -> int:
        value = self.content.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
            raise ConfigError(f"{self.prefix}{key}={value} must be a whole number of {at_least} or more")
        return value

    def number(self, key: str) -> float:
        value = self.content.get(key)
        if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
            raise ConfigError(f"{self.prefix}{key}={value} must be a number above 0")
        return float(value)

    def has(self, key: str) -> bool:
        return self.content.get(key) is not None

    def accept_only(self, **implemented: object) -> None:
        """Refuse a key with another value; a key that is absent or null is what its default is."""
        for key, value in implemented.items():
            if self.has(key) and self.content[key] != value:
                only = "without it" if value is None else f"only {value}"
                raise ConfigError(f"{self.prefix}{key}={self.content[key]} is not implemented, {only}")


def _read_decoder(
    section: _Section, *, vocab_size: int, qkv_bias: bool = False, tie_output: bool = False
) -> DecoderConfig:
    hidden_size, num_heads = section.whole("hidden_size"), section.whole("num_attention_heads")
    if not section.has("head_dim") and hidden_size % num_heads:
        raise ConfigError(
            f"{section.prefix}hidden_size={hidden_size} must be a multiple of num_attention_heads={num_heads}"
        )
    num_kv_heads = section.whole("num_key_value_heads") if section.has("num_key_value_heads") else num_heads
    if num_heads % num_kv_heads:
        raise ConfigError(
            f"{section.prefix}num_attention_heads={num_heads} must be a multiple of num_key_value_heads={num_kv_heads}"
        )
    return DecoderConfig(
        num_layers=section.whole("num_hidden_layers"),
        hidden_size=hidden_size,
        intermediate_size=section.whole("intermediate_size"),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=section.whole("head_dim") if section.has("head_dim") else hidden_size // num_heads,
        vocab_size=vocab_size,
        rms_norm_eps=section.number("rms_norm_eps"),
        rotary=_read_rotary(section),
        qkv_bias=qkv_bias,
        tie_output=tie_output,
    )


def _read_rotary(section: _Section) -> RotaryConfig:
    """rope_theta beside rope_scaling, or both in rope_parameters as transformers 5 writes them."""
    section.accept_only(partial_rotary_factor=1)
    name = "rope_parameters" if section.has("rope_parameters") else "rope_scaling"
    scaling = section.section(name) if section.has(name) else _Section({}, f"{section.prefix}{name}.")
    for key in scaling.content.keys() - {"type", "rope_type", "factor", "rope_theta"}:
        scaling.accept_only(**{key: None})
    kinds = {"default": RotaryKind.plain, "linear": RotaryKind.linear, "dynamic": RotaryKind.dynamic}
    kind = scaling.content.get("rope_type") or scaling.content.get("type") or "default"
    if kind not in kinds:
        raise ConfigError(f"{scaling.prefix}type={kind} is not implemented, only {', '.join(kinds)}")
    theta_section = scaling if scaling.has("rope_theta") else section
    return RotaryConfig(
        # files of the first Llama leave it out
        theta=theta_section.number("rope_theta") if theta_section.has("rope_theta") else 10000.0,
        max_length=section.whole("max_position_embeddings"),
        kind=kinds[kind],
        factor=1.0 if kind == "default" else scaling.number("factor"),
    )
