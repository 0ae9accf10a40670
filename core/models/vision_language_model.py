"""A vision tower and a projector of transformers in front of a decoder of ours, for every family that is one."""

# Letters: B batch, T tokens, D model width, V vocabulary, C channels.

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from jaxtyping import Float
from torch import Tensor

from lab.core.decoding.program import Program
from lab.core.decoding.writer import Writer, refuse_changed
from lab.core.errors import InputError
from lab.core.mixers.tensor_rules import TensorRule, renamed
from lab.core.models.decoder import Inputs, refuse_unknown_tokens
from lab.core.models.decoding_state import DecodingState
from lab.core.models.stock_vision import StockVision
from lab.core.models.tensor_names import KeyMap
from lab.core.models.text_model import DecoderModel, TextModel
from lab.core.models.vision_encoder import VisionEncoder
from lab.core.models.vision_language_config import VisionLanguageConfig, text_family

_TEXT = "language_model."
# by older versions of transformers, in every layer of a tower that counts its positions
_COUNTS = "embeddings.position_ids"


class VisionLanguageModel(DecoderModel):
    """Tiles through the vision encoder to the places of image tokens, then the decoder.

    Attributes:
        vision_encoder: frozen; no stage trains them.
    """

    config: VisionLanguageConfig

    def __init__(self, config: VisionLanguageConfig, *, model_class: str) -> None:
        """Build tower, projector and decoder.

        Args:
            config: the architecture.
            model_class: of tower and projector in transformers.

        Raises:
            BackendError: if transformers is not installed.
            ConfigError: if it cannot build the tower.
        """
        super().__init__()
        self.config = config
        self.vision_encoder = VisionEncoder(model_class, config.vision.content, config.text.hidden_size)
        text = text_family(config.family).model(config.text)
        assert isinstance(text, TextModel), "the families of text_families"
        self.llm = text.llm

    def write_step(self, writer: Writer, state: DecodingState) -> Program:
        """See `LanguageModel.write_step`; the token is one of text."""
        refuse_changed(self, VisionLanguageModel, "_embed")
        return super().write_step(writer, state)

    def _embed(self, inputs: Inputs) -> Float[Tensor, "B T D"]:
        if inputs.hd_tokens is not None:
            raise InputError("hd_tokens are for pixel shuffle 'post'; this model has a vision tower, leave them out")
        refuse_unknown_tokens(inputs.tokens, self.config.text.vocab_size)
        x = self.llm.tokens(inputs.tokens)
        is_image = inputs.tokens == self.config.vision.image_token_id
        if inputs.pixel_values is None:
            if inputs.tokens.shape[1] > 1 and is_image.any():
                raise InputError("tokens hold image tokens but there are no pixel_values; give the tiles")
            return x
        num_places, made = int(is_image.sum()), len(inputs.pixel_values) * self.config.vision.tokens_per_tile
        if num_places != made:
            raise InputError(
                f"tokens hold {num_places} image tokens but the tiles in pixel_values make {made}; give every tile its "
                "image tokens"
            )
        return x.masked_scatter(is_image[..., None], self.vision_encoder(inputs.pixel_values).to(x.dtype))


def names_with(tower: str) -> Callable[[VisionLanguageModel], KeyMap]:
    """The names of every tensor, as releases have them.

    Args:
        tower: prefix of the vision tower's tensors.
    """

    def names(model: VisionLanguageModel) -> KeyMap:
        text = text_family(model.config.family).names(model)
        rules = [replace(rule, public=tuple(f"{_TEXT}{name}" for name in rule.public)) for rule in text.rules]
        return KeyMap((*_vision_rules(model, tower), *rules), ignored=(*text.ignored, _COUNTS))

    return names


def renaming(tower: str) -> Callable[[str], str]:
    """Names of any version of transformers to those of `names_with`.

    Args:
        tower: see there.
    """

    def renamed(name: str) -> str:
        name = re.sub(r"^model\.language_model\.", f"{_TEXT}model.", name)
        name = re.sub(r"^lm_head\.", f"{_TEXT}lm_head.", name)
        name = re.sub(r"^model\.(vision_tower|multi_modal_projector)\.", r"\1.", name)
        return re.sub(r"^vision_tower\.(vision_model\.)?", f"{tower}.", name)

    return renamed


def stock_vision_of(
    tower: str, *, model_type: str, model_class: str, processor: Callable[[Any], Mapping[str, Any]]
) -> Callable[[VisionLanguageModel], StockVision]:
    """How transformers reads images as the model does: with the same classes.

    Args:
        tower: see `names_with`.
        model_type: of the whole.
        model_class: of the whole.
        processor: an architecture to processor_config.json.
    """

    def stock_vision(model: VisionLanguageModel) -> StockVision:
        return StockVision(
            model_type=model_type,
            model_class=model_class,
            config=model.config.vision.content,
            rules=tuple(_vision_rules(model, tower)),
            processor=processor(model.config),
        )

    return stock_vision


def _vision_rules(model: VisionLanguageModel, tower: str) -> list[TensorRule]:
    rules = []
    for name, _ in model.vision_encoder.model.named_parameters():
        part, _, rest = name.partition(".")
        rules += renamed(tower if part == "vision_tower" else part, f"vision_encoder.model.{part}", {rest: rest})
    return rules
