"""Asymptotic risk of a linear head on rows that come in clusters of near-copies, with a scale for each row.

A row of cluster c is x = mu_c + tau^½ w, mu_c with covariance Sigma_b and w with Sigma_w; rows of one token, or of one
context, are such. With phi_l = tr(Sigma_l Q)/n, l = b, w, the block of a cluster's training rows in the leave-one-out
smoother is Phi = phi_b 11' + phi_w diag(tau), H = (I + Phi)^-1, and

    Q = (lambda I + alpha Sigma_b + beta Sigma_w)^-1,    alpha = mean over rows of (H 1)_i,    beta = mean tau_i H_ii,
    Bbar = Q (alpha S_b + beta S_w),

S_l the between and within part of E[x y']. What the noise of the draw adds, V_l = tr Cov(Bhat)' Sigma_l, solves

    V_l = sum_c sum_ts [H Psi_l H]_ts (E_b + delta_ts E_w,t) / n^2,    E_b = Res_b + V_b,    E_w,t = Res_w + tau_t V_w,
    Psi_l = tr(Sigma_b Q Sigma_l Q) 11' + tr(Sigma_w Q Sigma_l Q) diag(tau),

Res the residuals of Bbar. The head fits its own training rows: a fresh row of a cluster whose training rows have
weights a = phi_b H 1 has the risk E_b (1 - sum a)^2 + E_w + sum a_t^2 E_w,t. Two unknown numbers, found by iteration;
with clusters of one row all of it is `elliptical_risk`. Derived by leaving one cluster out, as in Atanasov,
Zavatone-Veth and Pehlevan (arXiv 2408.04607) for rows with one correlation; checked by simulation.
"""

# Letters: p width, m outputs, n training rows, k clusters, s 1 + k.

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray
from scipy import linalg, optimize

from lab.core.errors import InputError
from lab.core.heads.asymptotics import AsymptoticRisk, asymptotic_risk
from lab.core.heads.population import DensePopulation, Spectrum

# of the logarithms of alpha and beta
_PRECISION, _LARGEST_CHANGE = 1e-8, 1e-5
# of the mean variance over n: what stands for no ridge
_LEAST_RIDGE = 1e-9


@dataclass(frozen=True, slots=True)
class Clusters:
    """Two parts of the second moments, and the training rows of a draw.

    Attributes:
        between: moments of pairs of different rows of one cluster: Sigma_b, S_b, and the mean of y'y.
        cluster: of each training row, from 0.
        scale: tau of each training row.
        share: of each of these clusters in the rows that the risk is measured on; the rest are of other clusters.
        fresh_scale: mean tau of such a row of each of these clusters, then of the others.
    """

    between: DensePopulation
    cluster: Int64[ndarray, " n"]
    scale: Float64[ndarray, " n"]
    share: Float64[ndarray, " k"]
    fresh_scale: Float64[ndarray, " s"]


def clustered_risk(population: DensePopulation, clusters: Clusters, width: int, *, ridge: float) -> AsymptoticRisk:
    """The risk (formulas at the top of this file) of a head on the first p features.

    Args:
        population: second moments of all rows.
        clusters: how they come about.
        width: p.
        ridge: lambda; for 0, a strength that is too small to matter.

    Returns:
        The risk over fresh rows, with that of the best head as its noise; all of the excess is called variance, since
        part of both is shared with the training rows.

    Raises:
        InputError: at p = n without ridge, where the risk is infinite; and if no fixed point is found.
    """
    sigma_b, cross_b = clusters.between.covariance[:width, :width], clusters.between.cross[:width]
    sigma_w = population.covariance[:width, :width] - sigma_b
    cross_w = population.cross[:width] - cross_b
    squares = clusters.between.target_variance, population.target_variance - clusters.between.target_variance
    num_train = clusters.cluster.size
    if ridge == 0 and width == num_train:
        raise InputError(f"width={width} is the number of rows: without ridge the risk is infinite; leave it out")
    strength = ridge or _LEAST_RIDGE * float(np.trace(sigma_b + sigma_w)) / width
    alpha, beta = _settled(sigma_b, sigma_w, clusters, strength, width, ridge)
    q = _inverse(sigma_b, sigma_w, strength, alpha, beta)
    block = _block(q, sigma_b, sigma_w, clusters)
    head = q @ (alpha * cross_b + beta * cross_w)
    rest_b = squares[0] - 2 * float(np.sum(head * cross_b)) + float(np.sum(head * (sigma_b @ head)))
    rest_w = squares[1] - 2 * float(np.sum(head * cross_w)) + float(np.sum(head * (sigma_w @ head)))
    q_b, q_w = sigma_b @ q, sigma_w @ q
    traces = np.array(
        [
            [float(np.sum(q_b * q_b.T)), float(np.sum(q_w * q_b.T))],
            [float(np.sum(q_b * q_w.T)), float(np.sum(q_w * q_w.T))],
        ]
    )
    # V_l = sum over both traces of what an error of either kind adds: linear in E_b and E_w
    adds = block.adds()
    known = np.array([traces[part] @ (adds.of_between * rest_b + adds.of_within * rest_w) for part in (0, 1)])
    slope = np.array([[traces[part] @ adds.of_between, traces[part] @ adds.of_scaled] for part in (0, 1)])
    spread = np.linalg.solve(np.eye(2) - slope / num_train**2, known / num_train**2)
    total = block.fresh(rest_b + spread[0], rest_w, spread[1])
    floor = population.noise_trace(width)
    return AsymptoticRisk(0.0, total - floor, floor, strength / alpha)


