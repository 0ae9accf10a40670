"""Rows of a probe from the states of a model behind one layer."""

# Letters: N rows, D width of the model, V next tokens, m outputs.

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64
from numpy import ndarray

from lab.core.errors import ConfigError
from lab.experiments.probe.config import ProbeConfig, Target
from lab.experiments.probe.rows import BLOCK, Block
from lab.experiments.probe.states import States


@dataclass(frozen=True, slots=True)
class StateRows:
    """See `Rows`: states of one layer, with the token that each stands at as its cluster."""

    states: Float32[ndarray, "N D"]
    outputs: Float64[ndarray, "V m"]
    following: Int64[ndarray, " N"]
    contexts: Int64[ndarray, " N"]
    clusters: Int64[ndarray, " N"]
    is_class: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """See `Rows.shape`."""
        return *self.states.shape, self.outputs.shape[1]

    def blocks(self) -> Iterator[Block]:
        """See `Rows.blocks`."""
        for start in range(0, self.states.shape[0], BLOCK):
            part = slice(start, start + BLOCK)
            yield Block(start, self.states[part].astype(np.float64), self.outputs[self.following[part]])


def state_rows(states: States, layer: int, config: ProbeConfig) -> StateRows:
    """The rows of a layer, and the target that the configuration names.

    Raises:
        ConfigError: if there are fewer next tokens than classes.
    """
    _, clusters = np.unique(states.tokens, return_inverse=True)
    is_class = config.target is Target.next_token
    outputs = _classes(states, config.num_classes) if is_class else states.embedding.astype(np.float64)
    return StateRows(states.layer(layer), outputs, states.following, states.contexts, clusters, is_class)


def _classes(states: States, number: int) -> Float64[ndarray, "V m"]:
    """For each next token the column of its class: the most frequent ones, then all others."""
    counts = np.bincount(states.following)
    if counts.size <= number:
        raise ConfigError(f"num_classes={number}: only {counts.size} different tokens follow; lower it")
    outputs = np.zeros((counts.size, number + 1))
    outputs[:, number] = 1.0
    # of equally frequent ones, the first
    frequent = np.argsort(-counts, kind="stable")[:number]
    outputs[frequent] = np.eye(number, number + 1)
    return outputs
