"""Hidden states of a model: the residual stream behind some of its layers."""

# Letters: B batch, T tokens, D model width.

from collections.abc import Sequence
from contextlib import ExitStack, suppress

import torch
from jaxtyping import Float
from torch import Tensor

from lab.core.errors import ConfigError
from lab.core.models.decoder import Inputs, LanguageModel


def layers_of(asked: Sequence[int] | None, num_layers: int) -> tuple[int, ...]:
    """Numbers of layers from 1: those asked for, where negative ones count from the end, or an early, middle, late one.

    Raises:
        ConfigError: naming one that the model does not have.
    """
    if asked is None:
        return tuple(dict.fromkeys(max(1, round(num_layers * share)) for share in (1 / 6, 1 / 2, 5 / 6)))
    found = tuple(number + num_layers + 1 if number < 0 else number for number in asked)
    for number, given in zip(found, asked, strict=True):
        if not 1 <= number <= num_layers:
            raise ConfigError(f"layers={given}: the model has {num_layers} layers, numbered from 1, or -1 for the last")
    return tuple(dict.fromkeys(found))


class _ReachedError(Exception):
    """All layers that were asked for have run."""


@torch.no_grad()
def states_behind(model: LanguageModel, inputs: Inputs, layers: Sequence[int]) -> dict[int, Float[Tensor, "B T D"]]:
    """What comes out of some layers, before the last norm, for whole sequences. Layers behind the last one do not run.

    Args:
        model: in evaluation mode.
        inputs: without a decoding state.
        layers: numbers from 1.

    Raises:
        ConfigError: for a layer that reads other tokens than the language model (pixel shuffle `post`).
        InputError: as `LanguageModel.hidden`.
    """
    lengths = model.layer_lengths(inputs)
    own = inputs.tokens.shape[1]
    for number in layers:
        if lengths[number - 1] != own:
            raise ConfigError(
                f"layers={number}: it reads other tokens than the language model; choose one behind layer "
                f"{max(place for place, length in enumerate(lengths, 1) if length != own)}"
            )
    caught: dict[int, Tensor] = {}
    stacks = {layer.index + 1: layer.layer for layer in model.mixer_layers()}
    with ExitStack() as stack:
        for number in layers:

            def catch(module: object, inputs: object, output: Tensor, number: int = number) -> None:
                caught[number] = output
                if len(caught) == len(set(layers)):
                    raise _ReachedError

            stack.callback(stacks[number].register_forward_hook(catch).remove)
        with suppress(_ReachedError):
            model.hidden(inputs)
    return caught
