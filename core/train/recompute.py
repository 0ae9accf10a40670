"""Activation checkpointing: a layer keeps its input alone, and is computed again in the backward pass."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from torch.utils.checkpoint import checkpoint, set_checkpoint_early_stop

from lab.core.models.decoder import LanguageModel


@contextmanager
def recomputed_layers(model: LanguageModel, *, is_on: bool) -> Iterator[None]:
    """A context in which every layer of a model is computed again in the backward pass; gradients are the same.

    Args:
        model: without layers that draw random numbers.
        is_on: whether it is done.
    """
    layers = [each.layer for each in model.mixer_layers()] if is_on else []
    for layer in layers:
        layer.forward = partial(  # type: ignore[method-assign]
            checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False
        )
    try:
        # a layer in parts is given up when its forward pass has ended, which therefore must not stop early
        with set_checkpoint_early_stop(not is_on):
            yield
    finally:
        for layer in layers:
            del layer.forward
