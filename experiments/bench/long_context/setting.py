"""Which model, in which precision, at which lengths: from the command line, and what of it memory can hold."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from lab.core.errors import ConfigError, InputError
from lab.core.models.config import ModelConfig
from lab.core.models.families import TeacherConfig
from lab.core.models.folder import ModelFolder, Precision
from lab.core.models.spec import build
from lab.core.resources import available_memory, refuse_too_large
from lab.experiments.bench.architectures import architecture_of, with_layers
from lab.experiments.bench.long_context.models import Kind, Models, models_of, random_models, share_tables
from lab.experiments.distill.teacher import load_teacher

_LENGTHS = tuple(1024 * thousands for thousands in (1, 2, 4, 8, 16, 32, 64, 103, 128))
_PRECISIONS = {"bfloat16": torch.bfloat16, "float32": torch.float32}
# besides weights and caches: the paper's concatenation of a layer, a layer in a wider dtype, tables of angles
_WORKING_SHARE, _WORKING_BYTES = 0.035, 0.6e9
# of a number of layers
_DIGITS = 4
_LENGTH = re.compile(r"(\d{1,9})(K?)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A teacher and the lengths of its contexts.

    Attributes:
        teacher: a file of conf/teacher, whose architecture gets random weights, or the folder of a checkpoint.
        precision: name of the dtype of weights and caches.
        num_layers: of all stacks together.
        lengths: tokens in the cache before a step, ascending.
        config: the architecture.
    """

    teacher: str
    precision: str
    num_layers: int
    lengths: tuple[int, ...]
    config: ModelConfig

    @classmethod
    def of(cls, options: Mapping[str, str], *, quick: bool) -> "Setting":
        """From the command line.

        Raises:
            ConfigError: for an unknown teacher or precision, and a number of layers that it cannot have.
            InputError: for a length that is not a number, or that the position embedding cannot take.
            CheckpointError: for a folder without a model.
        """
        teacher = options.get("teacher", "hovle_tiny" if quick else "hovle_2p6b")
        precision = options.get("precision", "float32" if quick else "bfloat16")
        if precision not in _PRECISIONS:
            raise ConfigError(f"precision={precision}: choose from {', '.join(_PRECISIONS)}")
        is_folder = Path(teacher).is_dir()
        config = ModelFolder(Path(teacher)).architecture if is_folder else architecture_of(teacher)
        layers = options.get("layers")
        if layers is not None:
            if is_folder or not layers.isdecimal() or len(layers) > _DIGITS:
                raise ConfigError(f"layers={layers}: give a whole number, with an architecture of conf/teacher only")
            config = with_layers(config, int(layers))
        given = options.get("lengths")
        lengths = parsed(given) if given else (64, 128, 256) if quick else _LENGTHS
        for decoder in config.decoders:
            longest = decoder.rotary.longest
            if longest is not None and max(lengths) + 1 > longest:
                raise InputError(f"lengths={max(lengths)}: {teacher} can take at most {longest - 1}")
        num_layers = sum(decoder.num_layers for decoder in config.decoders)
        return cls(teacher=teacher, precision=precision, num_layers=num_layers, lengths=lengths, config=config)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of weights and caches."""
        return _PRECISIONS[self.precision]

    @property
    def has_given_weights(self) -> bool:
        """Whether the weights are those of a folder."""
        return Path(self.teacher).is_dir()

    def models(self, kinds: Collection[Kind] = tuple(Kind), *, is_lean: bool = True) -> Models:
        """The models.

        Args:
            kinds: which ones.
            is_lean: see `random_models`.

        Raises:
            ConfigError: if their weights alone do not fit into memory.
        """
        refuse_too_large(self.weight_bytes(), f"teacher={self.teacher} precision={self.precision}", "give fewer layers")
        if not self.has_given_weights:
            return random_models(self.config, self.dtype, kinds, is_lean=is_lean)
        given = TeacherConfig(path=self.teacher, precision=Precision(self.precision))
        return models_of(load_teacher(given, device=torch.device("cpu"), seed=0), kinds)

    def with_fewer_layers(self, num_tokens: int) -> "Setting | None":
        """The most layers whose weights and cache fit; None if none do, or the weights are given."""
        for count in range(self.num_layers - 1, 2 * len(self.config.decoders), -1):
            fewer = replace(self, num_layers=count, config=with_layers(self.config, count))
            if not self.has_given_weights and fewer.fits(num_tokens, Kind.teacher):
                return fewer
        return None

    def fits(self, num_tokens: int, kind: Kind, *, held: float = 0) -> bool:
        """Whether a model and its state fit; where nothing is known of the memory, yes.

        Args:
            num_tokens: in the cache.
            kind: of the model.
            held: bytes of it that are in memory already.
        """
        free = available_memory()
        return free is None or self.needed(num_tokens, kind) - held <= free

    def needed(self, num_tokens: int, kind: Kind) -> float:
        """Bytes of weights and state, and to work with them."""
        cache = self.cache_bytes(num_tokens, kind)
        return self.weight_bytes() + (1 + _WORKING_SHARE) * cache + _WORKING_BYTES

    def weight_bytes(self) -> float:
        """Bytes of all three models' weights; of what students add, only gates are large enough to count."""
        model = build(self.config, dtype=self.dtype)
        share_tables(model)
        gates = sum(
            layer.layer.mixer.shape.num_heads * layer.layer.mixer.shape.head_dim for layer in model.mixer_layers()
        )
        width = self.config.decoders[-1].hidden_size
        table = (
            0 if self.has_given_weights or self.config.decoders[-1].tie_output else model.input_embedding.weight.nbytes
        )
        weights = sum(parameter.nbytes for parameter in model.parameters()) - table
        return weights + gates * width * self.dtype.itemsize

    def cache_bytes(self, num_tokens: int, kind: Kind) -> int:
        """Bytes of the keys and values of this many tokens."""
        shapes: list[Any] = [decoder for decoder in self.config.decoders for _ in range(decoder.num_layers)]
        per_token = sum(
            2 * shape.num_kv_heads * shape.head_dim * self.dtype.itemsize
            for index, shape in enumerate(shapes)
            if kind.keeps_attention(index)
        )
        return per_token * (num_tokens + 1)


def parsed(text: str) -> tuple[int, ...]:
    """Lengths such as 512,1K,103K, in ascending order.

    Raises:
        InputError: naming what is not a length.
    """
    found = set()
    for part in text.split(","):
        match = _LENGTH.fullmatch(part.strip())
        if match is None or int(match[1]) < 1:
            raise InputError(
                f"lengths={text}: {part.strip()!r} is not a length; write numbers of tokens, such as 512,1K,103K"
            )
        found.add(int(match[1]) * (1024 if match[2] else 1))
    return tuple(sorted(found))


def in_words(num_tokens: int) -> str:
    """1,024 tokens as 1K."""
    return f"{num_tokens // 1024}K" if num_tokens % 1024 == 0 else f"{num_tokens:,}"
