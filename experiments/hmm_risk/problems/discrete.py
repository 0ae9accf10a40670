"""Heads on the posterior of a discrete HMM: the language-model view of the study (Wei, Xie and Ma, arXiv 2106.09226).

Given the tokens so far, the distribution of the target is linear in the posterior f of the hidden state:
E[y | tokens] = G' f. So the risk of a head given the sequences is exact, with noise that differs between rows; only the
second moment E[f f'] has no closed form and is estimated once per HMM.
"""

# Letters: n rows, p width, S states, V tokens, m outputs, N sequences, T tokens of a sequence.

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray
from scipy import linalg
from torch import Tensor

from lab.core.heads.asymptotics import asymptotic_risk
from lab.core.heads.conditional_risk import conditional_risk
from lab.core.heads.decompositions import default_rank_tolerance
from lab.core.heads.factor_covariance import FactorCovariance
from lab.core.heads.population import Spectrum
from lab.core.hmm.discrete import DiscreteHmm
from lab.core.hmm.random_models import dirichlet_tables, permutation_tables
from lab.core.runs.random_streams import Seeds
from lab.experiments.hmm_risk.cell_work import CellWork, rank_tolerance, ridge_label
from lab.experiments.hmm_risk.config import DiscreteConfig, Generator, RepresentationName, TaskName
from lab.experiments.hmm_risk.grid.cell import Cell
from lab.experiments.hmm_risk.own_hmm import OwnDiscrete
from lab.experiments.hmm_risk.problems.labelling import NUM_JUDGED, Labelling, best_constant, classes, draw_labelling
from lab.experiments.hmm_risk.problems.problem import seeds_of_problem
from lab.experiments.hmm_risk.rows import (
    ClassTheory,
    DiscreteTheory,
    Measured,
    MeasuredClasses,
    MeasuredKey,
    MeasuredRisk,
    Theory,
    TheoryKey,
)

# batch size: filtering all sequences at once would need sequences x states x length numbers
_CHUNK = 10_000

_ROUNDING = 1e-13


