"""A linear-Gaussian HMM of independent modes, each observed through one feature: the state can grow with the model.

z_{t+1} = A z_t + e_t with unit stationary variance and x_t = z_t + u_t. A is diagonal (symmetric transitions) or made
of plane rotations of one radius (orthogonal ones), so the first p modes are a complete HMM for every even p: width is
model size, and one draw serves all widths.
"""

# Letters: n rows, p features and modes, m outputs, N sequences, T tokens a sequence.

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from lab.core.errors import ConfigError
from lab.core.heads.population import DiagonalPopulation, ModePopulation, Population
from lab.core.hmm.random_models import golden_points
from lab.core.runs.random_streams import Seeds
from lab.experiments.hmm_risk.config import LinearGaussianConfig, TaskName, Transition
from lab.experiments.hmm_risk.grid.cell import Cell
from lab.experiments.hmm_risk.problems.problem import Problem, Rows


@dataclass(frozen=True, slots=True)
class Modes:
    """The transition in its eigenbasis.

    Attributes:
        decay: modulus of each mode's eigenvalue; the modes of one plane share it.
        angle: rotation of each plane, radians; None for real modes.
    """

    decay: Float64[ndarray, " p"]
    angle: Float64[ndarray, " planes"] | None

    @staticmethod
    def symmetric(num_modes: int, lowest: float, highest: float) -> "Modes":
        """Real modes that cover [lowest, highest] evenly, however many are kept."""
        return Modes(lowest + (highest - lowest) * golden_points(num_modes), None)

    @staticmethod
    def orthogonal(num_modes: int, radius: float) -> "Modes":
        """Plane rotations by angles that cover (0, pi) evenly, however many are kept."""
        return Modes(np.full(num_modes, radius), np.pi * golden_points((num_modes + 1) // 2))

    def step(self, states: Float64[ndarray, "p N"]) -> Float64[ndarray, "p N"]:
        """A z for every sequence."""
        if self.angle is None:
            return self.decay[:, None] * states
        planes = np.zeros((2 * self.angle.size, states.shape[1]))
        planes[: states.shape[0]] = states
        first, second = planes[0::2], planes[1::2]
        cosine, sine = np.cos(self.angle)[:, None], np.sin(self.angle)[:, None]
        moved = np.empty_like(planes)
        moved[0::2] = cosine * first - sine * second
        moved[1::2] = sine * first + cosine * second
        return self.decay[:, None] * moved[: states.shape[0]]

    def sample(self, num_sequences: int, length: int, rng: np.random.Generator) -> Float64[ndarray, "T_plus_1 p N"]:
        """Stationary states z_1 .. z_{T+1}; the first modes are the same however many are requested."""
        # drawn mode by mode, so that a wider model extends a narrower one
        states = np.moveaxis(rng.standard_normal((self.decay.size, length + 1, num_sequences)), 1, 0).copy()
        noise = np.sqrt(1 - self.decay**2)[:, None]
        for t in range(length):
            states[t + 1] = self.step(states[t]) + noise * states[t + 1]
        return states


class ModeProblem(Problem):
    """Uncorrelated features; the target is the next state of as many modes, or a label of a fixed number of them."""

    def __init__(self, cell: Cell, hmm: LinearGaussianConfig, seeds: Seeds) -> None:
        self._cell = cell
        self._seeds = seeds
        num_modes = hmm.state_dim or cell.num_features
        if hmm.transition is Transition.orthogonal:
            self.modes = Modes.orthogonal(num_modes, hmm.spectral_radius)
        else:
            self.modes = Modes.symmetric(num_modes, hmm.lowest_eigenvalue, hmm.spectral_radius)
        self.observation_noise = cell.observation_noise
        if cell.snr is not None and self._predicts_state:
            # SNR = rho^2 / (1 + s - rho^2) at every width
            self.observation_noise = float(np.sqrt(hmm.spectral_radius**2 * (1 + 1 / cell.snr) - 1))

    @cached_property
    def population(self) -> Population:
        """Second moments; diagonal for any angles of the planes."""
        num_features, num_outputs = self._cell.num_features, self._cell.task.num_outputs
        feature_variance = 1 + self.observation_noise**2
        variances = np.full(num_features, feature_variance)
        if self._predicts_state:
            decay = self.modes.decay[:num_features]
            return ModePopulation(variances, (decay / feature_variance) ** 2, np.ones(num_features))
        return DiagonalPopulation(
            variances,
            np.ascontiguousarray(self._readout[:, :num_features].T) / feature_variance,
            num_outputs * (1 + self._label_variance),
        )

    def rows(self, stream: str, replicate: int, num_rows: int) -> Rows:
        """Rows of `num_rows / tokens_per_sequence` sequences, in the order (sequence, token)."""
        length = self._cell.tokens_per_sequence
        num_sequences = num_rows // length
        states = self.modes.sample(num_sequences, length, self._seeds.numpy(f"{stream}/state", replicate))
        num_features = self._cell.num_features
        noise = self._seeds.numpy(f"{stream}/observation", replicate).standard_normal((num_features, num_rows))
        seen = np.swapaxes(states, 0, 1)  # [p, T + 1, N]
        by_sequence = np.swapaxes(seen, 1, 2)  # [p, N, T + 1]
        features = by_sequence[:num_features, :, :-1].reshape(num_features, num_rows) + self.observation_noise * noise
        if self._predicts_state:
            return Rows(features.T, by_sequence[:num_features, :, 1:].reshape(num_features, num_rows).T)
        labels = states[0].T @ self._readout.T
        label_noise = self._seeds.numpy(f"{stream}/label", replicate).standard_normal(labels.shape)
        return Rows(features.T, labels + np.sqrt(self._label_variance) * label_noise)

    @property
    def _predicts_state(self) -> bool:
        return self._cell.task.name is TaskName.next_state

    @cached_property
    def _readout(self) -> Float64[ndarray, "m p"]:
        """C with unit rows whose squared entries decay as j^-decay, with random signs."""
        num_modes = self.modes.decay.size
        sizes = np.arange(1, num_modes + 1) ** (-self._cell.task.decay / 2)
        signs = self._seeds.numpy("readout").choice([-1.0, 1.0], size=(self._cell.task.num_outputs, num_modes))
        return signs * sizes / np.linalg.norm(sizes)

    @cached_property
    def _label_variance(self) -> float:
        """Variance of each label's noise, from the signal-to-noise ratio of the full model."""
        if self._cell.snr is None:
            return 0.0
        readout = self._readout[:, : self._cell.num_features]
        signal = float(np.sum(readout**2)) / (1 + self.observation_noise**2) / readout.shape[0]
        variance = signal * (1 + 1 / self._cell.snr) - 1
        if variance < 0:
            raise ConfigError(
                f"snr={self._cell.snr}: the full model explains {signal:.4g} of each label's unit variance, so the "
                f"ratio is {signal / (1 - signal):.4g} at most; lower snr or observation_noise"
            )
        return variance
