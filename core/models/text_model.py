"""A decoder as a language model: of text, for every family that is one, or behind a vision tower."""

# Letters: B batch, T tokens, D model width, V vocabulary.

from abc import abstractmethod

from jaxtyping import Float
from torch import Tensor, nn

from lab.core.decoding.program import Program
from lab.core.decoding.writer import Writer, refuse_changed
from lab.core.errors import InputError
from lab.core.models.config import DecoderConfig
from lab.core.models.decoder import (
    Decoder,
    DecoderLayer,
    Inputs,
    LanguageModel,
    MixerLayer,
    Observe,
    numbered,
    refuse_unknown_tokens,
)
from lab.core.models.decoding_state import DecodingState


class DecoderModel(LanguageModel):
    """Token embeddings, decoder layers and an output head.

    Attributes:
        llm: all of these.
    """

    llm: Decoder

    @property
    def input_embedding(self) -> nn.Embedding:
        """The table of token embeddings."""
        return self.llm.tokens

    def mixer_layers(self) -> list[MixerLayer]:
        """The layers of the decoder."""
        return numbered([("llm.layers", self.llm.layers)])

    def allocate_state(self, batch_size: int, *, max_length: int, hd_max_length: int | None = None) -> DecodingState:
        """An empty state."""
        if hd_max_length is not None:
            raise InputError(f"hd_max_length={hd_max_length} is for models with a holistic embedding; leave it out")
        mixers = [layer.layer.mixer for layer in self.mixer_layers()]
        return DecodingState.allocate(mixers, batch_size, max_lengths=[max_length] * len(mixers))

    def hidden(self, inputs: Inputs, state: DecodingState | None = None) -> Float[Tensor, "B T D"]:
        """Normed hidden states of the last layer; see `LanguageModel.hidden`."""
        return self.llm(self._embed(inputs), None if state is None else state.layers, inputs.packing)

    def observed(self, inputs: Inputs, observe: Observe) -> Float[Tensor, "B T D"] | None:
        """See `LanguageModel.observed`."""
        x = self.llm.layers.observed(self._embed(inputs), observe, packing=inputs.packing)
        return None if x is None else self.llm.norm(x)

    def logits(self, hidden: Float[Tensor, "*positions D"]) -> Float[Tensor, "*positions V"]:
        """Scores of the next token."""
        return self.llm.logits(hidden)

    def write_step(self, writer: Writer, state: DecodingState) -> Program:
        """See `LanguageModel.write_step`; the token is one of text."""
        refuse_changed(self, DecoderModel, "forward", "hidden", "logits")
        return writer.finish(self.llm.write_step(writer, writer.embed(self.llm.tokens), state.layers))

    @abstractmethod
    def _embed(self, inputs: Inputs) -> Float[Tensor, "B T D"]:
        """What the first layer reads."""


class TextModel(DecoderModel):
    """A decoder that reads text only."""

    config: DecoderConfig

    def __init__(self, config: DecoderConfig, layer_class: type[DecoderLayer] = DecoderLayer) -> None:
        super().__init__()
        self.config = config
        self.llm = Decoder(config, layer_class)

    def write_step(self, writer: Writer, state: DecodingState) -> Program:
        """See `LanguageModel.write_step`."""
        refuse_changed(self, TextModel, "_embed")
        return super().write_step(writer, state)

    def _embed(self, inputs: Inputs) -> Float[Tensor, "B T D"]:
        if inputs.pixel_values is not None or inputs.hd_tokens is not None:
            raise InputError("pixel_values and hd_tokens are for models that read images; this one reads text only")
        refuse_unknown_tokens(inputs.tokens, self.config.vocab_size)
        return self.llm.tokens(inputs.tokens)
