"""The architecture of HoVLE, and its config.json."""

from dataclasses import dataclass
from typing import Any

from lab.core.errors import ConfigError
from lab.core.mixers.rotary import RotaryKind
from lab.core.models.config import DecoderConfig, PixelShuffle, VisionConfig
from lab.core.models.hf_config import Json, Section, decoder_fields, decoder_json
from lab.core.models.hf_rotary import read_rotary, rotary_json

# InternLM2's
_ROTARY_KINDS = (RotaryKind.plain, RotaryKind.linear, RotaryKind.dynamic)


@dataclass(kw_only=True, slots=True)
class HovleConfig:
    """HoVLE (arXiv 2412.16158): patches and text through a holistic embedding, then through a language model."""

    vision: VisionConfig
    embedding: DecoderConfig
    llm: DecoderConfig

    def __post_init__(self) -> None:
        for name in ("hidden_size", "vocab_size"):
            ours, theirs = getattr(self.embedding, name), getattr(self.llm, name)
            if ours != theirs:
                raise ConfigError(f"embedding.{name}={ours} must be llm.{name}={theirs}")

    @property
    def decoders(self) -> tuple[DecoderConfig, ...]:
        """The holistic embedding, then the language model."""
        return self.embedding, self.llm


def read(content: Json) -> HovleConfig:
    """HoVLE, as released and in its HD variant.

    Raises:
        ConfigError: naming the key that is missing, of a wrong type or not implemented, and its value.
    """
    top = Section(content)
    embedding, llm = top.section("embedding_config"), top.section("llm_config")
    top.accept_only(normalize_encoder_output=False, quantization_config=None)
    embedding.accept_only(
        hidden_act="silu", attention_bias=False, mlp_bias=False, use_ls=False, use_pixel_shuffle_proj=True
    )
    embedding.accept_only(special_token_maps={}, layers_block_type=None)
    llm.accept_only(hidden_act="silu", bias=False, layers_block_type=None)
    image_size, ratio = embedding.whole("image_size"), embedding.number("downsample_ratio")
    if not 0 < ratio <= 1 or abs(1 / ratio - round(1 / ratio)) > 1e-6:
        raise ConfigError(f"embedding_config.downsample_ratio={ratio:g} must be 1, 1/2, 1/3 and so on")
    # the outer keys count the image tokens of a prompt, the inner ones make them
    top.accept_only(force_image_size=image_size, downsample_ratio=ratio)
    embedding.accept_only(llm_hidden_size=llm.whole("hidden_size"))
    location = embedding.content.get("pixel_shuffle_loc", "pre")
    if location not in PixelShuffle.__members__:
        raise ConfigError(f"embedding_config.pixel_shuffle_loc={location} must be pre or post")
    return HovleConfig(
        vision=VisionConfig(
            image_size=image_size,
            patch_size=embedding.whole("patch_size"),
            num_channels=embedding.whole("num_channels"),
            shuffle_factor=round(1 / ratio),
            pixel_shuffle=PixelShuffle[location],
            image_token_id=embedding.whole("img_context_token_id", at_least=0),
        ),
        embedding=_read_decoder(embedding, vocab_size=embedding.whole("llm_vocab_size")),
        llm=_read_decoder(llm, vocab_size=llm.whole("vocab_size")),
    )


def write(config: HovleConfig) -> dict[str, Any]:
    """A config.json that describes `config`."""
    vision = config.vision
    tiles = {"image_size": vision.image_size, "downsample_ratio": 1 / vision.shuffle_factor}
    embedding = {
        "model_type": "holistic_embedding",
        "patch_size": vision.patch_size,
        "num_channels": vision.num_channels,
        "pixel_shuffle_loc": vision.pixel_shuffle.value,
        "img_context_token_id": vision.image_token_id,
        "llm_vocab_size": config.embedding.vocab_size,
        "llm_hidden_size": config.llm.hidden_size,
        "use_pixel_shuffle_proj": True,
        "use_ls": False,
        "special_token_maps": {},
        "attention_bias": False,
    }
    llm = {
        "model_type": "internlm2",
        "architectures": ["InternLM2ForCausalLM"],
        "vocab_size": config.llm.vocab_size,
        "bias": False,
        "tie_word_embeddings": False,
    }
    return {
        "model_type": "internvl_chat",
        "force_image_size": vision.image_size,
        "downsample_ratio": tiles["downsample_ratio"],
        "normalize_encoder_output": False,
        "template": "internlm2-chat",
        "embedding_config": embedding | tiles | _decoder_json(config.embedding),
        "llm_config": llm | _decoder_json(config.llm),
    }


def _read_decoder(section: Section, *, vocab_size: int) -> DecoderConfig:
    return DecoderConfig(
        **decoder_fields(section), vocab_size=vocab_size, rotary=read_rotary(section, kinds=_ROTARY_KINDS)
    )


def _decoder_json(config: DecoderConfig) -> dict[str, Any]:
    return decoder_json(config) | rotary_json(config.rotary, kind_key="type")
