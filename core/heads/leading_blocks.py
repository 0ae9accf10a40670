"""Asymptotic risk of every leading block of a dense population, without an eigendecomposition of each.

The risk at width p (`heads.asymptotics`) depends on Sigma_p and c_p = E[x y'] of the first p features through

    u(κ) = Σ κ/(s_i + κ) = κ tr (Sigma_p + κ I)^-1    and    g(κ) = tr c_p' (Sigma_p + κ I)^-1 c_p.

One Cholesky factor L of the widest Sigma + κ I gives both for all p: the leading blocks of L and of L^-1 are those of
the leading blocks, so that u is κ times a cumulative sum of squared rows of L^-1, and g one of squared rows of L^-1 c.
As functions of log κ they have no singularity closer to the real line than π, so that a polynomial through a few values
is as good as they are. With ' for the derivative by log κ,

    p - u = n (1 - λ/κ),    1 - df/n = λ/κ + u'/n,    df = p - u - u',    κ² Σ b_i² s_i/(s_i + κ)² = g(0) - g + g'.
"""

# Letters: w widths, k coefficients, t values of κ, p width, m outputs.

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64
from numpy import ndarray
from numpy.polynomial import chebyshev
from scipy import linalg

from lab.core.errors import InputError
from lab.core.heads.decompositions import default_rank_tolerance
from lab.core.heads.population import DensePopulation

# a polynomial through 14 values of κ over a factor e² is right to about eleven digits
_NODES, _SPAN = 14, 2.0
# bisections of a span
_STEPS = 48
# values of κ in a span among which the best one is looked for; between them the risk is a parabola
_TRIED = 65
# spans without anything better, after which the search ends
_FURTHER = 2
# κ below this share of the mean eigenvalue is rounding
_LEAST_SHARE = 1e-15


@dataclass(frozen=True, slots=True)
class BlockRisks:
    """The risk at some widths, summed over outputs.

    Attributes:
        ridges: λ.
        kappa: effective ridge κ; 0 for the minimum-norm head with at most as many features as rows.
        bias: asymptotic.
        variance: asymptotic; infinite for λ = 0 and p = n.
    """

    ridges: Float64[ndarray, " w"]
    kappa: Float64[ndarray, " w"]
    bias: Float64[ndarray, " w"]
    variance: Float64[ndarray, " w"]

    @property
    def excess(self) -> Float64[ndarray, " w"]:
        """Bias plus variance."""
        return self.bias + self.variance


