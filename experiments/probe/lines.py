"""Theory of a curve: lines from the moments of the pool, for every number of rows, width and strength."""

# Letters: s sampled rows, p width.

import math
from collections.abc import Iterator, Sequence
from functools import cached_property

import numpy as np
from jaxtyping import Float64
from numpy import ndarray
from scipy import linalg

from lab.core.errors import InputError
from lab.core.heads.asymptotics import asymptotic_risk, exact_risk, finite_factor
from lab.core.heads.elliptical import elliptical_risk, row_scales, rows_of_length
from lab.core.heads.empirical import empirical_risk
from lab.core.heads.sampled_moments import fresh_residuals, fresh_spectrum
from lab.experiments.probe.pool import Pool
from lab.experiments.probe.rows import TheoryRow

# of a variance of directions of noise, what is not counted as one
_LEAST_SHARE = 1e-10


class TheoryLines:
    """Every line of the rows of a pool, and how much their leverages vary."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    def rows(
        self, curve: str, *, num_train: Sequence[int], widths: Sequence[int], ridge: Sequence[float]
    ) -> Iterator[TheoryRow]:
        """Every line of a curve, width by width."""
        for width in widths:
            lines = self._whole if width == self._pool.shape[1] else _Width(self._pool, width)
            for rows in num_train:
                for strength in ridge:
                    yield lines.row(curve, rows, strength)

    def leverage_sd(self) -> float:
        """Standard deviation of the leverage at full width, over its mean; that of Gaussian rows is (2/d)^½.

        NaN where the features have as many directions as there are rows: each then has the same leverage.
        """
        leverages = self._whole.leverages
        return math.nan if self._whole.rank >= self._pool.shape[0] else float(leverages.std() / leverages.mean())

    @cached_property
    def _whole(self) -> "_Width":
        return _Width(self._pool, self._pool.shape[1])


class _Width:
    """What the lines of one width share.

    Attributes:
        leverages: x'Sigma^+ x of the sampled rows.
        rank: number of directions of the features.
    """

    def __init__(self, pool: Pool, width: int) -> None:
        self._pool, self._width = pool, width
        num_rows = pool.shape[0]
        features = pool.features[pool.sample][:, :width]
        self._features, self._targets = features, pool.targets[pool.sample]
        spectrum = pool.population.spectrum(width)
        self.leverages = _leverages(features, pool.population.covariance[:width, :width])
        self.rank = int(np.count_nonzero(spectrum.eigenvalues))
        self._scales = row_scales(self.leverages, self.rank)
        errors = self._targets - features @ pool.population.coefficients(width)
        squares = np.sum(errors**2, axis=1)
        mean, fitted = float(squares.mean()), max(pool.population.noise_trace(width), 0.0)
        fresh = fresh_residuals(squares, self.leverages, num_rows)
        # a sample of rows has another mean than all of them
        self._residuals = fresh * (fitted / mean) if mean > 0 else fresh
        # a head that fits every row leaves nothing to tell noise by
        self._noise = float(self._residuals.mean()) if self.rank < num_rows else math.nan
        self._spectrum = fresh_spectrum(spectrum, self._noise, num_rows)

    def row(self, curve: str, num_train: int, ridge: float) -> TheoryRow:
        """The lines of n rows and a strength; NaN where the noise is not known."""
        if math.isnan(self._noise):
            return {
                "kind": "theory",
                "curve": curve,
                "num_train": num_train,
                "width": self._width,
                "rank": self.rank,
                "ridge": ridge,
                "floor": math.nan,
                "gaussian": math.nan,
                "elliptical": math.nan,
            }
        gaussian = asymptotic_risk(self._spectrum, self._noise, num_train=num_train, ridge=ridge)
        elliptical = elliptical_risk(self._spectrum, self._scales, self._residuals, num_train=num_train, ridge=ridge)
        row: TheoryRow = {
            "kind": "theory",
            "curve": curve,
            "num_train": num_train,
            "width": self._width,
            "rank": self.rank,
            "ridge": ridge,
            "floor": self._noise,
            "gaussian": gaussian.total,
            "elliptical": elliptical.total,
        }
        if ridge == 0 and np.isfinite(elliptical.variance):
            factor = finite_factor(self._spectrum, num_train=rows_of_length(self._scales, num_train))
            row["elliptical"] = elliptical.total + (factor - 1) * elliptical.variance
        exact = exact_risk(self._spectrum, self._noise, num_train=num_train) if ridge == 0 else None
        if exact is not None:
            row["exact"] = exact.total
        empirical = self._empirical(num_train, ridge)
        return row if empirical is None else {**row, "empirical": empirical}

    def _empirical(self, num_train: int, ridge: float) -> float | None:
        """The line for the sampled rows; None at rank = n, and with ridge, where the elliptical one is as near."""
        if ridge > 0 or self.rank == num_train:
            return None
        try:
            return empirical_risk(self._features, self._targets, num_train=num_train, ridge=ridge).total
        except InputError:
            return None


def _leverages(rows: Float64[ndarray, "s p"], covariance: Float64[ndarray, "p p"]) -> Float64[ndarray, " s"]:
    """x'Sigma^+ x of each row."""
    values, vectors = linalg.eigh(covariance)
    kept = values > _LEAST_SHARE * values[-1]
    return np.asarray(np.sum((rows @ vectors[:, kept]) ** 2 / values[kept], axis=1))
