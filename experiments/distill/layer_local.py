"""Losses and gradients of stages 1 and 2, layer by layer, while the teacher runs.

Every layer of the student is a separate regression from the teacher layer's input to its head outputs. So each layer's
loss and gradient are computed while the teacher is in that layer, and its graph is freed before the next one. Memory is
one layer's; gradients are those of the summed loss.
"""

# Letters: B batch, T tokens, H heads, P head_dim, D model width.

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from lab.core.mixers.base import Mixer
from lab.core.models.decoder import Inputs, LanguageModel
from lab.experiments.distill.losses import layer_mse


def layer_local_backward(
    teacher: LanguageModel,
    inputs: Inputs,
    mixers: Mapping[int, Mixer],
    *,
    scale: float,
    mask_of: Callable[[int], Bool[Tensor, "B T"] | None],
    autocast: Callable[[], AbstractContextManager[None]],
) -> dict[int, float]:
    """Run the teacher once; accumulate in every mixer the gradient of `scale` times its mean squared error.

    Args:
        teacher: frozen; it stops after the last layer with a mixer.
        inputs: a batch.
        mixers: the student's, by layer index.
        scale: of the gradient: 1000 / L for mmMamba's loss, 1000 times the mean over L layers; 0 for no gradient.
        mask_of: gives the positions in the loss for a sequence of this many tokens; None for all.
        autocast: context of the student's forward pass.

    Returns:
        The mean squared error of each layer.
    """
    errors: dict[int, Tensor] = {}
    packings = teacher.layer_packings(inputs)
    last = max(mixers, default=-1)

    def learn(index: int, u: Float[Tensor, "B T D"], head_outputs: Float[Tensor, "B H T P"]) -> bool:
        if index in mixers:
            with torch.set_grad_enabled(scale != 0):
                with autocast():
                    ours = mixers[index].heads_of(u, packings[index])
                error = layer_mse(ours, head_outputs, mask=mask_of(u.shape[1]))
                if scale != 0:
                    torch.autograd.backward(scale * error)
            errors[index] = error.detach()
        return index < last

    with torch.no_grad():
        teacher.observed(inputs, learn)
    return {index: float(error) for index, error in errors.items()}