class LeadingBlocks:
    """The leading blocks of a population at some widths.

    Attributes:
        widths: p.
        signal: tr B_p' Sigma_p B_p.
        noise_trace: tr Sigma_e,p.

    Raises:
        InputError: if the covariance does not have full rank.
    """

    def __init__(self, population: DensePopulation, widths: Sequence[int]) -> None:
        self.widths: Int64[ndarray, " w"] = np.array(widths, dtype=np.int64)
        largest = int(self.widths.max())
        self._covariance = population.covariance[:largest, :largest]
        self._cross = population.cross[:largest]
        _, explained, pivots = self._sums(0.0, largest)
        if pivots.min() <= largest * default_rank_tolerance(largest, largest):
            raise InputError(f"covariance is singular in its first {largest} features; features must be independent")
        self.signal = explained[self.widths - 1]
        noise = population.target_variance - self.signal
        # without noise, the difference is rounding of either sign
        self.noise_trace = np.where(np.abs(noise) <= 1e-13 * population.target_variance, 0.0, noise)

    def risks(self, *, num_train: int, ridge: float) -> BlockRisks:
        """The risk at every width for one strength λ ≥ 0."""
        found = _Found.empty(self.widths.size)
        left = self.widths > (num_train if ridge == 0 else 0)
        log_kappa = math.log(ridge + float(np.trace(self._covariance)) / num_train)
        while left.any():
            self._refuse_rounding(log_kappa)
            span = self._span(log_kappa, left)
            low, high = span.low, span.high
            # the balance n (1 - λ/κ) - (p - u) rises with κ
            inside = self._balance(span, np.full(self.widths.size, low), num_train, ridge) <= 0
            lower, upper = np.full(self.widths.size, low), np.full(self.widths.size, high)
            for _ in range(_STEPS):
                middle = (lower + upper) / 2
                is_below = self._balance(span, middle, num_train, ridge) <= 0
                lower, upper = np.where(is_below, middle, lower), np.where(is_below, upper, middle)
            found.take(left & inside, span, (lower + upper) / 2)
            left &= ~inside
            log_kappa = low
        return self._risks(found, num_train)

    def best_risks(self, *, num_train: int) -> BlockRisks:
        """The risk at every width for its strength λ ≥ 0 of lowest risk; λ to about 1e-3 of itself.

        Without signal it is infinite, as in `asymptotics.optimal_ridge`.
        """
        has_signal = self._aligned() > 0
        if not has_signal.any():
            return self._zeros()
        found, lowest, without_gain = _Found.empty(self.widths.size), np.full(self.widths.size, np.inf), 0
        everywhere = np.ones(self.widths.size, dtype=bool)
        log_kappa = self._largest_best(num_train)
        while without_gain < _FURTHER:
            self._refuse_rounding(log_kappa)
            span = self._span(log_kappa, everywhere)
            tried = np.linspace(span.low, span.high, _TRIED)
            risks = np.stack([self._excess(span, np.full(self.widths.size, x), num_train) for x in tried])
            place = np.clip(np.argmin(risks, axis=0), 1, _TRIED - 2)
            before, at, after = (np.take_along_axis(risks, place[None] + by, axis=0)[0] for by in (-1, 0, 1))
            with np.errstate(divide="ignore", invalid="ignore"):
                curvature = before - 2 * at + after
                shift = np.where(np.isfinite(curvature) & (curvature > 0), (before - after) / (2 * curvature), 0.0)
            points = tried[place] + np.clip(shift, -1, 1) * (tried[1] - tried[0])
            risk = self._excess(span, points, num_train)
            is_better = risk < lowest
            found.take(is_better, span, points)
            without_gain = 0 if is_better.any() else without_gain + 1
            lowest = np.minimum(lowest, risk)
            # a minimum at the end of one span is inside the next
            log_kappa = float(tried[2])
        best, without = self._risks(found, num_train), self.risks(num_train=num_train, ridge=0.0)
        is_none = without.excess <= best.excess
        choices, silent = [~has_signal & (without.excess > 0), is_none], self._zeros()
        return BlockRisks(
            ridges=np.select(choices, [silent.ridges, np.zeros_like(best.ridges)], best.ridges),
            kappa=np.select(choices, [silent.kappa, without.kappa], best.kappa),
            bias=np.select(choices, [silent.bias, without.bias], best.bias),
            variance=np.select(choices, [silent.variance, without.variance], best.variance),
        )

    def _zeros(self) -> BlockRisks:
        """The risk of the head that predicts zero, which is best without signal."""
        infinite = np.full(self.widths.size, np.inf)
        return BlockRisks(infinite, infinite, self.signal, np.zeros(self.widths.size))

    def _aligned(self) -> Float64[ndarray, " w"]:
        """The squared norm of c_p."""
        return np.asarray(np.cumsum(np.sum(self._cross**2, axis=1))[self.widths - 1])

    def _largest_best(self, num_train: int) -> float:
        """Bound of log κ above which the risk rises to that of predicting zero, as in `asymptotics.optimal_ridge`."""
        squares = np.cumsum(np.cumsum(self._covariance**2, axis=0), axis=1).diagonal()[self.widths - 1]
        aligned = self._aligned()
        with np.errstate(divide="ignore", over="ignore"):
            spread = (self.noise_trace + self.signal) * squares / (num_train * aligned)
        # without signal the risk falls to that of predicting zero without end
        return (
            math.log(max(float(spread[np.isfinite(spread)].max(initial=0.0)), float(np.trace(self._covariance))))
            + _SPAN
        )

    def _excess(self, span: "_Span", log_kappa: Float64[ndarray, " w"], num_train: int) -> Float64[ndarray, " w"]:
        """The excess risk at a κ of each width; infinite where λ would be negative."""
        found = _Found.empty(self.widths.size)
        found.take(np.ones(self.widths.size, dtype=bool), span, log_kappa)
        risks = self._risks(found, num_train)
        return np.where(risks.ridges >= 0, risks.excess, np.inf)

    def _balance(
        self, span: "_Span", log_kappa: Float64[ndarray, " w"], num_train: int, ridge: float
    ) -> Float64[ndarray, " w"]:
        lost, _ = span.at(span.lost, log_kappa)
        return num_train * (1 - ridge * np.exp(-log_kappa)) - (self.widths - lost)

    def _risks(self, found: "_Found", num_train: int) -> BlockRisks:
        """The risk where κ was found; elsewhere that of the minimum-norm head with at most n features."""
        is_found = found.kappa > 0
        kept = np.where(is_found, self.widths - found.lost, self.widths)
        degrees = np.where(is_found, kept - found.lost_slope, self.widths)
        # 1 - df/n, as a sum: the difference cancels near p = n
        with np.errstate(divide="ignore", invalid="ignore"):
            margin = (num_train - kept + np.where(is_found, found.lost_slope, 0.0)) / num_train
            variance = np.where(self.noise_trace > 0, self.noise_trace * degrees / num_train / margin, 0.0)
            missed = np.maximum(self.signal - found.explained + found.explained_slope, 0.0)
            bias = np.where(is_found, missed / margin, 0.0)
        ridges = np.where(is_found, found.kappa * (1 - kept / num_train), 0.0)
        return BlockRisks(ridges, found.kappa, bias, variance)

    def _span(self, log_kappa: float, wanted: Bool[ndarray, " w"]) -> "_Span":
        """u and g over a factor e² of κ, up to `log_kappa`; zero at widths beyond the largest wanted one."""
        largest = int(self.widths[wanted].max())
        is_reached = self.widths <= largest
        places = self.widths[is_reached] - 1
        nodes = chebyshev.chebpts1(_NODES)
        values = np.zeros((2, _NODES, self.widths.size))
        for node, x in enumerate(nodes):
            kappa = math.exp(log_kappa + _SPAN * (x - 1) / 2)
            lost, explained, _ = self._sums(kappa, largest)
            values[0, node, is_reached] = kappa * lost[places]
            values[1, node, is_reached] = explained[places]
        lost, explained = np.linalg.solve(chebyshev.chebvander(nodes, _NODES - 1), values)
        return _Span(log_kappa - _SPAN, log_kappa, lost, explained)

    def _sums(
        self, kappa: float, largest: int
    ) -> tuple[Float64[ndarray, " p"], Float64[ndarray, " p"], Float64[ndarray, " p"]]:
        """tr (Sigma_p + κ I)^-1 and g for p = 1 .. largest, and the pivots as a share of the diagonal."""
        matrix = self._covariance[:largest, :largest].copy()
        diagonal = np.einsum("ii->i", matrix)
        diagonal += kappa
        variances = diagonal.copy()
        try:
            factor = linalg.cholesky(matrix, lower=True, overwrite_a=True, check_finite=False)
        except linalg.LinAlgError as error:
            raise InputError(f"covariance is not positive definite in its first {largest} features") from error
        aligned = linalg.solve_triangular(factor, self._cross[:largest], lower=True, check_finite=False)
        pivots = factor.diagonal() ** 2 / variances
        inverse, _ = linalg.lapack.dtrtri(factor, lower=1)
        rows = np.einsum("ij,ij->i", inverse, inverse)
        return np.cumsum(rows), np.cumsum(np.sum(aligned**2, axis=1)), pivots

    def _refuse_rounding(self, log_kappa: float) -> None:
        if math.exp(log_kappa) < _LEAST_SHARE * float(np.trace(self._covariance)) / self._covariance.shape[0]:
            raise InputError("covariance is singular to rounding; features must be independent")