def _settled(
    sigma_b: Float64[ndarray, "p p"],
    sigma_w: Float64[ndarray, "p p"],
    clusters: Clusters,
    strength: float,
    width: int,
    ridge: float,
) -> tuple[float, float]:
    """alpha and beta, from those of independent Gaussian rows on."""

    def change(state: Float64[ndarray, "2"]) -> Float64[ndarray, "2"]:
        q = _inverse(sigma_b, sigma_w, strength, *np.exp(state).tolist())
        block = _block(q, sigma_b, sigma_w, clusters)
        return np.log([float(block.ones.mean()), float(np.mean(clusters.scale * block.diagonal))]) - state

    eigenvalues = np.maximum(linalg.eigvalsh(sigma_b + sigma_w), 0.0)
    start = asymptotic_risk(
        Spectrum(eigenvalues, np.zeros(width)), 0.0, num_train=clusters.cluster.size, ridge=strength
    )
    found = optimize.root(change, np.full(2, math.log(strength / start.kappa)), method="hybr", tol=_PRECISION)
    if not found.success or np.abs(found.fun).max() > _LARGEST_CHANGE:
        raise InputError(
            f"width={width}, ridge={ridge}: no fixed point of alpha and beta was found; leave this width out"
        )
    alpha, beta = np.exp(found.x).tolist()
    return alpha, beta


def _inverse(
    sigma_b: Float64[ndarray, "p p"], sigma_w: Float64[ndarray, "p p"], strength: float, alpha: float, beta: float
) -> Float64[ndarray, "p p"]:
    """Q."""
    matrix = alpha * sigma_b + beta * sigma_w
    matrix.flat[:: matrix.shape[0] + 1] += strength
    inverse: Float64[ndarray, "p p"] = linalg.inv(matrix, check_finite=False, overwrite_a=True)
    return inverse


def _block(
    q: Float64[ndarray, "p p"], sigma_b: Float64[ndarray, "p p"], sigma_w: Float64[ndarray, "p p"], clusters: Clusters
) -> "_Block":
    size = clusters.cluster.size
    return _Block(clusters, float(np.sum(sigma_b * q)) / size, float(np.sum(sigma_w * q)) / size)


@dataclass(frozen=True, slots=True)
class _Adds:
    """Sums over clusters of H Psi H against an error, one for each part of Psi: 11' and diag(tau)."""

    of_between: Float64[ndarray, "2"]
    of_within: Float64[ndarray, "2"]
    of_scaled: Float64[ndarray, "2"]


class _Block:
    """H of every cluster: diag(d) - phi_b dd' / (1 + phi_b sum d), d = 1/(1 + tau phi_w)."""

    def __init__(self, clusters: Clusters, phi_b: float, phi_w: float) -> None:
        self._clusters, self._phi_b = clusters, phi_b
        self._num = clusters.share.size
        self._d = 1 / (1 + clusters.scale * phi_w)
        self._sums = self._by_cluster(self._d)
        self._shrunk = 1 / (1 + phi_b * self._sums)
        self.ones = self._d * self._shrunk[clusters.cluster]
        self.diagonal = self._d - phi_b * self._d**2 * self._shrunk[clusters.cluster]

    def _by_cluster(self, values: Float64[ndarray, " n"]) -> Float64[ndarray, " k"]:
        return np.bincount(self._clusters.cluster, weights=values, minlength=self._num)

    def adds(self) -> _Adds:
        """See `_Adds`: tr(H Psi H E) with E = 11', I or diag(tau)."""
        tau, ones = self._clusters.scale, self.ones
        total = self._by_cluster(ones)
        # H diag(v) H 1, summed, is sum v (H1)^2; 1'H H1 with a diagonal E is sum e (H1)^2
        squared, scaled = float(np.sum(ones**2)), float(np.sum(tau * ones**2))
        return _Adds(
            np.array([float(np.sum(total**2)), scaled]),
            np.array([squared, self._double(tau, np.ones_like(tau))]),
            np.array([scaled, self._double(tau, tau)]),
        )

    def _double(self, left: Float64[ndarray, " n"], right: Float64[ndarray, " n"]) -> float:
        """sum over ts of left_t H_ts^2 right_s."""
        d, shrunk = self._d, self._phi_b * self._shrunk
        own = float(np.sum(left * right * (self.diagonal**2 - (shrunk[self._clusters.cluster] * d**2) ** 2)))
        return own + float(np.sum(shrunk**2 * self._by_cluster(left * d**2) * self._by_cluster(right * d**2)))

    def fresh(self, between: float, within: float, scaled: float) -> float:
        """The risk of a fresh row, over clusters; the within error of a row is within + tau * scaled."""
        clusters = self._clusters
        weights = self._phi_b * self.ones
        share = np.append(clusters.share, 1 - clusters.share.sum())
        seen = np.append(self._by_cluster(weights), 0.0)
        own = np.append(self._by_cluster(weights**2 * (within + clusters.scale * scaled)), 0.0)
        return float(share @ (between * (1 - seen) ** 2 + within + clusters.fresh_scale * scaled + own))
