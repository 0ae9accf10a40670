"""SmolLM3: Llama with every fourth layer without rotary embedding."""

from dataclasses import dataclass
from typing import Any

from lab.core.models.config import DecoderConfig
from lab.core.models.hf_config import Json, Section, read_text, read_windows, text_json, windows_json
from lab.core.models.hf_rotary import read_rotary, rotary_json
from lab.core.models.spec import FamilySpec
from lab.core.models.tensor_names import text_names
from lab.core.models.text_model import TextModel


@dataclass(kw_only=True, slots=True)
class SmolLm3Config(DecoderConfig):
    """SmolLM3: `qkv_bias` and `output_bias` go together (`attention_bias`)."""

    tie_output: bool = True


def read(content: Json) -> SmolLm3Config:
    """The architecture that a config.json describes; see `read_text`."""
    top = Section(content)
    num_layers, bias = top.whole("num_hidden_layers"), top.flag("attention_bias")
    without_rotary = _without_rotary(top, num_layers)
    is_windowed = top.flag("use_sliding_window") and top.has("sliding_window")
    windows = read_windows(top, window=top.whole("sliding_window") if is_windowed else None, if_unlisted=without_rotary)
    return read_text(
        SmolLm3Config,
        content,
        tie_output=True,
        rotary=read_rotary(top, theta=2e6),
        layers_without_rotary=without_rotary,
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=top.flag("mlp_bias"),
        **windows,
    )


def write(config: SmolLm3Config) -> dict[str, Any]:
    """A config.json that describes `config`."""
    return {
        **text_json(config, model_type="smollm3", model_class="SmolLM3ForCausalLM"),
        **rotary_json(config.rotary),
        **windows_json(config),
        "no_rope_layers": [int(i not in config.layers_without_rotary) for i in range(config.num_layers)],
        "attention_bias": config.qkv_bias,
        "mlp_bias": config.mlp_bias,
    }


def _without_rotary(top: Section, num_layers: int) -> list[int]:
    """The layers whose flag in `no_rope_layers` is 0; without that key, the last of every `no_rope_layer_interval`."""
    if not top.has("no_rope_layers"):
        interval = top.whole("no_rope_layer_interval", default=4)
        return [i for i in range(num_layers) if (i + 1) % interval == 0]
    return [i for i, has_rotary in enumerate(top.listed("no_rope_layers", length=num_layers)) if not has_rotary]


SPEC = FamilySpec(
    name="smollm3",
    config=SmolLm3Config,
    model_types=("smollm3",),
    read=read,
    write=write,
    model=TextModel,
    names=text_names,
)
