"""The interface of a cell's problem: second moments for theory and exact risk, and draws of rows."""

# Letters: n rows, d features of the full model, m outputs.

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from lab.core.heads.population import Population
from lab.core.runs.random_streams import Seeds
from lab.experiments.hmm_risk.results.curves import projected


@dataclass(frozen=True, slots=True)
class Rows:
    """Pairs of a representation and its target.

    Attributes:
        features: columns in the order in which wider models add them.
        targets: all outputs of the full model; a problem that grows with the model uses the first ones.
    """

    features: Float64[ndarray, "n d"]
    targets: Float64[ndarray, "n m"]


def seeds_of_problem(seed: int, number: int) -> Seeds:
    """The random streams of one draw of a problem; those of number 0 are the seed's own."""
    return Seeds(seed).within("problem", number) if number else Seeds(seed)


class Problem(ABC):
    """A linear-Gaussian problem.

    Attributes:
        observation_noise: standard deviation of each feature's own noise.
    """

    observation_noise: float

    @property
    @abstractmethod
    def population(self) -> Population:
        """Second moments of features and targets at every width."""

    @abstractmethod
    def rows(self, stream: str, replicate: int, num_rows: int) -> Rows:
        """Draw rows from the random streams named by `stream` and `replicate`."""


class ProjectedProblem(Problem):
    """The same rows projected on random directions: phi = S'x with Gaussian S; a width keeps the first columns."""

    def __init__(self, problem: Problem, seeds: Seeds) -> None:
        self._problem = problem
        self.observation_noise = problem.observation_noise
        num_features = problem.population.num_features
        normals = seeds.numpy("projection").standard_normal((num_features, num_features))
        self._directions = normals.T / np.sqrt(num_features)

    @cached_property
    def population(self) -> Population:
        """Second moments given the directions."""
        return projected(self._problem.population, self._directions)

    def rows(self, stream: str, replicate: int, num_rows: int) -> Rows:
        """Rows of the full model, projected."""
        rows = self._problem.rows(stream, replicate, num_rows)
        return Rows(rows.features @ self._directions, rows.targets)
