"""Qwen3: norms of queries and keys, heads of a size that does not follow from the width, no biases by default."""

from dataclasses import dataclass
from typing import Any

from lab.core.models.config import DecoderConfig
from lab.core.models.hf_config import Json, Section, read_qwen_windows, read_text, text_json, windows_json
from lab.core.models.hf_rotary import read_rotary, rotary_json
from lab.core.models.spec import FamilySpec
from lab.core.models.tensor_names import text_names
from lab.core.models.text_model import TextModel


@dataclass(kw_only=True, slots=True)
class Qwen3Config(DecoderConfig):
    """Qwen3: `qkv_bias` and `output_bias` go together (`attention_bias`)."""

    qk_norm: bool = True


def read(content: Json) -> Qwen3Config:
    """The architecture that a config.json describes; see `read_text`."""
    # transformers' size of a head where config.json has no such key
    content = {"head_dim": 128, **content}
    top = Section(content)
    bias = top.flag("attention_bias")
    return read_text(
        Qwen3Config, content, rotary=read_rotary(top), qkv_bias=bias, output_bias=bias, **read_qwen_windows(top)
    )


def write(config: Qwen3Config) -> dict[str, Any]:
    """A config.json that describes `config`."""
    return {
        **text_json(config, model_type="qwen3", model_class="Qwen3ForCausalLM"),
        **rotary_json(config.rotary),
        **windows_json(config),
        "attention_bias": config.qkv_bias,
    }


SPEC = FamilySpec(
    name="qwen3",
    config=Qwen3Config,
    model_types=("qwen3",),
    read=read,
    write=write,
    model=TextModel,
    names=text_names,
)
