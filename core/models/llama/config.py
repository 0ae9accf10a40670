"""The architecture of Llama, and its config.json."""

from dataclasses import dataclass
from typing import Any

from lab.core.models.config import DecoderConfig
from lab.core.models.hf_config import Json, Section, read_text, refuse_windows, text_json
from lab.core.models.hf_rotary import read_rotary, rotary_json


@dataclass(kw_only=True, slots=True)
class LlamaConfig(DecoderConfig):
    """Llama: `qkv_bias` and `output_bias` go together (`attention_bias`)."""


def read(content: Json) -> LlamaConfig:
    """The architecture that a config.json describes; see `read_text`."""
    top = Section(content)
    refuse_windows(top)
    bias = top.flag("attention_bias")
    return read_text(
        LlamaConfig,
        content,
        rotary=read_rotary(top),
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=top.flag("mlp_bias"),
    )


def write(config: LlamaConfig) -> dict[str, Any]:
    """A config.json that describes `config`."""
    return {
        **text_json(config, model_type="llama", model_class="LlamaForCausalLM"),
        **rotary_json(config.rotary),
        "attention_bias": config.qkv_bias,
        "mlp_bias": config.mlp_bias,
    }
