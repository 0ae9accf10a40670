"""Mistral: Llama with a sliding window in every layer, or without one."""

from dataclasses import dataclass
from typing import Any

from lab.core.models.config import DecoderConfig
from lab.core.models.hf_config import Json, Section, read_text, text_json
from lab.core.models.hf_rotary import read_rotary, rotary_json
from lab.core.models.spec import FamilySpec
from lab.core.models.tensor_names import text_names
from lab.core.models.text_model import TextModel

# transformers' window where config.json has no such key; null means none
_WINDOW = 4096


@dataclass(kw_only=True, slots=True)
class MistralConfig(DecoderConfig):
    """Mistral."""


def read(content: Json) -> MistralConfig:
    """The architecture that a config.json describes; see `read_text`."""
    top = Section({"sliding_window": _WINDOW, **content})
    # layers of several kinds are Ministral's
    top.accept_only(layer_types=None)
    window = top.whole("sliding_window") if top.has("sliding_window") else None
    return read_text(MistralConfig, content, rotary=read_rotary(top), window=window)


def write(config: MistralConfig) -> dict[str, Any]:
    """A config.json that describes `config`."""
    return {
        **text_json(config, model_type="mistral", model_class="MistralForCausalLM"),
        **rotary_json(config.rotary),
        "sliding_window": config.window,
    }


SPEC = FamilySpec(
    name="mistral",
    config=MistralConfig,
    model_types=("mistral",),
    read=read,
    write=write,
    model=TextModel,
    names=text_names,
)
