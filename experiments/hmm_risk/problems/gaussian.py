"""A linear-Gaussian HMM with a state of fixed size, observed through a Gaussian loading."""

# Letters: n rows, d features of the full model, q state entries, m outputs, N sequences, T tokens a sequence, L window.

from dataclasses import replace
from functools import cached_property

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from lab.core.errors import ConfigError
from lab.core.heads.decompositions import default_rank_tolerance
from lab.core.heads.factor_population import FactorPopulation
from lab.core.heads.population import DensePopulation, Population
from lab.core.hmm.kalman import KalmanFilter
from lab.core.hmm.linear_gaussian import LinearGaussianHmm, observe, unit_variance_noise
from lab.core.hmm.random_models import gaussian_loading, general_transition, orthogonal_transition, symmetric_transition
from lab.core.runs.random_streams import Seeds
from lab.experiments.hmm_risk.config import LinearGaussianConfig, RepresentationName, Start, TaskName, Transition
from lab.experiments.hmm_risk.dependent_rows.token_rows import mean_state_covariance
from lab.experiments.hmm_risk.dependent_rows.window_rows import window_columns
from lab.experiments.hmm_risk.grid.cell import Cell
from lab.experiments.hmm_risk.own_hmm import OwnGaussian
from lab.experiments.hmm_risk.problems.problem import Problem, Rows


class GaussianProblem(Problem):
    """Base of the representations of a linear-Gaussian HMM: the state's distribution and the task.

    Attributes:
        window: tokens in a representation.
    """

    window = 1

    def __init__(self, cell: Cell, hmm: LinearGaussianConfig, seeds: Seeds, token_dim: int) -> None:
        self.cell = cell
        self.seeds = seeds
        self.observation_noise = cell.observation_noise
        self.hmm = _build_hmm(hmm, token_dim, cell.observation_noise, self.seeds)

    @property
    def length(self) -> int:
        """Number of simulated tokens: those that end a row's window and those before, or the context of one row."""
        rows = self.cell.tokens_per_sequence
        return rows + self.window - 1 if rows > 1 else self.cell.context_length

    @cached_property
    def row_covariance(self) -> Float64[ndarray, "q q"]:
        """Cov(z_T); with several rows a sequence, of the state of any of them."""
        if self.cell.tokens_per_sequence > 1:
            return mean_state_covariance(self.hmm, self.length)
        return self.hmm.state_covariance(self.length)

    @cached_property
    def target_map(self) -> Float64[ndarray, "m q"]:
        """R with E[y | z_T] = R z_T."""
        if self.cell.task.name is TaskName.next_state:
            return self.hmm.transition
        if self.cell.task.name is TaskName.next_token:
            return self.hmm.loading @ self.hmm.transition
        sizes = np.arange(1, self.hmm.state_dim + 1) ** (-self.cell.task.decay / 2)
        shape = (self.cell.task.num_outputs, self.hmm.state_dim)
        return self.seeds.numpy("readout").choice([-1.0, 1.0], size=shape) * sizes / np.linalg.norm(sizes)

    def target_variances(self) -> Float64[ndarray, " m"]:
        """E[y_j^2]."""
        covariance = self.row_covariance
        return np.sum((self.target_map @ covariance) * self.target_map, axis=1) + self.residual_variances()

    def residual_variances(self) -> Float64[ndarray, " m"]:
        """Var(y_j | z_T)."""
        if self.cell.task.name is TaskName.downstream_label:
            return np.zeros(self.cell.task.num_outputs)
        if self.cell.task.name is TaskName.next_state:
            return self.hmm.state_noise_covariance.diagonal().copy()
        moved = self.hmm.loading @ self.hmm.state_noise_covariance
        return np.sum(moved * self.hmm.loading, axis=1) + self.observation_noise**2

    def targets(
        self, now: Float64[ndarray, "n q"], following: Float64[ndarray, "n q"], stream: str, replicate: int
    ) -> Float64[ndarray, "n m"]:
        """y for rows whose states are z_T and z_{T+1}."""
        if self.cell.task.name is TaskName.next_state:
            return following
        if self.cell.task.name is TaskName.downstream_label:
            return now @ self.target_map.T
        return self.hmm.observe(following, self.seeds.numpy(f"{stream}/next_observation", replicate))

    def states(self, stream: str, replicate: int, num_sequences: int) -> Float64[ndarray, "N T_plus_1 q"]:
        """z_1 .. z_{T+1} of every sequence."""
        return self.hmm.sample_states(num_sequences, self.length + 1, self.seeds.numpy(f"{stream}/state", replicate))


