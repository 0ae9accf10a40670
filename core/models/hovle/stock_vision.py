"""HoVLE's patches in the llava of transformers: a SigLIP without layers, and llava's own projector.

With pixel shuffle `pre` a square of r x r patches becomes a token before anything mixes tokens, so one convolution over
the whole square is the patch embedding of its patches: their channels stand one after the other, by row, column and
channel. The one layer that a SigLIP must have is not read: llava takes what goes into it.
"""

# Letters: D model width, C channels of pixels, S side of a patch in pixels, r shuffle factor, N squares along a side.

import torch
from jaxtyping import Float
from torch import Tensor

from lab.core.errors import ConfigError
from lab.core.mixers.tensor_rules import TensorRule, Tensors, derived, renamed, with_zeros
from lab.core.models.config import PixelShuffle, VisionConfig
from lab.core.models.hovle.model import Hovle
from lab.core.models.stock_vision import StockVision

_CLIP, _VISION = "vision_tower.vision_model", "embedding.vision"


def stock_vision(model: Hovle) -> StockVision:
    """The tower and the projector.

    Raises:
        ConfigError: for pixel shuffle `post`, whose two stacks read different sequences.
    """
    vision = model.config.vision
    if vision.pixel_shuffle is not PixelShuffle.pre:
        raise ConfigError(
            f"vision.pixel_shuffle={vision.pixel_shuffle.value}: the holistic embedding reads another sequence than "
            "the language model, and no stock architecture has two; a teacher with pixel shuffle pre would do, or "
            "--format mmmamba"
        )
    width = model.config.embedding.hidden_size * vision.shuffle_factor**2
    return StockVision(
        model_type="llava",
        model_class="LlavaForConditionalGeneration",
        config={
            "vision_config": {
                "model_type": "siglip_vision_model",
                "hidden_size": width,
                "intermediate_size": 1,
                "num_hidden_layers": 1,
                "num_attention_heads": 1,
                "num_channels": vision.num_channels,
                "image_size": vision.image_size,
                "patch_size": vision.patch_size * vision.shuffle_factor,
                "vision_use_head": False,
            },
            "image_token_index": vision.image_token_id,
            "image_seq_length": vision.tokens_per_tile,
            # what goes into the only layer
            "vision_feature_layer": -2,
            "vision_feature_select_strategy": "full",
            "projector_hidden_act": "gelu",
            "multimodal_projector_bias": True,
        },
        rules=(
            _taps(vision),
            with_zeros(_bias(vision), _unread(width)),
            _positions(vision),
            *renamed(
                "multi_modal_projector",
                "embedding.projector",
                {
                    f"linear_{number}.{part}": f"{2 * number - 2}.{part}"
                    for number in (1, 2)
                    for part in ("weight", "bias")
                },
            ),
        ),
    )


def _taps(vision: VisionConfig) -> TensorRule:
    """Each patch's weights at its place in the square, zeros elsewhere."""
    factor, side = vision.shuffle_factor, vision.patch_size

    def write(tensors: Tensors) -> Tensors:
        taps = tensors[0]
        whole = taps.new_zeros(factor, factor, *taps.shape[:2], factor * side, factor * side)
        for row in range(factor):
            for column in range(factor):
                rows, columns = (slice(place * side, (place + 1) * side) for place in (row, column))
                whole[row, column, :, :, rows, columns] = taps
        return [whole.flatten(0, 2)]

    def read(tensors: Tensors) -> Tensors:
        return [tensors[0][: len(tensors[0]) // factor**2, :, :side, :side].clone()]

    name = f"{_CLIP}.embeddings.patch_embedding.weight"
    return derived((name,), (f"{_VISION}.patch_embedding.weight",), read=read, write=write)


def _bias(vision: VisionConfig) -> TensorRule:
    copies = vision.shuffle_factor**2
    return derived(
        (f"{_CLIP}.embeddings.patch_embedding.bias",),
        (f"{_VISION}.patch_embedding.bias",),
        read=lambda tensors: [tensors[0][: len(tensors[0]) // copies].clone()],
        write=lambda tensors: [tensors[0].repeat(copies)],
    )


def _positions(vision: VisionConfig) -> TensorRule:
    """The table of positions by squares; the class token, which nothing reads, has no place and is read as zeros."""
    factor, num_squares = vision.shuffle_factor, vision.patches_per_side // vision.shuffle_factor

    def write(tensors: Tensors) -> Tensors:
        grid: Float[Tensor, "N r N r D"] = tensors[0][0, 1:].reshape(num_squares, factor, num_squares, factor, -1)
        return [grid.permute(0, 2, 1, 3, 4).flatten(2).flatten(0, 1)]

    def read(tensors: Tensors) -> Tensors:
        squares = tensors[0].reshape(num_squares, num_squares, factor, factor, -1)
        table = squares.permute(0, 2, 1, 3, 4).flatten(0, 3)
        unread = table.new_zeros(1, table.shape[1])
        return [torch.cat([unread, table])[None], unread[None]]

    names = (f"{_VISION}.position_embedding", f"{_VISION}.class_embedding")
    return TensorRule((f"{_CLIP}.embeddings.position_embedding.weight",), names, read=read, write=write)


def _unread(width: int) -> dict[str, tuple[int, ...]]:
    """The tensors of SigLIP's layer and last norm, by name and shape."""
    layer = f"{_CLIP}.encoder.layers.0"
    sizes: dict[str, tuple[int, ...]] = {}
    for norm in (f"{layer}.layer_norm1", f"{layer}.layer_norm2", f"{_CLIP}.post_layernorm"):
        sizes |= {f"{norm}.weight": (width,), f"{norm}.bias": (width,)}
    for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
        name = f"{layer}.self_attn.{part}"
        sizes |= {f"{name}.weight": (width, width), f"{name}.bias": (width,)}
    sizes |= {f"{layer}.mlp.fc1.weight": (1, width), f"{layer}.mlp.fc1.bias": (1,)}
    return sizes | {f"{layer}.mlp.fc2.weight": (width, 1), f"{layer}.mlp.fc2.bias": (width,)}
