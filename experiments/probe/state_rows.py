"""Rows of a probe from the states of a model behind one layer."""

# Letters: N rows, D width of the model, V next tokens, m outputs.

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from jaxtyping import Float32, Float64, Int64
from numpy import ndarray

from lab.core.errors import ConfigError
from lab.experiments.probe.config import ProbeConfig, Target
from lab.experiments.probe.rows import BLOCK, Block, of_unit_size
from lab.experiments.probe.states import States


class _Targets(Protocol):
    """What is predicted from each row."""

    @property
    def num_outputs(self) -> int: ...

    def of(self, part: slice) -> Float64[ndarray, "b m"]:
        """The outputs of some rows."""
        ...


@dataclass(frozen=True, slots=True)
class _OfNextToken:
    """A row of a table for each next token."""

    table: Float64[ndarray, "V m"]
    following: Int64[ndarray, " N"]

    @property
    def num_outputs(self) -> int:
        return self.table.shape[1]

    def of(self, part: slice) -> Float64[ndarray, "b m"]:
        found: Float64[ndarray, "b m"] = self.table[self.following[part]]
        return found


@dataclass(frozen=True, slots=True)
class _OfTeacher:
    """States of another model at the same tokens, each scaled to a root mean square of 1."""

    states: Float32[ndarray, "N m"]

    @property
    def num_outputs(self) -> int:
        return self.states.shape[1]

    def of(self, part: slice) -> Float64[ndarray, "b m"]:
        return of_unit_size(self.states[part].astype(np.float64))


@dataclass(frozen=True, slots=True)
class StateRows:
    """See `Rows`: states of one layer, with the token that each stands at as its cluster."""

    states: Float32[ndarray, "N D"]
    targets: _Targets
    contexts: Int64[ndarray, " N"]
    clusters: Int64[ndarray, " N"]
    is_class: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """See `Rows.shape`."""
        return *self.states.shape, self.targets.num_outputs

    def blocks(self) -> Iterator[Block]:
        """See `Rows.blocks`."""
        for start in range(0, self.states.shape[0], BLOCK):
            part = slice(start, start + BLOCK)
            yield Block(start, self.states[part].astype(np.float64), self.targets.of(part))


def state_rows(states: States, layer: int, config: ProbeConfig, teacher: tuple[States, int] | None = None) -> StateRows:
    """The rows of a layer, and the target that the configuration names.

    Args:
        states: of the model.
        layer: a number from 1.
        config: of the probe.
        teacher: its states and the layer whose are the target, if that is asked for.

    Raises:
        ConfigError: if there are fewer next tokens than classes, or the teacher reads other tokens.
    """
    _, clusters = np.unique(states.tokens, return_inverse=True)
    targets: _Targets
    if teacher is not None:
        theirs, behind = teacher
        if not (np.array_equal(theirs.tokens, states.tokens) and np.array_equal(theirs.contexts, states.contexts)):
            raise ConfigError("target=teacher_state: teacher and student read other tokens; choose target=next_token")
        targets = _OfTeacher(theirs.layer(behind))
    else:
        is_class = config.target is Target.next_token
        table = _classes(states, config.num_classes) if is_class else states.embedding.astype(np.float64)
        targets = _OfNextToken(table, states.following)
    return StateRows(states.layer(layer), targets, states.contexts, clusters, config.target is Target.next_token)


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