class WindowProblem(GaussianProblem):
    """The last token, or the last L: features are linear in L states, plus independent noise."""

    def __init__(self, cell: Cell, hmm: LinearGaussianConfig, seeds: Seeds) -> None:
        is_window = cell.representation.name is RepresentationName.context_window
        self.window = cell.representation.window if is_window else 1
        super().__init__(cell, hmm, seeds, token_dim=-(-cell.num_features // self.window))

    @cached_property
    def population(self) -> Population:
        """Sigma = W P W' + s I, with P of the states in the window, the newest first."""
        covariances = [self.row_covariance]
        covariances += [self.hmm.state_covariance(self.length - lag) for lag in range(1, self.window)]
        powers = [np.linalg.matrix_power(self.hmm.transition, lag) for lag in range(self.window)]
        blocks = [
            [
                powers[older - newer] @ covariances[older]
                if older >= newer
                else (powers[newer - older] @ covariances[newer]).T
                for older in range(self.window)
            ]
            for newer in range(self.window)
        ]
        return FactorPopulation(
            loading=self._loading,
            latent_covariance=np.block(blocks),
            noise_variance=self.observation_noise**2,
            cross=np.vstack([covariances[lag] @ powers[lag].T for lag in range(self.window)]) @ self.target_map.T,
            target_variances=self.target_variances(),
            outputs_follow_width=self.cell.task.name is TaskName.next_token,
            residual_variances=self.residual_variances(),
        )

    def rows(self, stream: str, replicate: int, num_rows: int) -> Rows:
        """One row for each token of a sequence that ends a window, or one for its last token."""
        num_sequences = num_rows // self.cell.tokens_per_sequence
        states = self.states(stream, replicate, num_sequences)
        rng = self.seeds.numpy(f"{stream}/observation", replicate)
        if self.cell.tokens_per_sequence == 1:
            now, following = states[:, -2], states[:, -1]
            seen = states[:, -2 : -2 - self.window : -1].reshape(num_rows, -1)
            features = observe(seen, self._loading, self.observation_noise, rng)
        else:
            now = states[:, self.window - 1 : -1].reshape(num_rows, -1)
            following = states[:, self.window :].reshape(num_rows, -1)
            # a token has the same noise in every row that sees it
            tokens = self.hmm.observe(states[:, :-1], rng)
            lags, entries = window_columns(self.cell.num_features, self.window)
            ends = np.arange(self.window - 1, self.length)
            features = tokens[:, ends[:, None] - lags, entries].reshape(num_rows, -1)
        return Rows(features, self.targets(now, following, stream, replicate))

    @cached_property
    def _loading(self) -> Float64[ndarray, "d Lq"]:
        """Feature i is entry i // L of the token i mod L steps back, so that the first p features see every token."""
        token_dim, state_dim = self.hmm.loading.shape
        loading = np.zeros((token_dim, self.window, self.window, state_dim))
        for lag in range(self.window):
            loading[:, lag, lag] = self.hmm.loading
        return loading.reshape(token_dim * self.window, -1)[: self.cell.num_features]


class KalmanProblem(GaussianProblem):
    """The Bayes filter's state E[z_T | x_1 .. x_T]: the best representation that a frozen model could provide."""

    def __init__(self, cell: Cell, hmm: LinearGaussianConfig, seeds: Seeds) -> None:
        assert cell.representation.observation_dim is not None, "checked with the configuration"
        super().__init__(cell, hmm, seeds, token_dim=cell.representation.observation_dim)
        self._filter = KalmanFilter(self.hmm, self.length)

    @cached_property
    def population(self) -> Population:
        """Cov(zhat) = P_T - P_{T|T}; E[zhat z_T'] is the same matrix, by orthogonality of the error."""
        covariance = self.hmm.state_covariance(self.length) - self._filter.filtered_covariance(self.length)
        covariance = (covariance + covariance.T) / 2
        width = self.cell.num_features
        eigenvalues = np.linalg.eigvalsh(covariance[:width, :width])
        if eigenvalues[0] <= default_rank_tolerance(width, width) * eigenvalues[-1]:
            raise ConfigError(
                f"representation.observation_dim={self.hmm.num_features} with context_length={self.length}: the tokens "
                f"determine fewer than {width} directions of the state; raise either, or use fewer features"
            )
        return DensePopulation(
            covariance=covariance[:width, :width],
            cross=covariance[:width] @ self.target_map.T,
            target_variance=float(self.target_variances().sum()),
        )

    def rows(self, stream: str, replicate: int, num_rows: int) -> Rows:
        """One row for each sequence."""
        states = self.states(stream, replicate, num_rows)
        rng = self.seeds.numpy(f"{stream}/observation", replicate)
        shape = (num_rows, self.length, self.hmm.loading.shape[0])
        observations = states[:, :-1] @ self.hmm.loading.T + self.observation_noise * rng.standard_normal(shape)
        features = self._filter.last_state(observations)[:, : self.cell.num_features]
        return Rows(features, self.targets(states[:, -2], states[:, -1], stream, replicate))


def _build_hmm(hmm: LinearGaussianConfig, token_dim: int, noise: float, seeds: Seeds) -> LinearGaussianHmm:
    if isinstance(hmm, OwnGaussian):
        # a width keeps the first rows, and their noise may be a key of the grid
        return replace(hmm.hmm, loading=hmm.hmm.loading[:token_dim], observation_noise=noise)
    assert hmm.state_dim is not None, "only identity loading has no state_dim"
    rng = seeds.numpy("transition")
    if hmm.transition is Transition.orthogonal:
        transition = orthogonal_transition(hmm.state_dim, hmm.spectral_radius, rng)
    elif hmm.transition is Transition.symmetric:
        transition = symmetric_transition(
            hmm.state_dim, hmm.spectral_radius, rng, lowest_eigenvalue=hmm.lowest_eigenvalue
        )
    else:
        transition = general_transition(hmm.state_dim, hmm.spectral_radius, rng)
    if hmm.state_noise is None:
        state_noise_covariance = unit_variance_noise(transition)
    else:
        state_noise_covariance = hmm.state_noise**2 * np.eye(hmm.state_dim)
    result = LinearGaussianHmm.stationary(
        transition,
        gaussian_loading(token_dim, hmm.state_dim, seeds.numpy("loading")),
        state_noise_covariance=state_noise_covariance,
        observation_noise=noise,
    )
    if hmm.start is Start.stationary:
        return result
    return replace(result, initial_covariance=np.eye(hmm.state_dim))
