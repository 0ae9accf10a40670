"""Frozen teachers with random weights, and what the training of one reads."""

from dataclasses import fields, replace
from typing import Any

import torch

from lab.core.data.source_spec import SourceRequest
from lab.core.data.stream import Source
from lab.core.models.config import DecoderConfig
from lab.core.models.decoder import LanguageModel
from lab.core.models.families import build_random
from lab.core.models.spec import families
from lab.core.tokenizer import Tokenizer
from lab.experiments.bench.architectures import architecture_of
from lab.experiments.distill.data import PromptConfig, prompt_format
from lab.experiments.distill.data_sources import DataConfig
from lab.experiments.distill.tasks.picture_questions import PictureQuestionsConfig, picture_questions_tokenizer
from lab.experiments.distill.teacher import new_teacher

_CPU = torch.device("cpu")
PICTURES = DataConfig(picture_questions=PictureQuestionsConfig())


def text_teacher(
    widths: DecoderConfig, *, num_layers: int, vocab_size: int | None = None, generator: torch.Generator
) -> LanguageModel:
    """Layers of a language model alone, in float32.

    Args:
        widths: of the layers.
        num_layers: how many of them.
        vocab_size: None for that of `widths`.
        generator: draws the weights.
    """
    values = {field.name: getattr(widths, field.name) for field in fields(widths)} | {"num_layers": num_layers}
    values |= {} if vocab_size is None else {"vocab_size": vocab_size}
    # any text family has these layers
    config: Any = families()["llama"].config(**values)
    teacher = build_random(config, device=_CPU, dtype=torch.float32, generator=generator, std=widths.hidden_size**-0.5)
    return teacher.requires_grad_(False).eval()


def picture_teacher(name: str, num_layers: int) -> tuple[LanguageModel, Tokenizer]:
    """A teacher of conf/teacher with some layers of its language model, and its tokenizer."""
    config: Any = architecture_of(name)
    config = replace(config, llm=replace(config.llm, num_layers=num_layers))
    tokenizer = picture_questions_tokenizer(PromptConfig().system)
    teacher = new_teacher(config, tokenizer, device=_CPU, seed=0)
    return teacher.requires_grad_(False).eval(), tokenizer


def picture_source(teacher: LanguageModel, tokenizer: Tokenizer) -> Source:
    """What a training of that teacher reads."""
    request = SourceRequest(
        split="train",
        seed=0,
        tokenizer=tokenizer,
        prompt_format=prompt_format(PromptConfig(), teacher.config),
        has_lessons=False,
    )
    return PICTURES.source.open(PICTURES.options, request)