@dataclass(frozen=True, slots=True)
class _Span:
    """u and g of every width over an interval of log κ.

    Attributes:
        low: of log κ.
        high: of log κ.
        lost: coefficients of u.
        explained: coefficients of g.
    """

    low: float
    high: float
    lost: Float64[ndarray, "k w"]
    explained: Float64[ndarray, "k w"]

    def at(
        self, coefficients: Float64[ndarray, "k w"], log_kappa: Float64[ndarray, " w"]
    ) -> tuple[Float64[ndarray, " w"], Float64[ndarray, " w"]]:
        """The function of each width at its κ, and its derivative by log κ."""
        half = (self.high - self.low) / 2
        place = (log_kappa - self.low) / half - 1
        values = chebyshev.chebval(place, coefficients, tensor=False)
        slopes = chebyshev.chebval(place, chebyshev.chebder(coefficients, scl=1 / half), tensor=False)
        return values, slopes


@dataclass(frozen=True, slots=True)
class _Found:
    """κ of each width, 0 where it is not found, and what the risk takes from it."""

    kappa: Float64[ndarray, " w"]
    lost: Float64[ndarray, " w"]
    lost_slope: Float64[ndarray, " w"]
    explained: Float64[ndarray, " w"]
    explained_slope: Float64[ndarray, " w"]

    @staticmethod
    def empty(size: int) -> "_Found":
        """Zeros for every width, before any is solved."""
        return _Found(*(np.zeros(size) for _ in range(5)))

    def take(self, chosen: Bool[ndarray, " w"], span: _Span, log_kappa: Float64[ndarray, " w"]) -> None:
        """Take κ of the chosen widths from a span."""
        mine = (self.kappa, self.lost, self.lost_slope, self.explained, self.explained_slope)
        known = (np.exp(log_kappa), *span.at(span.lost, log_kappa), *span.at(span.explained, log_kappa))
        for column, values in zip(mine, known, strict=True):
            column[chosen] = values[chosen]
