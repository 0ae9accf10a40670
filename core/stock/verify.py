"""A stock folder against the student that it holds, both in float32: logits, and an answer through a cache."""

# Letters: T tokens, V vocabulary.

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lab.core.errors import CheckpointError
from lab.core.models.config import max_length
from lab.core.models.decoder import Inputs, LanguageModel
from lab.core.models.generation import allocate
from lab.core.models.steps import Steps
from lab.core.optional_packages import load_package
from lab.core.silent_transformers import silent

# what needs transformers
FORMAT = "--format transformers"
# of the largest logit; another order of gate and norm is off by 0.7
TOLERANCE = 1e-5
# where the student's own rounding, which layers amplify, is not that small: so many times it, and never more than this
_TIMES_ROUNDING, _MOST = 10, 1e-3
NUM_NEW = 64
_PROMPT = 40


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far transformers and the student agree.

    Attributes:
        relative_error: largest difference of logits over the largest logit.
        limit: of it.
        num_tokens: tokens of the greedy answer, all equal.
        rounding: the student's own error, against itself in float64, where that had to be looked at; else None.
    """

    relative_error: float
    limit: float
    num_tokens: int
    rounding: float | None = None

    @property
    def in_words(self) -> str:
        """How near the logits are."""
        words = f"logits within {self.relative_error:.1e}"
        return words if self.rounding is None else f"{words} where float32 alone is off by {self.rounding:.1e}"


def probe(student: LanguageModel, generator: torch.Generator) -> Inputs:
    """A prompt of random tokens, and two random tiles where the model reads images."""
    config, vision = student.config, student.config.vision
    longest = max_length(config)
    vocab_size = config.decoders[-1].vocab_size
    tiles = 0 if vision is None else max(1, min(2, longest // (2 * vision.tokens_per_tile)))
    num_image = 0 if vision is None else tiles * vision.tokens_per_tile
    tokens = torch.randint(0, vocab_size, (1, min(_PROMPT, max(2, (longest - num_image) // 2))), generator=generator)
    if vision is None:
        return Inputs(tokens=tokens)
    tokens[tokens == vision.image_token_id] = 0 if vision.image_token_id else 1
    half = tokens.shape[1] // 2
    image = torch.full((1, num_image), vision.image_token_id)
    size = (tiles, vision.num_channels, vision.image_size, vision.image_size)
    pixels = torch.randn(size, generator=generator)
    return Inputs(tokens=torch.cat([tokens[:, :half], image, tokens[:, half:]], dim=1), pixel_values=pixels)


@torch.no_grad()
def verify(folder: Path, student: LanguageModel, prompt: Inputs) -> Agreement:
    """Load a folder with transformers, without code from it, and compare it with the student.

    Args:
        folder: whole but for its digests.
        student: in float32.
        prompt: one row.

    Raises:
        BackendError: if transformers is not installed.
        CheckpointError: if it does not load, or does not agree.
    """
    theirs = _load(folder, images=prompt.pixel_values is not None)
    with quiet(folder):
        found = theirs(**_inputs(prompt), use_cache=False).logits.float()
    expected = student(prompt)
    error, limit, rounding = _difference(found, expected), TOLERANCE, None
    if error > limit:
        rounding = _difference(expected, copy.deepcopy(student).double()(prompt))
        limit = min(_MOST, max(limit, _TIMES_ROUNDING * rounding))
    if not error <= limit:
        raise CheckpointError(
            f"{folder.name}: the logits of transformers differ by {error:.2g} of the largest one, more than "
            f"{limit:.2g}; nothing was written. Use --format mmmamba, and report the model"
        )
    room = max_length(student.config) - prompt.tokens.shape[1]
    num_new = max(1, min(NUM_NEW, room))
    ours, margins = _answer(student, prompt, num_new)
    with quiet(folder):
        theirs.generation_config.eos_token_id = None
        ids = theirs.generate(
            **_inputs(prompt), do_sample=False, max_new_tokens=num_new, use_cache=True, pad_token_id=0
        )
    answer = ids[0, prompt.tokens.shape[1] :].tolist()
    for place, (one, other) in enumerate(zip(ours, answer, strict=True)):
        if one == other:
            continue
        # two tokens that are as likely up to rounding may be exchanged, and what follows is another answer
        if margins[place][other] > limit:
            raise CheckpointError(
                f"{folder.name}: token {place + 1} of {num_new} of a greedy answer through the cache of transformers "
                f"is {other} instead of {one}; nothing was written. Use --format mmmamba, and report the model"
            )
        return Agreement(error, limit, place, rounding)
    return Agreement(error, limit, num_new, rounding)


def _difference(found: Float[Tensor, "1 T V"], expected: Float[Tensor, "1 T V"]) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def _answer(student: LanguageModel, prompt: Inputs, num_new: int) -> tuple[list[int], list[Float[Tensor, " V"]]]:
    """A greedy answer; at each token how far every other one is behind it, as a share of the largest logit."""
    steps = Steps(student, allocate(student, prompt, num_new))
    tokens, margins, inputs = [], [], prompt
    for _ in range(num_new):
        logits = steps.logits(inputs)[0].clone()
        tokens.append(int(logits.argmax()))
        margins.append((logits.max() - logits) / logits.abs().max())
        inputs = Inputs(tokens=prompt.tokens.new_full((1, 1), tokens[-1]))
    return tokens, margins


def _inputs(prompt: Inputs) -> dict[str, Tensor]:
    inputs = {"input_ids": prompt.tokens, "attention_mask": torch.ones_like(prompt.tokens)}
    return inputs if prompt.pixel_values is None else {**inputs, "pixel_values": prompt.pixel_values}


def _load(folder: Path, *, images: bool) -> Any:
    transformers = load_package("transformers", needed_by=FORMAT)
    kind = transformers.AutoModelForImageTextToText if images else transformers.AutoModelForCausalLM
    with quiet(folder):
        model, loading = kind.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    for name in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if loading.get(name):
            raise CheckpointError(f"{folder.name}: transformers says {name}={sorted(loading[name])[:3]}")
    return model.eval()


@contextmanager
def quiet(folder: Path) -> Iterator[None]:
    """Keep transformers from printing, and tell its errors in one line."""
    transformers = load_package("transformers", needed_by=FORMAT)
    try:
        with silent(transformers):
            yield
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, IndexError) as error:
        if isinstance(error, CheckpointError):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{folder.name} cannot be run by transformers: {reason}") from error
