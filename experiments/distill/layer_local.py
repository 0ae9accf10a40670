"""Losses and gradients of stages 1 and 2, layer by layer, while the teacher runs.

Every layer of the student is a separate regression: it reads what the teacher's layer reads and is to give the
teacher's head outputs. A layer's loss is therefore computed, and its gradient taken, while the teacher is inside that
layer; its graph is gone before the next layer begins. Memory is that of one layer, gradients are those of the sum.
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
    """Run the teacher once; add to every mixer the gradient of `scale` times its own mean squared error.

    Args:
        teacher: frozen; it stops at the last layer that has a mixer.
        inputs: a batch.
        mixers: the student's, by the index of the layer.
        scale: of the gradient: 1000 / L for the mean of L layers that mmMamba takes times 1000; 0 for no gradient.
        mask_of: the positions that count in a sequence of this many tokens; None for all.
        autocast: a context for the student's forward pass.

    Returns:
        The mean squared error of each layer.
    """
    errors: dict[int, Tensor] = {}
    last = max(mixers, default=-1)

    def learn(index: int, u: Float[Tensor, "B T D"], head_outputs: Float[Tensor, "B H T P"]) -> bool:
        if index in mixers:
            with torch.set_grad_enabled(scale != 0):
                with autocast():
                    ours = mixers[index].head_outputs(u)
                error = layer_mse(ours, head_outputs, mask=mask_of(u.shape[1]))
                if scale != 0:
                    torch.autograd.backward(scale * error)
            errors[index] = error.detach()
        return index < last

    with torch.no_grad():
        teacher.observed(inputs, learn)
    return {index: float(error) for index, error in errors.items()}
