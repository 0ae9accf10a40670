"""HoVLE (arXiv 2412.16158): a vision-language model without a vision encoder.

Patches of image tiles are projected into the sequence of text embeddings; a few causal decoder layers, the holistic
embedding, turn the whole into what an unchanged language model reads. Released with four patches merged into one token
before the holistic embedding (pixel shuffle `pre`); the HD variant merges them behind it (`post`), so that the holistic
embedding sees every patch and reads a longer sequence, `hd_tokens`, than the language model.
"""

# Letters: B batch, T tokens, N tiles, C channels, D model width, h rows and w columns of patches, r shuffle factor.

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from lab.core.decoding.program import Program
from lab.core.decoding.writer import Writer, refuse_changed
from lab.core.errors import InputError
from lab.core.models.config import PixelShuffle, VisionConfig
from lab.core.models.decoder import (
    Decoder,
    DecoderStack,
    Inputs,
    LanguageModel,
    MixerLayer,
    Observe,
    numbered,
    refuse_unknown_tokens,
)
from lab.core.models.decoding_state import DecodingState
from lab.core.models.embedding import Embedding
from lab.core.models.hovle.config import HovleConfig
from lab.core.operators.packing import Packing
from lab.core.products.linear import Linear


class PatchEmbedding(nn.Module):
    """A linear map of each patch plus a learned position, resized to the grid of the tile."""

    def __init__(self, config: VisionConfig, hidden_size: int) -> None:
        super().__init__()
        self.patches_per_side = config.patches_per_side
        self.patch_embedding = nn.Conv2d(config.num_channels, hidden_size, config.patch_size, stride=config.patch_size)
        # slot 0 belongs to the class token; neither is used, both are part of released checkpoints
        self.position_embedding = nn.Parameter(torch.empty(1, 1 + self.patches_per_side**2, hidden_size))
        self.class_embedding = nn.Parameter(torch.empty(1, 1, hidden_size))

    def forward(self, pixel_values: Float[Tensor, "N C height width"]) -> Float[Tensor, "N D h w"]:
        """Embedded patches as a grid."""
        patches = self.patch_embedding(pixel_values.to(self.patch_embedding.weight.dtype))
        return patches + self._positions(patches.shape[2], patches.shape[3])

    def _positions(self, num_rows: int, num_columns: int) -> Float[Tensor, "1 D h w"]:
        side = self.patches_per_side
        grid = self.position_embedding[:, 1:].transpose(1, 2).reshape(1, -1, side, side)
        if (num_rows, num_columns) == (side, side):
            return grid
        wide = grid.to(torch.promote_types(grid.dtype, torch.float32))
        resized = functional.interpolate(wide, size=(num_rows, num_columns), mode="bicubic", align_corners=False)
        return resized.to(grid.dtype)


class HolisticEmbedding(nn.Module):
    """Patches and text to the input of the language model."""

    def __init__(self, config: HovleConfig) -> None:
        super().__init__()
        size = config.embedding.hidden_size
        merged_size = size * config.vision.shuffle_factor**2
        self.vision = PatchEmbedding(config.vision, size)
        self.tokens = Embedding(config.embedding.vocab_size, size)
        self.projector = nn.Sequential(Linear(merged_size, size), nn.GELU(), Linear(size, size))
        self.layers = DecoderStack(config.embedding)


