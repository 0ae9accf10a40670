"""Qwen2 and Qwen2.5: Llama with biases on queries, keys and values, and sliding windows in some layers."""

from dataclasses import dataclass
from typing import Any

from lab.core.models.config import DecoderConfig
from lab.core.models.hf_config import Json, Section, read_qwen_windows, read_text, text_json, windows_json
from lab.core.models.hf_rotary import read_rotary, rotary_json
from lab.core.models.spec import FamilySpec
from lab.core.models.tensor_names import text_names
from lab.core.models.text_model import TextModel


@dataclass(kw_only=True, slots=True)
class Qwen2Config(DecoderConfig):
    """Qwen2."""

    qkv_bias: bool = True


def read(content: Json) -> Qwen2Config:
    """The architecture that a config.json describes; see `read_text`."""
    top = Section(content)
    return read_text(Qwen2Config, content, rotary=read_rotary(top), **read_qwen_windows(top))


def write(config: Qwen2Config) -> dict[str, Any]:
    """A config.json that describes `config`."""
    return {
        **text_json(config, model_type="qwen2", model_class="Qwen2ForCausalLM"),
        **rotary_json(config.rotary),
        **windows_json(config),
    }


SPEC = FamilySpec(
    name="qwen2",
    config=Qwen2Config,
    model_types=("qwen2",),
    read=read,
    write=write,
    model=TextModel,
    names=text_names,
)
