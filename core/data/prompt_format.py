"""How prompts are written for a model: system message, tiles of an image, and where image tokens are merged."""

from dataclasses import dataclass

from lab.core.data.picture_format import IMAGENET, Colours, TowerFormat
from lab.core.errors import ConfigError

# the marks that a conversation is built with, under their public names
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
IMAGE_START, IMAGE_CONTEXT, IMAGE_END = "<img>", "<IMG_CONTEXT>", "</img>"
IMAGE_TOKENS = (IMAGE_START, IMAGE_CONTEXT, IMAGE_END)
# of an image; public models use 12 to 40
MOST_TILES = 256
# what a user writes where an image belongs
IMAGE_MARK = "<image>"


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptFormat:
    """The prompt format of one model; the defaults are HoVLE's.

    Attributes:
        system: the system message. A public checkpoint's scores depend on it: copy it from the release's
            `conversation.py`.
        image_size: side of a tile in pixels.
        patch_size: side of a patch in pixels; it divides `image_size`.
        shuffle_factor: patches along each side that the pixel shuffle merges into one token.
        reads_every_patch: whether the embedding reads every patch, and patches are merged behind it (pixel shuffle
            `post`), not in front.
        max_tiles: most tiles of an image, the thumbnail not counted.
        has_images: whether the model reads images; a text model's conversations are written by the chat template of
            its tokenizer.
        tower: of a model with a vision tower, in place of the three sizes; conversations are written by its own chat
            template.
    """

    system: str = ""
    image_size: int = 448
    patch_size: int = 14
    shuffle_factor: int = 2
    reads_every_patch: bool = False
    max_tiles: int = 12
    has_images: bool = True
    tower: TowerFormat | None = None

    def __post_init__(self) -> None:
        if any(token in self.system for token in (*IMAGE_TOKENS, IMAGE_MARK)):
            raise ConfigError(f"system={self.system[:60]!r} holds an image token; a system message cannot have images")
        for key in ("image_size", "patch_size", "shuffle_factor", "max_tiles"):
            if getattr(self, key) < 1:
                raise ConfigError(f"{key}={getattr(self, key)} must be 1 or more; raise it")
        if self.tower is not None:
            least = self.tower.pictures.min_tiles
            if self.max_tiles < least:
                raise ConfigError(
                    f"prompt.max_tiles={self.max_tiles} is below min_patches={least} of the teacher's image processor; "
                    "raise it, or max_dynamic_patch of a data set"
                )
            return
        if self.image_size % self.patch_size:
            raise ConfigError(
                f"patch_size={self.patch_size} must divide image_size={self.image_size}; choose one that does"
            )
        if self._patches_a_side % self.shuffle_factor:
            raise ConfigError(
                f"shuffle_factor={self.shuffle_factor} must divide the {self._patches_a_side} patches of a tile's "
                "side; choose one that does"
            )

    @property
    def _patches_a_side(self) -> int:
        return self.image_size // self.patch_size

    @property
    def patches_per_tile(self) -> int:
        """Tokens of a tile before the pixel shuffle."""
        return self._patches_a_side**2

    @property
    def tokens_per_tile(self) -> int:
        """Image tokens of a tile: those after the pixel shuffle, or as many as the vision tower makes."""
        return self.tower.tokens_per_tile if self.tower else (self._patches_a_side // self.shuffle_factor) ** 2

    @property
    def colours(self) -> Colours:
        """How the colours of tiles are normalised."""
        return IMAGENET if self.tower is None else self.tower.pictures.colours
