"""The problems of `lab bench loader`: photographs of twelve megapixels, and conversations of very different lengths."""

# Letters: T tokens.

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lab.core.data.chat_template import IGNORED, Conversation
from lab.core.data.conversations import SOURCE, ConversationsConfig
from lab.core.data.picture_format import IMAGENET
from lab.core.data.prompt_format import IMAGE_CONTEXT
from lab.core.data.sample import Sample
from lab.core.data.source_spec import SourceRequest
from lab.core.models.config import max_length
from lab.core.models.decoder import LanguageModel
from lab.core.runs.random_streams import Seeds
from lab.experiments.bench.architectures import architecture_of
from lab.experiments.bench.train_setting import Opened
from lab.experiments.distill.data import PromptConfig, prompt_format
from lab.experiments.distill.tasks.picture_questions import picture_questions_tokenizer
from lab.experiments.distill.teacher import new_teacher

_CPU = torch.device("cpu")
# of a camera of twelve megapixels
PHOTOGRAPH = (4000, 3000)
SHORTEST, LONGEST = 20, 8192
_QUALITY = 92


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherSize:
    """HoVLE's architecture with its tiles of 448 pixels and patches of 14, but with fewer and narrower layers.

    Attributes:
        num_embedding: layers of the holistic embedding.
        num_llm: layers of the language model.
        hidden_size: width; heads have 64 channels, and two share a key head.
    """

    num_embedding: int
    num_llm: int
    hidden_size: int

    def teacher(self) -> LanguageModel:
        """One with random weights, and the vocabulary of the built-in task."""
        config: Any = architecture_of("hovle_2p6b")
        words = picture_questions_tokenizer(PromptConfig().system)
        num_heads = self.hidden_size // 64
        sizes: dict[str, Any] = {
            "hidden_size": self.hidden_size,
            "intermediate_size": 4 * self.hidden_size,
            "num_heads": num_heads,
            "num_kv_heads": num_heads // 2,
            "head_dim": 64,
            "vocab_size": len(words),
        }
        config = replace(
            config,
            vision=replace(config.vision, image_token_id=words.id_of(IMAGE_CONTEXT)),
            embedding=replace(config.embedding, num_layers=self.num_embedding, **sizes),
            llm=replace(config.llm, num_layers=self.num_llm, **sizes),
        )
        return new_teacher(config, words, device=_CPU, seed=0).requires_grad_(False).eval()


def write_photographs(folder: Path, *, number: int, size: tuple[int, int]) -> Path:
    """Write JPEG files that compress like photographs, and a conversation about each; where the conversations are."""
    folder.mkdir(parents=True)
    rng = Seeds(0).numpy("bench loader: photographs")
    lines = []
    for index in range(number):
        # large shapes, smaller ones, and the noise of a sensor
        photograph = np.zeros((size[1], size[0], 3), np.float32)
        for scale, weight in ((200, 60.0), (20, 15.0), (4, 6.0)):
            coarse = rng.normal(size=(size[1] // scale + 1, size[0] // scale + 1, 3)).astype(np.float32)
            for channel in range(3):
                layer = Image.fromarray(coarse[..., channel]).resize(size, Image.Resampling.BICUBIC)
                photograph[..., channel] += weight * np.asarray(layer)
        pixels = np.clip(photograph + 128, 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index}.jpg", quality=_QUALITY)
        turns = [{"from": "human", "value": "<image>\nWhat is framed in red?"}, {"from": "gpt", "value": "bag"}]
        lines.append(json.dumps({"image": f"{index}.jpg", "conversations": turns}))
    path = folder / "conversations.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def of_photographs(path: Path, size: TeacherSize, *, max_tiles: int) -> Opened:
    """A teacher that reads what `write_photographs` has written."""
    teacher, prompt = size.teacher(), PromptConfig(max_tiles=max_tiles)
    request = SourceRequest(
        split="train",
        seed=0,
        tokenizer=picture_questions_tokenizer(prompt.system),
        prompt_format=prompt_format(prompt, teacher.config),
        has_lessons=False,
    )
    source = SOURCE.open(ConversationsConfig(path=path, held_out_share=1e-9), request)
    return teacher, source, max_length(teacher.config)


@dataclass(frozen=True, slots=True)
class Conversations:
    """Random tokens, whose numbers are drawn log-uniformly, without end."""

    shortest: int
    longest: int
    vocab_size: int

    def __getitem__(self, index: int) -> Sample:
        rng = Seeds(0).numpy("bench loader: conversation", index)
        num_tokens = round(math.exp(rng.uniform(math.log(self.shortest), math.log(self.longest))))
        # the first ids are those of images and of turns
        ids = rng.integers(self.vocab_size // 2, self.vocab_size, size=num_tokens, dtype=np.int64)
        labels = np.full_like(ids, IGNORED)
        return Sample(np.empty((0, 1, 1, 3), np.uint8), Conversation(ids, ids, labels, ()), (), IMAGENET)


def of_conversations(size: TeacherSize, *, longest: int) -> Opened:
    """A teacher that reads conversations of 20 to `longest` tokens."""
    teacher = size.teacher()
    vocab_size = teacher.config.decoders[-1].vocab_size
    return teacher, Conversations(SHORTEST, longest, vocab_size), max_length(teacher.config)
