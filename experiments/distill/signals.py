"""What the teacher's attention reads and says, captured by hooks while it runs; the model knows nothing of it.

In stages 1 and 2 every layer of the student is a regression of its own: it reads what the teacher's layer reads, and
is to give the teacher's heads. A layer's loss is therefore computed, and its gradient taken, while the teacher is
inside that layer; its graph is gone before the next layer begins. Memory is that of one layer, gradients are those of
the sum.
"""

# Letters: B batch, T tokens, H heads, P head_dim, D model width.

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from lab.core.errors import InputError
from lab.core.mixers.base import Mixer
from lab.core.mixers.softmax import SoftmaxAttention
from lab.core.models.decoder import LanguageModel
from lab.experiments.distill.losses import layer_mse

# index of the layer, its normed input (B, T, D), its heads before the output projection (B, H, T, P)
Receive = Callable[[int, Tensor, Tensor], None]


@contextmanager
def captured(teacher: LanguageModel, receive: Receive) -> Iterator[None]:
    """Within this, every forward pass of the teacher hands each layer's input and heads to `receive`, layer by layer.

    Raises:
        InputError: if a layer has no softmax attention.
    """
    with ExitStack() as hooks:
        for layer in teacher.mixer_layers():
            mixer = layer.layer.mixer
            if not isinstance(mixer, SoftmaxAttention):
                raise InputError(f"{layer.name} of the teacher is {mixer.kind}; a teacher has softmax attention only")
            for handle in _hooks(mixer, layer.index, receive):
                hooks.callback(handle.remove)
        yield


def _hooks(mixer: SoftmaxAttention, index: int, receive: Receive) -> Iterator[Any]:
    inputs: list[Tensor] = []

    def keep_input(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        inputs.append(arguments[0])

    def give(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        (joined,) = arguments
        heads = joined.view(*joined.shape[:2], mixer.shape.num_heads, mixer.shape.head_dim).transpose(1, 2)
        receive(index, inputs.pop(), heads)

    yield mixer.register_forward_pre_hook(keep_input)
    yield mixer.wo.register_forward_pre_hook(give)


class _Enough(Exception):
    """Behind the last layer that learns, the teacher need not go on."""


def layer_local_backward(
    forward: Callable[[], Any],
    teacher: LanguageModel,
    mixers: Mapping[int, Mixer],
    *,
    scale: float,
    is_counted: Callable[[int], Bool[Tensor, "B T"] | None],
    autocast: Callable[[], Any],
) -> dict[int, float]:
    """Run the teacher once; add to every mixer the gradient of `scale` times its own mean squared error.

    Args:
        forward: runs the teacher on a batch; left at the heads of the last layer that has a mixer.
        teacher: frozen.
        mixers: the student's, by the index of the layer.
        scale: of the gradient: 1000 / L for the mean of L layers that mmMamba takes times 1000; 0 for no gradient.
        is_counted: the positions that count in a sequence of so many tokens; None for all.
        autocast: a context for the student's forward pass.

    Returns:
        The mean squared error of each layer.
    """
    errors: dict[int, Tensor] = {}
    last = max(mixers, default=None)

    def learn(index: int, u: Float[Tensor, "B T D"], heads: Float[Tensor, "B H T P"]) -> None:
        if index not in mixers:
            return
        with torch.set_grad_enabled(scale != 0):
            with autocast():
                ours = mixers[index].heads(u)
            error = layer_mse(ours, heads, is_counted=is_counted(u.shape[1]))
            if scale != 0:
                torch.autograd.backward(scale * error)
        errors[index] = error.detach()
        if index == last:
            raise _Enough

    with captured(teacher, learn), torch.no_grad(), suppress(_Enough):
        forward()
    return {index: float(error) for index, error in errors.items()}
