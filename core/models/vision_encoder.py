"""Vision tower and projector as transformers computes them, from its own classes; no code of a checkpoint runs."""

# Letters: N tiles, C channels, K image tokens of a tile, D model width.

import json
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lab.core.errors import ConfigError
from lab.core.models.hf_config import Json
from lab.core.optional_packages import load_package

_NEEDED_BY = "a teacher with a vision tower"
# of sections of config.json: where they are from, and which files hold them
_NOTES = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")


class VisionEncoder(nn.Module):
    """Tiles to image tokens: the model class of transformers without its language model."""

    def __init__(self, model_class: str, content: Json, hidden_size: int) -> None:
        """Build tower and projector with random weights.

        Args:
            model_class: such as `LlavaModel`.
            content: the keys of config.json besides `text_config`.
            hidden_size: D.

        Raises:
            BackendError: if transformers is not installed.
            ConfigError: if it cannot build them.
        """
        super().__init__()
        kind = getattr(load_package("transformers", needed_by=_NEEDED_BY), model_class)
        # a decoder without layers, which is thrown away
        text = {"model_type": "llama", "hidden_size": hidden_size, "num_hidden_layers": 0, "vocab_size": 1}
        text |= {"num_attention_heads": 1, "intermediate_size": 1, "bos_token_id": None, "eos_token_id": None}
        try:
            self.model = kind(kind.config_class(**content, text_config=text))
        # its classes raise whatever a value led to
        except Exception as error:
            raise ConfigError(f"vision_config cannot be built by transformers: {_first_line(error)}") from error
        del self.model.language_model

    def forward(self, pixel_values: Float[Tensor, "N C height width"]) -> Float[Tensor, "N K D"]:
        """Image tokens of tiles."""
        weight = next(self.parameters())
        self._number_positions(weight.device)
        features = self.model.get_image_features(pixel_values.to(weight.dtype), return_dict=True).pooler_output
        return features if isinstance(features, Tensor) else torch.stack(list(features))

    def _number_positions(self, device: torch.device) -> None:
        """Count positions from 0: no checkpoint has the counts, and a model from the meta device none either."""
        for module in self.modules():
            if "position_ids" in module._buffers and isinstance(module.position_embedding, nn.Embedding):
                module.position_ids = torch.arange(module.position_embedding.num_embeddings, device=device)[None]


def completed(section: Json, key: str) -> dict[str, Any]:
    """A section of config.json with the defaults of its class in transformers, which files leave out.

    Args:
        section: with a `model_type` that transformers knows.
        key: its name, for errors.

    Raises:
        BackendError: if transformers is not installed.
        ConfigError: if it refuses a value.
    """
    transformers = load_package("transformers", needed_by=_NEEDED_BY)
    try:
        found = transformers.CONFIG_MAPPING[section["model_type"]](**section).to_dict()
    # its classes raise whatever a value led to
    except Exception as error:
        raise ConfigError(f"{key} is refused by transformers: {_first_line(error)}") from error
    return _plain({name: value for name, value in found.items() if name not in _NOTES})


def _plain(found: Mapping[str, Any]) -> dict[str, Any]:
    """As it comes back from a file."""
    plain: dict[str, Any] = json.loads(json.dumps(found))
    return plain


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) or type(error).__name__