class Hovle(LanguageModel):
    """The holistic embedding and the language model behind it."""

    config: HovleConfig

    def __init__(self, config: HovleConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = HolisticEmbedding(config)
        self.llm = Decoder(config.llm)

    @property
    def input_embedding(self) -> nn.Embedding:
        """The holistic embedding's table."""
        return self.embedding.tokens

    def layer_lengths(self, inputs: Inputs) -> list[int]:
        """The layers of the holistic embedding read `hd_tokens` where they are given."""
        num_embedding = len(self.embedding.layers)
        hd_tokens = inputs.tokens if inputs.hd_tokens is None else inputs.hd_tokens
        num_llm = len(self.llm.layers)
        return [hd_tokens.shape[1]] * num_embedding + [inputs.tokens.shape[1]] * num_llm

    def layer_packings(self, inputs: Inputs) -> list[Packing | None]:
        """As `layer_lengths`."""
        first = _embedding_packing(inputs)
        return [first] * len(self.embedding.layers) + [inputs.packing] * len(self.llm.layers)

    def mixer_layers(self) -> list[MixerLayer]:
        """The layers of the holistic embedding, then those of the language model."""
        return numbered([("embedding.layers", self.embedding.layers), ("llm.layers", self.llm.layers)])

    def allocate_state(self, batch_size: int, *, max_length: int, hd_max_length: int | None = None) -> DecodingState:
        """An empty state; the layers of the holistic embedding have room for `hd_max_length` tokens if given."""
        layers = self.mixer_layers()
        num_embedding = len(self.embedding.layers)
        max_lengths = [hd_max_length or max_length] * num_embedding + [max_length] * (len(layers) - num_embedding)
        return DecodingState.allocate([layer.layer.mixer for layer in layers], batch_size, max_lengths=max_lengths)

    def hidden(self, inputs: Inputs, state: DecodingState | None = None) -> Float[Tensor, "B T D"]:
        """Normed hidden states of the last layer; see `LanguageModel.hidden`."""
        states = None if state is None else state.layers[len(self.embedding.layers) :]
        return self.llm(self.embed(inputs, state), states, inputs.packing)

    def observed(self, inputs: Inputs, observe: Observe) -> Float[Tensor, "B T D"] | None:
        """See `LanguageModel.observed`."""
        packing = _embedding_packing(inputs)
        holistic = self.embedding.layers.observed(self._embedding_input(inputs), observe, packing=packing)
        if holistic is None:
            return None
        first_index = len(self.embedding.layers)
        x = self.llm.layers.observed(
            self._llm_input(holistic, inputs), observe, first_index=first_index, packing=inputs.packing
        )
        return None if x is None else self.llm.norm(x)

    def logits(self, hidden: Float[Tensor, "*positions D"]) -> Float[Tensor, "*positions V"]:
        """Scores of the next token."""
        return self.llm.logits(hidden)

    def write_step(self, writer: Writer, state: DecodingState) -> Program:
        """See `LanguageModel.write_step`; the token is one of text."""
        refuse_changed(self, Hovle, "forward", "hidden", "logits", "embed", "_llm_input", "_embedding_input")
        num_embedding = len(self.embedding.layers)
        x = writer.embed(self.embedding.tokens)
        self.embedding.layers.write_step(writer, x, state.layers[:num_embedding])
        return writer.finish(self.llm.write_step(writer, x, state.layers[num_embedding:]))

    def embed(self, inputs: Inputs, state: DecodingState | None = None) -> Float[Tensor, "B T D"]:
        """What the language model reads.

        Raises:
            InputError: if tokens, hd_tokens and tiles do not match.
        """
        states = None if state is None else state.layers
        holistic = self.embedding.layers(self._embedding_input(inputs), states, _embedding_packing(inputs))
        return self._llm_input(holistic, inputs)

    def _llm_input(self, holistic: Float[Tensor, "B T_hd D"], inputs: Inputs) -> Float[Tensor, "B T D"]:
        """The output of the holistic embedding as the sequence that the language model reads."""
        if inputs.hd_tokens is None:
            return holistic
        x = self._text_of(holistic, inputs.hd_tokens, inputs)
        if inputs.pixel_values is None:
            return x
        patches = holistic[self._is_image(inputs.hd_tokens)]
        return self._place(x, self._is_image(inputs.tokens), self._merge(patches, inputs.pixel_values))

    def _embedding_input(self, inputs: Inputs) -> Float[Tensor, "B T_hd D"]:
        """What the layers of the holistic embedding read: text, and patches at the places of image tokens."""
        is_post = self.config.vision.pixel_shuffle is PixelShuffle.post
        if inputs.hd_tokens is not None and not is_post:
            raise InputError("hd_tokens are for pixel shuffle 'post'; this model has 'pre', leave them out")
        if inputs.hd_tokens is None and inputs.pixel_values is not None and is_post:
            raise InputError("hd_tokens are missing; a model with pixel shuffle 'post' reads images through them")
        tokens = inputs.tokens if inputs.hd_tokens is None else inputs.hd_tokens
        pixel_values = inputs.pixel_values
        refuse_unknown_tokens(tokens, self.config.embedding.vocab_size)
        x = self.embedding.tokens(tokens)
        if pixel_values is not None:
            patches = self.embedding.vision(pixel_values)
            if self.config.vision.pixel_shuffle is PixelShuffle.pre:
                features = self.embedding.projector(shuffle_pixels(patches, self.config.vision.shuffle_factor))
            else:
                features = patches.flatten(2).transpose(1, 2)
            x = self._place(x, self._is_image(tokens), features.flatten(0, 1))
        elif tokens.shape[1] > 1 and self._is_image(tokens).any():
            raise InputError("tokens hold image tokens but there are no pixel_values; give the tiles")
        return x

    def _merge(
        self, patches: Float[Tensor, "tokens D"], pixel_values: Float[Tensor, "N C height width"]
    ) -> Float[Tensor, "merged D"]:
        """Image tokens of the language model from the holistic embedding's patches (pixel shuffle `post`)."""
        size = self.config.vision.patch_size
        grid = (pixel_values.shape[0], pixel_values.shape[2] // size, pixel_values.shape[3] // size)
        by_tile = patches.reshape(*grid, -1).permute(0, 3, 1, 2)
        return self.embedding.projector(shuffle_pixels(by_tile, self.config.vision.shuffle_factor)).flatten(0, 1)

    def _is_image(self, tokens: Int[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
        return tokens == self.config.vision.image_token_id

    def _place(
        self, x: Float[Tensor, "B T D"], is_image: Bool[Tensor, "B T"], features: Float[Tensor, "tokens D"]
    ) -> Float[Tensor, "B T D"]:
        """`x` with its image tokens replaced by features, in order."""
        num_places = int(is_image.sum())
        if num_places != features.shape[0]:
            raise InputError(
                f"tokens hold {num_places} image tokens but the tiles in pixel_values make {features.shape[0]}; give "
                "every tile its image tokens"
            )
        return x.masked_scatter(is_image[..., None], features.to(x.dtype))

    def _text_of(
        self, holistic: Float[Tensor, "B T_hd D"], hd_tokens: Int[Tensor, "B T_hd"], inputs: Inputs
    ) -> Float[Tensor, "B T D"]:
        """The text of the longer sequence at its places in the shorter one; image places and padding hold anything."""
        is_text, hd_is_text = ~self._is_image(inputs.tokens), ~self._is_image(hd_tokens)
        num_text, num_hd_text = is_text.sum(dim=1), hd_is_text.sum(dim=1)
        if inputs.lengths is None:
            fits = num_text == num_hd_text
        else:
            # the two sequences of a row may be padded to different lengths
            is_real = torch.arange(is_text.shape[1], device=is_text.device) < inputs.lengths[:, None]
            fits = (is_text & is_real).sum(dim=1) <= num_hd_text
        if not fits.all():
            row = int((~fits).nonzero()[0, 0])
            raise InputError(
                f"row {row}: tokens hold {int(num_text[row])} text tokens but hd_tokens hold {int(num_hd_text[row])}; "
                "both must hold the same text (padded rows need lengths)"
            )
        hd_text_first = (~hd_is_text).int().argsort(dim=1, stable=True)
        rank = (is_text.cumsum(dim=1) - 1).clamp(0, hd_is_text.shape[1] - 1)
        source = hd_text_first.gather(1, rank)
        return holistic.gather(1, source[..., None].expand(-1, -1, holistic.shape[2]))


def _embedding_packing(inputs: Inputs) -> Packing | None:
    return inputs.packing if inputs.hd_tokens is None else inputs.hd_packing


def shuffle_pixels(grid: Float[Tensor, "N D h w"], factor: int) -> Float[Tensor, "N tokens merged"]:
    """Each r x r square of patches as one token of r^2 D channels, ordered by row, column, channel.

    Raises:
        InputError: if the grid does not divide into squares.
    """
    num_rows, num_columns = grid.shape[2:]
    if num_rows % factor or num_columns % factor:
        raise InputError(
            f"a tile has {num_rows} x {num_columns} patches, which do not divide into squares of {factor} x {factor}; "
            "resize the tiles"
        )
    squares = grid.reshape(*grid.shape[:2], num_rows // factor, factor, num_columns // factor, factor)
    return squares.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)
