"""config.json of models with a vision tower: the parts that families share, read and written."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

from lab.core.data.image_processor_json import settings
from lab.core.errors import CheckpointError, ConfigError
from lab.core.models.checkpoint import StoredTensors
from lab.core.models.config import MOST_LAYERS, DecoderConfig
from lab.core.models.hf_config import Json, Section
from lab.core.models.image_processor import IMAGE_PROCESSOR, read_pictures, with_image_processor
from lab.core.models.vision_encoder import completed
from lab.core.models.vision_language_config import (
    VisionEncoderConfig,
    VisionLanguageConfig,
    text_families,
    text_family,
)

Config = TypeVar("Config", bound=VisionLanguageConfig)

TEXT, TOWER, TIED = "text_config", "vision_config", "tie_word_embeddings"
LAYER = "vision_feature_layer"
HEAD = "language_model.lm_head.weight"


def with_files(renamed: Callable[[str], str]) -> Callable[[Json, Path], Json]:
    """See `FamilySpec.with_files`: adds the image processor, and whether the weights have an output head.

    Args:
        renamed: see `FamilySpec.renamed`.
    """

    def complete(content: Json, folder: Path) -> Json:
        content = with_image_processor(content, folder)
        try:
            has_head = HEAD in StoredTensors(folder, renamed)
        # a folder without weights is refused once they are asked for
        except CheckpointError:
            return content
        # transformers ties nothing that a checkpoint has twice, and its defaults say more often tied than it is so
        return {**content, TIED: False} if has_head else content

    return complete


def read_vision_language(
    kind: type[Config],
    top: Section,
    tower: Section,
    *,
    tokens_per_tile: int,
    image_token_id: int,
    processors: tuple[str, ...],
    tied: bool,
    content: Json,
    start: str = "",
    end: str = "",
) -> Config:
    """The architecture that a config.json describes, with the image processor under its key.

    Args:
        kind: the family's dataclass.
        top: config.json.
        tower: see `read_tower`.
        tokens_per_tile: image tokens of a tile.
        image_token_id: the token whose embedding an image token replaces.
        processors: see `read_pictures`.
        tied: see `read_decoder`.
        content: the keys that transformers builds tower and projector from, without those of every family.
        start: text in front of the image tokens of a picture.
        end: text behind them.

    Raises:
        BackendError: if transformers is not installed.
        ConfigError: naming the key that is missing, of a wrong type or not implemented, and its value.
    """
    vision = VisionEncoderConfig(
        image_size=side(tower, "image_size"),
        num_channels=tower.whole("num_channels"),
        tokens_per_tile=tokens_per_tile,
        image_token_id=image_token_id,
        pictures=read_pictures(top, known=processors),
        start=start,
        end=end,
        content={
            TOWER: dict(tower.content),
            "image_seq_length": tokens_per_tile,
            "projector_hidden_act": top.content.get("projector_hidden_act", "gelu"),
            **content,
        },
    )
    return kind(vision=vision, **read_decoder(top, tied=tied))


def read_decoder(top: Section, *, tied: bool) -> dict[str, Any]:
    """The fields of a `VisionLanguageConfig` about the decoder.

    Args:
        top: config.json.
        tied: where it has no `tie_word_embeddings`.

    Raises:
        BackendError: if transformers, whose defaults complete the file, is not installed.
        ConfigError: naming the key that is missing, of a wrong type or not implemented, and its value.
    """
    given = top.section(TEXT)
    model_type = given.content.get("model_type")
    known = {name: spec for name, spec in text_families().items() if model_type in spec.model_types}
    if not known:
        types = [each for spec in text_families().values() for each in spec.model_types]
        raise ConfigError(f"{given.prefix}model_type={model_type} is not implemented, only {', '.join(types)}")
    name, spec = next(iter(known.items()))
    content = completed(given.content, TEXT)
    if top.has(TIED) or tied:
        content[TIED] = top.flag(TIED, default=tied)
    try:
        text = spec.read(content)
    except ConfigError as error:
        raise ConfigError(f"{given.prefix}{error}") from None
    assert isinstance(text, DecoderConfig), "those of text_families"
    return {"family": name, "text": text}


def read_tower(top: Section, known: Collection[str]) -> Section:
    """The vision tower, with the defaults of its class.

    Raises:
        BackendError: if transformers is not installed.
        ConfigError: if it is not one of `known`.
    """
    given = top.section(TOWER)
    model_type = given.content.get("model_type")
    if not isinstance(model_type, str) or model_type not in known:
        raise ConfigError(f"{given.prefix}model_type={model_type} is not implemented, only {', '.join(known)}")
    return Section(completed(given.content, TOWER), given.prefix)


def feature_layer(top: Section, tower: Section, *, default: int) -> int:
    """The layer of the tower whose states the projector reads: 0 is what the first reads, -1 what the last gives.

    Raises:
        ConfigError: if the tower has no such layer.
    """
    return _layer(LAYER, top.content[LAYER] if top.has(LAYER) else default, tower)


def feature_layers(top: Section, tower: Section, *, default: int) -> int | list[int]:
    """As `feature_layer`, or several, whose states stand beside each other.

    Raises:
        ConfigError: if the tower has no such layer, or the list is empty.
    """
    given = top.content.get(LAYER)
    if not isinstance(given, list):
        return feature_layer(top, tower, default=default)
    if not given:
        raise ConfigError(f"{LAYER}=[] must name a layer; copy config.json again")
    return [_layer(f"{LAYER}[{i}]", each, tower) for i, each in enumerate(given)]


def _layer(name: str, given: object, tower: Section) -> int:
    most = tower.whole("num_hidden_layers", at_most=MOST_LAYERS)
    if not isinstance(given, int) or isinstance(given, bool) or not -most - 1 <= given <= most:
        raise ConfigError(
            f"{name}={given} must be a whole number from {-most - 1} to {most}, since "
            f"{tower.prefix}num_hidden_layers={most}; copy config.json again"
        )
    return given


def side(tower: Section, key: str) -> int:
    """A size that is a number, or the same two."""
    value = tower.content.get(key)
    if isinstance(value, list) and len(value) == 2 and value[0] == value[1]:
        return Section({key: value[0]}, tower.prefix).whole(key)
    return tower.whole(key)


def patches_per_side(tower: Section) -> int:
    """Whole patches along a side of a tile."""
    return side(tower, "image_size") // side(tower, "patch_size")


def vision_language_json(config: VisionLanguageConfig, *, model_type: str, model_class: str) -> dict[str, Any]:
    """A config.json that describes `config`; the image processor, which has a file in releases, is a key of it."""
    text = text_family(config.family)
    pictures = config.vision.pictures
    return {
        "model_type": model_type,
        "architectures": [model_class],
        TIED: config.text.tie_output,
        **config.vision.content,
        TEXT: text.write(config.text),
        IMAGE_PROCESSOR: settings(pictures, max_tiles=pictures.max_tiles),
    }
