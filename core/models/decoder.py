"""Pre-norm decoder layers around any mixer, and the language model that they make."""

# Letters: B batch, T tokens, D model width, V vocabulary.

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lab.core.decoding.program import NoProgramError, Program
from lab.core.decoding.writer import Writer, refuse_another, refuse_changed
from lab.core.errors import InputError
from lab.core.mixers.base import Mixer, MixerState
from lab.core.mixers.norm import RmsNorm
from lab.core.mixers.rotary import Rotary
from lab.core.mixers.softmax import SoftmaxAttention
from lab.core.models.config import DecoderConfig, ModelConfig
from lab.core.models.decoding_state import DecodingState
from lab.core.models.embedding import Embedding
from lab.core.models.swiglu import SwiGlu
from lab.core.operators.packing import Packing
from lab.core.products.linear import Linear, linear

Observe = Callable[[int, Tensor, Tensor], bool]
"""Given the index of a layer, what its mixer reads (B, T, D) and its heads' outputs (B, H, T, P); whether to go on."""


class DecoderLayer(nn.Module):
    """x + mixer(norm(x)), then x + mlp(norm(x)).

    `mixer` may be replaced by any other of the same shape. A family whose norms stand elsewhere overrides `mixer_input`
    and `after_mixer`, one with another attention `attention`.
    """

    mixer: Mixer

    def __init__(self, config: DecoderConfig, mixer: Mixer) -> None:
        super().__init__()
        self.mixer_norm = RmsNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mixer = mixer
        self.mlp_norm = RmsNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp = SwiGlu(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)

    @classmethod
    def attention(cls, config: DecoderConfig, index: int, rotary: Rotary) -> SoftmaxAttention:
        """The attention of layer `index`."""
        return SoftmaxAttention(
            config.mixer_shape(),
            rotary=None if index in config.layers_without_rotary else rotary,
            qkv_bias=config.qkv_bias,
            output_bias=config.output_bias,
            qk_norm_eps=config.rms_norm_eps if config.qk_norm else None,
            window=config.window_of(index),
            norm_eps=config.rms_norm_eps,
        )

    def forward(
        self, x: Float[Tensor, "B T D"], state: MixerState | None = None, packing: Packing | None = None
    ) -> Float[Tensor, "B T D"]:
        """The layer's output for whole sequences or, with a state, for the tokens that follow those in it."""
        u = self.mixer_input(x)
        if state is None:
            mixed = self.mixer(u, packing)
        else:
            mixed = self.mixer.step(u, state) if u.shape[1] == 1 else self.mixer.prefill(u, state)
        return self.after_mixer(x, mixed)

    def mixer_input(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """What the mixer reads of the residual stream."""
        return self.mixer_norm(x)

    def after_mixer(self, x: Float[Tensor, "B T D"], mixed: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """The layer's output from its input and the mixer's output."""
        x = x + mixed
        return x + self.mlp(self.mlp_norm(x))

    def write_step(self, writer: Writer, x: Float[Tensor, "B D"], state: MixerState) -> None:
        """Append the layer to a program; it changes `x` in place.

        Raises:
            NoProgramError: if there are no compiled steps for it; a family whose norms stand elsewhere has none.
        """
        refuse_changed(self, DecoderLayer, "forward", "mixer_input", "after_mixer")
        if not isinstance(self.mixer, Mixer):
            raise NoProgramError(f"{type(self.mixer).__name__} stands in the place of a mixer")
        self.mixer.write_step(writer, writer.normed(x, self.mixer_norm), state, x)
        self.mlp.write_step(writer, x, self.mlp_norm)


class DecoderStack(nn.ModuleList):
    """Decoder layers in sequence, built with softmax attention."""

    def __init__(self, config: DecoderConfig, layer_class: type[DecoderLayer] = DecoderLayer) -> None:
        # one table of angles serves all layers
        rotary = Rotary(config.rotary, head_dim=config.head_dim)
        super().__init__(
            layer_class(config, layer_class.attention(config, i, rotary)) for i in range(config.num_layers)
        )

    def __iter__(self) -> Iterator[DecoderLayer]:
        return cast(Iterator[DecoderLayer], super().__iter__())

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        states: Sequence[MixerState] | None = None,
        packing: Packing | None = None,
    ) -> Float[Tensor, "B T D"]:
        """`x` through all layers; `states` has one for each of them, or is None for whole sequences."""
        for i, layer in enumerate(self):
            x = layer(x, None if states is None else states[i], packing)
        return x

    def write_step(self, writer: Writer, x: Float[Tensor, "B D"], states: Sequence[MixerState]) -> None:
        """Append all layers to a program; they change `x` in place."""
        refuse_another(self, DecoderStack)
        for layer, state in zip(self, states, strict=True):
            layer.write_step(writer, x, state)

    def observed(
        self,
        x: Float[Tensor, "B T D"],
        observe: Observe,
        *,
        first_index: int = 0,
        packing: Packing | None = None,
    ) -> Float[Tensor, "B T D"] | None:
        """`forward` of whole sequences that shows every layer to `observe`; None once that says to stop.

        Args:
            x: the residual stream.
            observe: called in every layer, before its output projection.
            first_index: number of the first layer.
            packing: of the sequences, if they are in one row.
        """
        for index, layer in enumerate(self, start=first_index):
            u = layer.mixer_input(x)
            head_outputs = layer.mixer.heads_of(u, packing)
            if not observe(index, u, head_outputs):
                return None
            x = layer.after_mixer(x, layer.mixer.output(head_outputs))
        return x


class Decoder(nn.Module):
    """Token embeddings, layers, a last norm and the output head."""

    def __init__(self, config: DecoderConfig, layer_class: type[DecoderLayer] = DecoderLayer) -> None:
        super().__init__()
        self.tokens = Embedding(config.vocab_size, config.hidden_size)
        self.layers = DecoderStack(config, layer_class)
        self.norm = RmsNorm(config.hidden_size, eps=config.rms_norm_eps)
        # a tied head shares the weight of the embedding
        self.output = None if config.tie_output else Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        states: Sequence[MixerState] | None = None,
        packing: Packing | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Normed hidden states of embedded tokens."""
        return self.norm(self.layers(x, states, packing))

    def logits(self, hidden: Float[Tensor, "*positions D"]) -> Float[Tensor, "*positions V"]:
        """Scores of the next token."""
        return linear(hidden, self._head) if self.output is None else self.output(hidden)

    def write_step(self, writer: Writer, x: Float[Tensor, "B D"], states: Sequence[MixerState]) -> Float[Tensor, "B V"]:
        """Append layers, norm and output head to a program; what its last step writes."""
        refuse_changed(self, Decoder, "forward", "logits")
        self.layers.write_step(writer, x, states)
        return writer.product(writer.normed(x, self.norm), self._head, None, "logits")

    @property
    def _head(self) -> Float[Tensor, "V D"]:
        return self.tokens.weight if self.output is None else self.output.weight


@dataclass(frozen=True, slots=True)
class MixerLayer:
    """A layer whose mixer can be compared with another or replaced by it.

    Attributes:
        index: its number, counted through all stacks of the model.
        name: its path in the model.
        layer: the layer; `layer.mixer` is the mixer.
    """

    index: int
    name: str
    layer: DecoderLayer


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """A batch of prompts, or the tokens that follow those in a decoding state.

    Rows are padded on the right or not, or all prompts are packed into one row.

    Attributes:
        tokens: what the language model reads; an image token stands for a part of a tile.
        pixel_values: the tiles of all rows, in the order of their image tokens.
        hd_tokens: what the holistic embedding reads if it sees every patch (pixel shuffle `post`).
        lengths: real tokens of each row of `tokens`, if rows are padded.
        packing: of `tokens`, if the prompts are packed; not with a decoding state.
        hd_packing: of `hd_tokens`.
    """

    tokens: Int[Tensor, "B T"]
    pixel_values: Float[Tensor, "tiles channels height width"] | None = None
    hd_tokens: Int[Tensor, "B T_hd"] | None = None
    lengths: Int[Tensor, " B"] | None = None
    packing: Packing | None = None
    hd_packing: Packing | None = None


class LanguageModel(nn.Module, ABC):
    """Tokens, and images where the architecture has `vision`, to scores of the next token.

    Attributes:
        config: the architecture; its type says of which family the model is.
    """

    config: ModelConfig

    @property
    @abstractmethod
    def input_embedding(self) -> nn.Embedding:
        """The embeddings of the tokens that the first layer reads."""

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights that no stage trains."""
        return self.input_embedding.weight.dtype

    @abstractmethod
    def mixer_layers(self) -> list[MixerLayer]:
        """Every layer with a mixer, in the order of computation."""

    def converted_layers(self) -> list[MixerLayer]:
        """The layers that are softmax attention no longer."""
        return [layer for layer in self.mixer_layers() if not layer.layer.mixer.is_attention]

    def choose_backends(self) -> dict[str, str]:
        """Settle the implementations of all operators, once the model is on its device; their names.

        Raises:
            BackendError: if one that is asked for by name cannot run there.
        """
        names: dict[str, str] = {}
        for layer in self.mixer_layers():
            names |= layer.layer.mixer.choose_backends()
        return names

    @abstractmethod
    def hidden(self, inputs: Inputs, state: DecodingState | None = None) -> Float[Tensor, "B T D"]:
        """Hidden states that `logits` reads; with a state, which takes the tokens in, of the tokens behind it.

        Raises:
            InputError: if tokens and tiles do not match, or a sequence is too long.
        """

    @abstractmethod
    def observed(self, inputs: Inputs, observe: Observe) -> Float[Tensor, "B T D"] | None:
        """`hidden` of whole sequences that shows every layer to `observe`; None once that says to stop.

        Raises:
            InputError: as `hidden`.
        """

    @abstractmethod
    def logits(self, hidden: Float[Tensor, "*positions D"]) -> Float[Tensor, "*positions V"]:
        """Scores of the next token; for some positions only, give their hidden states only."""

    def forward(self, inputs: Inputs, state: DecodingState | None = None) -> Float[Tensor, "B T V"]:
        """Scores of the next token at every position; as `hidden`."""
        return self.logits(self.hidden(inputs, state))

    @abstractmethod
    def allocate_state(self, batch_size: int, *, max_length: int, hd_max_length: int | None = None) -> DecodingState:
        """An empty state for `max_length` tokens a row, prompt and answer together.

        Args:
            batch_size: B.
            max_length: room for `Inputs.tokens`.
            hd_max_length: room for `Inputs.hd_tokens`, where the model reads them.
        """

    def write_step(self, writer: Writer, state: DecodingState) -> Program:
        """The program that takes one token of every row, as `forward` does with this state.

        Raises:
            NoProgramError: if a part of the model has no compiled steps; a family has none unless it overrides this.
        """
        raise NoProgramError(f"{type(self).__name__} has no compiled steps")

    def layer_lengths(self, inputs: Inputs) -> list[int]:
        """The number of tokens of `inputs` that each layer reads."""
        return [inputs.tokens.shape[1]] * len(self.mixer_layers())

    def layer_packings(self, inputs: Inputs) -> list[Packing | None]:
        """How the sequences that each layer reads are packed."""
        return [inputs.packing] * len(self.mixer_layers())


def numbered(stacks: Sequence[tuple[str, DecoderStack]]) -> list[MixerLayer]:
    """The layers of named stacks in one flat list."""
    named = [(f"{name}.{i}", layer) for name, layers in stacks for i, layer in enumerate(layers)]
    return [MixerLayer(index, name, layer) for index, (name, layer) in enumerate(named)]


def draw_weights(model: nn.Module, *, generator: torch.Generator, std: float) -> None:
    """Random weights in place: norms one, biases zero, everything else N(0, std^2)."""
    for name, parameter in model.named_parameters():
        draw_weight(name, parameter, generator=generator, std=std)


@torch.no_grad()
def draw_weight(name: str, tensor: Tensor, *, generator: torch.Generator, std: float) -> None:
    """One of the tensors of `draw_weights`, in place."""
    if name.endswith("norm.weight"):
        tensor.fill_(1.0)
    elif name.endswith("bias"):
        tensor.zero_()
    else:
        tensor.normal_(std=std, generator=generator)


def refuse_unknown_tokens(tokens: Int[Tensor, "B T"], vocab_size: int, *, is_start: bool = False) -> None:
    """Refuse ids of a prompt that have no embedding; on a GPU they would end the process.

    A single token on a GPU, which would have to wait for it at every step of an answer, is looked at only if
    `is_start` says that it begins a sequence.

    Raises:
        InputError: naming the first id.
    """
    if tokens.shape[1] == 1 and tokens.device.type != "cpu" and not is_start:
        return
    is_unknown = (tokens < 0) | (tokens >= vocab_size)
    if is_unknown.any():
        raise InputError(f"tokens hold {int(tokens[is_unknown][0])} but ids must lie in 0 .. {vocab_size - 1}")
