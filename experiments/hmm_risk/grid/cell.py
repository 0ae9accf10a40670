"""A cell of a sweep: one problem, with every grid except width, ridge and replicate resolved."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lab.experiments.hmm_risk.config import (
    DiscreteConfig,
    LinearGaussianConfig,
    Loading,
    RepresentationConfig,
    RepresentationName,
    SizeMap,
    TaskConfig,
    TaskName,
)
from lab.experiments.hmm_risk.head_spec import HeadSpec
from lab.experiments.hmm_risk.heads import head_name, heads
from lab.experiments.hmm_risk.own_hmm import OwnDiscrete, OwnGaussian
from lab.experiments.hmm_risk.rows import GaussianTheory, MeasuredClasses, RiskResult, RiskTheory, quantities


@dataclass(frozen=True, slots=True)
class Cell:
    """One problem of a sweep. Fields are as in HmmRiskConfig, with one value in place of each grid.

    Attributes:
        index: position in the sweep, recorded in the table.
        curve: its label in `curves`; empty without curves.
        label: its legend: the curve and the grid values that distinguish it.
        widths: p, ascending.
    """

    index: int
    curve: str
    label: str
    hmm: LinearGaussianConfig | DiscreteConfig
    representation: RepresentationConfig
    task: TaskConfig
    head: Any
    num_train: int
    widths: tuple[int, ...]
    tokens_per_sequence: int
    context_length: int
    observation_noise: float
    snr: float | None
    ridge: tuple[float | str, ...]
    problems: int
    replicates: int
    num_test: int | None
    population_sequences: int
    rank_tolerance: float | None
    per_output: bool
    seed: int

    @property
    def is_discrete(self) -> bool:
        """Whether the data are tokens of a discrete HMM."""
        return isinstance(self.hmm, DiscreteConfig)

    @property
    def draws_problem(self) -> bool:
        """Whether anything but the rows is random, so that two problems of the cell can differ in their risk.

        A state that is observed mode by mode has fixed modes, and a file has its own. Labels of a Gaussian state have
        random signs, to which the risk of features that are symmetric about zero is indifferent.
        """
        if isinstance(self.hmm, OwnDiscrete):
            is_lifted = self.representation.name is RepresentationName.lifted_posterior
            return is_lifted or self.task.name is TaskName.downstream_label
        if isinstance(self.hmm, DiscreteConfig):
            return True
        is_drawn = self.hmm.loading is Loading.gaussian and not isinstance(self.hmm, OwnGaussian)
        return is_drawn or self.representation.size_map is SizeMap.random_projection

    @property
    def head_spec(self) -> HeadSpec:
        """The head to which the options in `head` belong."""
        return heads()[head_name(self.head)]

    @property
    def quantities(self) -> tuple[str, ...]:
        """The columns of this problem's rows that a figure may draw."""
        if not self.is_discrete:
            return (*quantities(RiskResult), *quantities(GaussianTheory))
        if self.task.name is TaskName.downstream_label:
            return quantities(MeasuredClasses)
        return (*quantities(RiskResult), *quantities(RiskTheory))

    @property
    def num_features(self) -> int:
        """d: the width of the full model; by default, large enough to include the threshold p = n."""
        if self.representation.num_features is not None:
            return self.representation.num_features
        if self.representation.name is RepresentationName.kalman_state:
            assert isinstance(self.hmm, LinearGaussianConfig), "checked with the cell"
            return self.hmm.state_dim or self.widths[-1]
        if self.representation.name in (RepresentationName.posterior, RepresentationName.next_token_distribution):
            return self.widths[-1]
        if isinstance(self.hmm, OwnGaussian):
            is_window = self.representation.name is RepresentationName.context_window
            return self.hmm.hmm.num_features * (self.representation.window if is_window else 1)
        if isinstance(self.hmm, LinearGaussianConfig) and self.hmm.loading is Loading.identity and self.hmm.state_dim:
            return self.hmm.state_dim
        # at least n, so that the rounding at narrow widths does not depend on the widest one
        return max(self.widths[-1], self.num_train)


def digests(cells: Sequence[Cell]) -> dict[str, str]:
    """SHA-256 of every file that problems come from, by its path."""
    return {cell.hmm.path: cell.hmm.digest for cell in cells if isinstance(cell.hmm, OwnGaussian | OwnDiscrete)}
