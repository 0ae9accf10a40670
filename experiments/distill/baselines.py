"""Training-free baselines: the teacher with images ablated, and the teacher with windowed attention."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

# Letters: B batch, T tokens, D model width.
from lab.core.data.batch import Batch
from lab.core.errors import ConfigError
from lab.core.mixers.base import Mixer
from lab.core.mixers.softmax import narrow_attention, narrowed_attention
from lab.core.models.decoder import LanguageModel
from lab.core.operators.packing import Packing
from lab.core.parallel.layout import cut_modules, is_cut


@dataclass(frozen=True, slots=True)
class Baseline:
    """What a student should be better than, or nearly as good as.

    Attributes:
        name: in tables.
        model: that answers.
        change: what becomes of a batch before it is answered; tokens stay where they are.
    """

    name: str
    model: LanguageModel
    change: Callable[[Batch], Batch] = lambda batch: batch


def baselines(teacher: LanguageModel, *, window: int, num_sinks: int) -> list[Baseline]:
    """The teacher first, then what is made of it without training."""
    found = [Baseline("teacher", teacher)]
    if teacher.config.vision is not None:
        found.append(Baseline("teacher, images ablated", teacher, ablate_images))
    windowed = with_window(teacher, window=window, num_sinks=num_sinks)
    return [*found, Baseline(f"teacher, window {window} + {num_sinks}", windowed)]


def ablate_images(batch: Batch) -> Batch:
    """The same questions with all images set to uniform grey: measures what the text alone gives away."""
    return replace(batch, pixel_values=torch.zeros_like(batch.pixel_values))


def with_window(teacher: LanguageModel, *, window: int, num_sinks: int) -> LanguageModel:
    """The teacher with every attention restricted to the last `window` tokens and the first `num_sinks`.

    Weights share storage with the teacher. A training-free baseline that some linear students have lost to (attention
    sinks: Xiao et al., arXiv 2309.17453).
    """
    return with_windows(teacher, {layer.index: window for layer in teacher.mixer_layers()}, num_sinks=num_sinks)


def with_windows(teacher: LanguageModel, windows: Mapping[int, int], *, num_sinks: int) -> LanguageModel:
    """As `with_window`, with a window for each layer; layers without one see every token."""
    tensors = {id(tensor): tensor for tensor in (*teacher.parameters(), *teacher.buffers())}
    windowed = copy.deepcopy(teacher, {**tensors, **cut_modules(teacher)})
    for layer in windowed.mixer_layers():
        mixer = layer.layer.mixer
        if layer.index in windows and is_cut(mixer):
            narrowed = _Narrowed(mixer, last=windows[layer.index], num_first=num_sinks)
            layer.layer.mixer = narrowed  # type: ignore[assignment]
        elif layer.index in windows:
            narrow_attention(mixer, last=windows[layer.index], num_first=num_sinks)
    return windowed.requires_grad_(False).eval()


class _Narrowed(nn.Module):
    """An attention that is the teacher's own, restricted while it is called from here."""

    def __init__(self, mixer: Mixer, *, last: int, num_first: int) -> None:
        super().__init__()
        self.mixer, self._last, self._num_first = mixer, last, num_first

    def forward(self, u: Float[Tensor, "B T D"], packing: Packing | None = None) -> Float[Tensor, "B T D"]:
        """See `Mixer.forward`."""
        with narrowed_attention(self.mixer, last=self._last, num_first=self._num_first):
            y: Tensor = self.mixer(u, packing)
        return y


def windows_of_equal_memory(student: LanguageModel, teacher: LanguageModel, *, num_sinks: int) -> dict[int, int]:
    """For each converted layer, the tokens behind the sinks whose keys and values take as many bytes as its state.

    Args:
        student: linear or hybrid.
        teacher: of the student, in the same precision.
        num_sinks: first tokens that the cache holds too.

    Returns:
        By the number of the layer; what is left over of a state is less than a token.

    Raises:
        ConfigError: if a state has no room for a token behind the sinks.
    """
    windows = {}
    bytes_per_token = {
        layer.index: layer.layer.mixer.allocate_state(1, max_length=1).num_bytes for layer in teacher.mixer_layers()
    }
    for layer in student.converted_layers():
        # its size does not depend on the length of a sequence
        num_bytes = layer.layer.mixer.allocate_state(1, max_length=1).num_bytes
        num_tokens = num_bytes // bytes_per_token[layer.index]
        if num_tokens <= num_sinks:
            raise ConfigError(
                f"num_sinks={num_sinks}: the state of {layer.name} is as large as a cache of {num_tokens} tokens, "
                "which leaves none to a window; lower it"
            )
        windows[layer.index] = num_tokens - num_sinks
    return windows
