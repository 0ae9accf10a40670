"""What is trained on what in `lab bench train`: widths of known teachers with random weights, on made samples."""

# Letters: B batch, T tokens.

from dataclasses import dataclass

import numpy as np

from lab.core.data.chat_template import Conversation
from lab.core.data.picture_format import IMAGENET
from lab.core.data.sample import Sample
from lab.core.data.stream import Source
from lab.core.mixers.rotary import RotaryConfig
from lab.core.models.config import DecoderConfig, max_length
from lab.core.models.decoder import LanguageModel
from lab.core.runs.random_streams import Seeds
from lab.experiments.bench.architectures import architecture_of
from lab.experiments.bench.teachers import picture_source, picture_teacher, text_teacher
from lab.experiments.distill.loss_mask import LossMask

SMOLLM2 = "smollm2"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainSetting:
    """The teacher, and the sizes of a training.

    Attributes:
        teacher: `hovle_2p6b` or `smollm2`: layers of their language models, on random tokens; `hovle_tiny`: the whole
            model, on the built-in task.
        num_layers: of the language model.
        batch_size: B.
        steps: of a call.
        accumulation: batches of a step, of all processes together.
        num_tokens: T of random tokens; None if the task determines it.
        vocab_size: of the language model; None for the teacher's own.
        is_packed: whether the samples of a batch stand behind each other in one row.
        loss_mask: the name of a `LossMask`: positions that enter the loss.
    """

    teacher: str
    num_layers: int
    batch_size: int
    steps: int
    accumulation: int = 1
    num_tokens: int | None = None
    vocab_size: int | None = None
    is_packed: bool = False
    loss_mask: str = LossMask.all.value

    def __str__(self) -> str:
        what = f"{self.num_tokens:,} random tokens" if self.num_tokens else "prompts of the built-in task"
        several = f", each of {self.accumulation} batches" if self.accumulation > 1 else ""
        return (
            f"float32, widths of {self.teacher}, {self.num_layers} layers of the language model, batch "
            f"{self.batch_size}, {what}; {self.steps} steps with AdamW{several}"
        )


@dataclass(frozen=True, slots=True)
class RandomTokens:
    """Sequences of random tokens, the same for every process, without end."""

    num_tokens: int
    vocab_size: int

    def __getitem__(self, index: int) -> Sample:
        ids = Seeds(0).numpy("bench train", index).integers(self.vocab_size, size=self.num_tokens, dtype=np.int64)
        return Sample(np.empty((0, 1, 1, 3), np.uint8), Conversation(ids, ids, ids, ()), (), IMAGENET)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainPlan:
    """Sizes of a benchmark of trainings.

    Attributes:
        settings: by name.
        stages: of each, by the same name.
    """

    settings: dict[str, TrainSetting]
    stages: dict[str, tuple[int, ...]]


Opened = tuple[LanguageModel, Source, int]
"""A frozen teacher, what its training reads, and the most tokens of a sample."""


def open_setting(setting: TrainSetting) -> Opened:
    """A frozen teacher with random weights, and what a training of this size reads."""
    if setting.num_tokens is None:
        teacher, tokenizer = picture_teacher(setting.teacher, setting.num_layers)
        return teacher, picture_source(teacher, tokenizer), max_length(teacher.config)
    widths = _smollm2() if setting.teacher == SMOLLM2 else architecture_of(setting.teacher).decoders[-1]
    generator = Seeds(0).torch("bench train")
    teacher = text_teacher(widths, num_layers=setting.num_layers, vocab_size=setting.vocab_size, generator=generator)
    return teacher, RandomTokens(setting.num_tokens, teacher.config.decoders[-1].vocab_size), setting.num_tokens


def _smollm2() -> DecoderConfig:
    """SmolLM2-135M, as its config.json says."""
    return DecoderConfig(
        num_layers=30,
        hidden_size=576,
        intermediate_size=1536,
        num_heads=9,
        num_kv_heads=3,
        head_dim=64,
        vocab_size=49152,
        rms_norm_eps=1e-5,
        tie_output=True,
        rotary=RotaryConfig(theta=1e5, max_length=8192),
    )