class DiscreteRows(CellWork):
    """One row per sequence, from the exact filter of a discrete HMM."""

    def __init__(self, cell: Cell, hmm: DiscreteConfig, number: int) -> None:
        self.cell = cell
        self._number = number
        self._seeds = seeds_of_problem(cell.seed, number)
        self._hmm = _draw_hmm(hmm, self._seeds)
        self._predicts_label = cell.task.name is TaskName.downstream_label

    def theory(self) -> list[Theory]:
        """Theory for Gaussian features with the same second moments: a reference, since posteriors are not Gaussian."""
        return [row for width in self.cell.widths for row in self._theory_rows(width)]

    def measure(self, replicate: int) -> Sequence[Measured]:
        """Exact risk given the sequences; for a downstream label, accuracy and log-loss on test sequences."""
        if self._predicts_label:
            return self._measure_label(replicate)
        posteriors = self._posteriors(f"train/{replicate}", self.cell.num_train)
        features = self._features(posteriors, "train", replicate)
        means = posteriors @ self._outcome
        # if the outcome is almost certain, rounding could give a negative variance
        row_noise = np.maximum(1 - np.sum(means**2, axis=1), 0.0)
        rows: list[MeasuredRisk] = []
        for width in self.cell.widths:
            covariance, coefficients, _ = self._moments(width)
            for ridge in self.cell.ridge:
                tolerance = rank_tolerance(self.cell, width)
                risk = conditional_risk(
                    features[:, :width],
                    covariance,
                    coefficients,
                    row_noise=row_noise,
                    mean_targets=means,
                    ridge=float(ridge),
                    rtol=tolerance,
                )
                rows.append(
                    {
                        **self._row(replicate, width, ridge, tolerance),
                        "bias": self._scale * risk.bias,
                        "variance": self._scale * risk.variance,
                        "weight_norm": float(np.sqrt(risk.squared_weight_norm)),
                        "effective_rank": risk.rank,
                        "solved_by": "svd",
                    }
                )
        return rows

    def _measure_label(self, replicate: int) -> list[MeasuredClasses]:
        train, test = (
            self._labelled(stream, replicate, num_rows)
            for stream, num_rows in (("train", self.cell.num_train), ("test", self.cell.num_test or 0))
        )
        constant_accuracy, constant_log_loss = best_constant(test[1])
        rows: list[MeasuredClasses] = []
        for width in self.cell.widths:
            for ridge in self.cell.ridge:
                tolerance = rank_tolerance(self.cell, width)
                head = self.cell.head_spec.fit_classes(
                    train[0][:, :width],
                    train[1],
                    num_classes=self.cell.task.num_outputs,
                    ridge=float(ridge),
                    rank_tolerance=tolerance,
                    options=self.cell.head,
                )
                predicted = head.predict(test[0][:, :width])
                likelihood = predicted.probs[np.arange(test[1].size), test[1]]
                rows.append(
                    {
                        **self._row(replicate, width, ridge, tolerance),
                        "accuracy": float(np.mean(predicted.labels == test[1])),
                        "log_loss": float(-np.log(likelihood).mean()),
                        "constant_accuracy": constant_accuracy,
                        "constant_log_loss": constant_log_loss,
                        "weight_norm": head.weight_norm,
                        "effective_rank": head.effective_rank,
                        "solved_by": head.solved_by,
                    }
                )
        return rows

    def _row(self, replicate: int, width: int, ridge: float | str, tolerance: float) -> MeasuredKey:
        return {
            "kind": "measured",
            "cell": self.cell.index,
            "problem": self._number,
            "replicate": replicate,
            "width": width,
            "ridge": ridge_label(ridge),
            "rank_tolerance": tolerance,
        }

    def _theory_rows(self, width: int) -> list[Theory]:
        rows: list[Theory] = []
        for ridge in self.cell.ridge:
            key: TheoryKey = {
                "kind": "theory",
                "cell": self.cell.index,
                "problem": self._number,
                "problem_is_drawn": self.cell.draws_problem,
                "width": width,
                "ridge": ridge_label(ridge),
                "ridge_strength": float(ridge),
                "observation_noise": self.cell.observation_noise if self._is_lifted else 0.0,
                "num_outputs": self._num_outputs,
                "gaussian_reference": True,
            }
            if self._predicts_label:
                no_risk: ClassTheory = {**key, "labellings_rejected": self._labelling.num_rejected}
                rows.append(no_risk)
                continue
            _, _, noise_trace = self._moments(width)
            spectrum = self._spectrum(width)
            risk = asymptotic_risk(spectrum, noise_trace, num_train=self.cell.num_train, ridge=float(ridge))
            _, _, full_noise = self._moments(self.cell.widths[-1])
            misspecification = self._scale * (noise_trace - full_noise)
            signal = 1 - noise_trace
            risks: DiscreteTheory = {
                **key,
                "num_directions": int(np.count_nonzero(spectrum.eigenvalues)),
                "snr": signal / noise_trace if noise_trace else np.inf,
                "noise_floor": self._scale * noise_trace,
                "misspecification": misspecification,
                "null_risk": self._scale,
                "theory_excess_risk": self._scale * risk.excess,
                "theory_bias": self._scale * risk.bias,
                "theory_variance": self._scale * risk.variance,
                "theory_prediction_risk": self._scale * risk.total,
                "theory_fixed_problem_excess": self._scale * risk.excess + misspecification,
            }
            rows.append(risks)
        return rows

    @property
    def _is_lifted(self) -> bool:
        return self.cell.representation.name is RepresentationName.lifted_posterior

    @property
    def _num_outputs(self) -> int:
        return self.cell.task.num_outputs if self._predicts_label else self._outcome.shape[1]

    @property
    def _scale(self) -> float:
        return 1 / self._num_outputs if self.cell.per_output else 1.0

    @cached_property
    def _outcome(self) -> Float64[ndarray, "S m"]:
        """G with E[y | tokens] = G' f: the next hidden state, or the next token."""
        transition = self._hmm.transition.numpy()
        return transition if self.cell.task.name is TaskName.next_state else transition @ self._hmm.emission.numpy()

    @cached_property
    def _map(self) -> Float64[ndarray, "d S"]:
        """M with features = M f, before noise."""
        if self._is_lifted:
            return self._seeds.numpy("loading").standard_normal((self.cell.num_features, self._hmm.num_states))
        if self.cell.representation.name is RepresentationName.next_token_distribution:
            return np.ascontiguousarray((self._hmm.transition @ self._hmm.emission).numpy().T)
        return np.eye(self._hmm.num_states)

    @cached_property
    def _second_moment(self) -> Float64[ndarray, "S S"]:
        """E[f f'], not centred: the head has no intercept."""
        total = np.zeros((self._hmm.num_states, self._hmm.num_states))
        num_sequences = self.cell.population_sequences
        for index, start in enumerate(range(0, num_sequences, _CHUNK)):
            posteriors = self._posteriors(f"population/{index}", min(_CHUNK, num_sequences - start))
            total += posteriors.T @ posteriors
        return total / num_sequences

    def _moments(self, width: int) -> tuple[Float64[ndarray, "p p"] | FactorCovariance, Float64[ndarray, "p m"], float]:
        """Sigma_p, the best head B_p, and the minimum risk E||y - B_p' x||^2 (a one-hot y has norm 1)."""
        mapping = self._map[:width]
        cross = mapping @ self._second_moment @ self._outcome
        covariance: Float64[ndarray, "p p"] | FactorCovariance
        if self._is_lifted:
            covariance, targets = self._lifted(width)
            coefficients = covariance.factor @ covariance.shrunk(targets)
            noise_trace = 1 - float(np.sum(cross * coefficients))
            return covariance, coefficients, 0.0 if abs(noise_trace) < _ROUNDING else noise_trace
        covariance = mapping @ self._second_moment @ mapping.T
        if width == self._hmm.num_states and self.cell.representation.name is RepresentationName.posterior:
            coefficients = self._outcome
        else:
            # next-token distributions span only S directions: the rest of B is arbitrary, and set to zero
            coefficients = linalg.pinvh(covariance, rtol=1e-12) @ cross
        noise_trace = 1 - float(np.sum(cross * coefficients))
        # if the outcome is certain, the difference is rounding of either sign
        return covariance, coefficients, 0.0 if abs(noise_trace) < _ROUNDING else noise_trace

    def _lifted(self, width: int) -> tuple[FactorCovariance, Float64[ndarray, "S m"]]:
        """Sigma_p = F F' + s I, and R'G with E[x y'] = F R'G, where R R' = E[f f'] and F = M R."""
        eigenvalues, vectors = linalg.eigh(self._second_moment)
        root = vectors * np.sqrt(np.maximum(eigenvalues, 0.0))
        return FactorCovariance(self._map[:width] @ root, self.cell.observation_noise**2), root.T @ self._outcome

    def _spectrum(self, width: int) -> Spectrum:
        if self._is_lifted:
            covariance, targets = self._lifted(width)
            return covariance.spectrum(targets)
        dense, coefficients, _ = self._moments(width)
        assert isinstance(dense, np.ndarray), "only lifted features have noise"
        eigenvalues, vectors = linalg.eigh(dense)
        # next-token distributions span at most S directions, and states that are alike fewer: the rest is rounding
        is_varying = eigenvalues > default_rank_tolerance(width, width) * eigenvalues[-1]
        return Spectrum(np.where(is_varying, eigenvalues, 0.0), np.sum((vectors.T @ coefficients) ** 2, axis=1))

    def _posteriors(self, stream: str, num_sequences: int) -> Float64[ndarray, "N S"]:
        return self._hmm.filter_last(self._tokens(stream, num_sequences)).numpy()

    def _features(self, posteriors: Float64[ndarray, "n S"], stream: str, replicate: int) -> Float64[ndarray, "n d"]:
        if not self._is_lifted:
            return posteriors @ self._map.T
        # drawn feature by feature, so that a wider model extends a narrower one
        noise = self._seeds.numpy(f"{stream}/observation", replicate).standard_normal(
            (self.cell.num_features, posteriors.shape[0])
        )
        return (self._map @ posteriors.T + self.cell.observation_noise * noise).T

    def _labelled(self, stream: str, replicate: int, num_rows: int) -> tuple[Float64[ndarray, "n d"], ndarray]:
        """Features of the last posterior, and the class of each sequence."""
        tokens = self._tokens(f"{stream}/{replicate}", num_rows)
        features = self._features(self._hmm.filter_last(tokens).numpy(), stream, replicate)
        return features, classes(self._first(tokens), self._labelling.weights)

    @cached_property
    def _labelling(self) -> Labelling:
        return draw_labelling(
            self._first(self._tokens("labelling", NUM_JUDGED)),
            self.cell.task.num_outputs,
            self._seeds,
            fewest_rows=min(self.cell.num_train, self.cell.num_test or self.cell.num_train),
            what=f"task=downstream_label with hmm.num_states={self._hmm.num_states}, problem {self._number}",
        )

    def _first(self, tokens: Int64[Tensor, "N T"]) -> Float64[ndarray, "N S"]:
        """A p(h_1 | tokens)."""
        return self._hmm.smooth_first(tokens).numpy() @ self._hmm.transition.numpy().T

    def _tokens(self, stream: str, num_sequences: int) -> Int64[Tensor, "N T"]:
        generator = self._seeds.torch(f"{stream}/tokens")
        return self._hmm.sample(num_sequences, self.cell.context_length, generator).tokens


def _draw_hmm(hmm: DiscreteConfig, seeds: Seeds) -> DiscreteHmm:
    if isinstance(hmm, OwnDiscrete):
        return DiscreteHmm.from_tables(hmm.tables)
    rng = seeds.numpy("hmm", hmm.num_states)
    if hmm.generator is Generator.dirichlet:
        tables = dirichlet_tables(
            hmm.num_states,
            hmm.num_tokens,
            rng,
            transition_concentration=hmm.transition_concentration,
            emission_concentration=hmm.emission_concentration,
        )
    else:
        tables = permutation_tables(
            hmm.num_states,
            hmm.num_tokens,
            rng,
            start_temperature=hmm.start_temperature,
            transition_temperature=hmm.transition_temperature,
            emission_temperature=hmm.emission_temperature,
        )
    return DiscreteHmm.from_tables(tables)
