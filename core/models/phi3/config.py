"""The architecture of Phi-3, and its config.json."""

from dataclasses import dataclass
from typing import Any

from lab.core.mixers.rotary import RotaryKind
from lab.core.models.config import DecoderConfig
from lab.core.models.hf_config import Json, Section, read_text, refuse_windows, text_json
from lab.core.models.hf_rotary import read_rotary, rotary_json

# what the first files call longrope
_ALIASES = {"su": "longrope", "yarn": "longrope"}
_ORIGINAL_LENGTH = 4096


@dataclass(kw_only=True, slots=True)
class Phi3Config(DecoderConfig):
    """Phi-3: a window, if there is one, is every layer's."""


def read(content: Json) -> Phi3Config:
    """The architecture that a config.json describes; see `read_text`."""
    top = Section(content)
    refuse_windows(top)
    # transformers' eps where config.json has no such key
    content = {"rms_norm_eps": 1e-5, **content}
    rotary = read_rotary(
        top,
        original_length=_ORIGINAL_LENGTH,
        has_fraction=True,
        aliases=_ALIASES,
        kinds=(RotaryKind.plain, RotaryKind.longrope),
    )
    return read_text(
        Phi3Config,
        content,
        rotary=rotary,
        window=top.whole("sliding_window") if top.has("sliding_window") else None,
    )


def write(config: Phi3Config) -> dict[str, Any]:
    """A config.json that describes `config`."""
    original = config.rotary.original_length
    return {
        **text_json(config, model_type="phi3", model_class="Phi3ForCausalLM"),
        **rotary_json(config.rotary),
        "original_max_position_embeddings": _ORIGINAL_LENGTH if original is None else original,
        "partial_rotary_factor": config.rotary.fraction,
        "sliding_window": config.window,
    }
