"""Training-free baselines: the teacher with images ablated, and the teacher with windowed attention."""

import copy
from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch

from lab.core.data.batch import Batch
from lab.core.mixers.softmax import narrow_attention
from lab.core.models.decoder import LanguageModel


def ablate_images(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The same questions with all images set to uniform grey: measures what the text alone gives away."""
    for batch in batches:
        yield replace(batch, pixel_values=torch.zeros_like(batch.pixel_values))


def with_window(teacher: LanguageModel, *, window: int, num_sinks: int) -> LanguageModel:
    """The teacher with every attention restricted to the last `window` tokens and the first `num_sinks`.

    Weights share storage with the teacher. A training-free baseline that some linear students have lost to (attention
    sinks: Xiao et al., arXiv 2309.17453).
    """
    memo = {id(tensor): tensor for tensor in (*teacher.parameters(), *teacher.buffers())}
    windowed = copy.deepcopy(teacher, memo)
    for layer in windowed.mixer_layers():
        narrow_attention(layer.layer.mixer, last=window, num_first=num_sinks)
    return windowed.requires_grad_(False).eval()
