"""Rows made of others, in which one cause of a gap between measured risk and theory is taken away.

Blocks are made again each time that they are read, from the seed and the number of the block.
"""

# Letters: N rows, b rows of a block, d features, m outputs, c clusters.

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray
from scipy import linalg

from lab.core.errors import ConfigError
from lab.core.heads.elliptical import row_scales
from lab.core.runs.random_streams import Seeds
from lab.experiments.probe.pool import Pool
from lab.experiments.probe.rows import BLOCK, Block, Rows, of_unit_size

# the first row of a block, the number of its rows, and a generator, to features
Draw = Callable[[int, int, np.random.Generator], Float64[ndarray, "b d"]]

DRAWN = ("linear_labels", "gaussian", "elliptical", "clustered")


class ScaledRows:
    """Rows scaled to a root mean square of 1; one of zeros stays."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self.shape, self.is_class = rows.shape, rows.is_class
        self.contexts, self.clusters = rows.contexts, rows.clusters

    def blocks(self) -> Iterator[Block]:
        """See `Rows.blocks`."""
        for block in self._rows.blocks():
            yield block._replace(features=of_unit_size(block.features))


class ChosenRows:
    """Some rows of others."""

    def __init__(self, rows: Rows, chosen: Int64[ndarray, " k"]) -> None:
        """Choose rows by their numbers, in ascending order."""
        self._rows, self._chosen = rows, chosen
        self.shape, self.is_class = (chosen.size, *rows.shape[1:]), rows.is_class
        self.contexts = None if rows.contexts is None else np.unique(rows.contexts[chosen], return_inverse=True)[1]
        self.clusters = None if rows.clusters is None else rows.clusters[chosen]

    def blocks(self) -> Iterator[Block]:
        """See `Rows.blocks`."""
        for block in self._rows.blocks():
            first, last = np.searchsorted(self._chosen, [block.start, block.start + len(block.features)])
            places = self._chosen[first:last] - block.start
            if places.size:
                yield Block(int(first), block.features[places], block.targets[places])


def distinct_rows(rows: Rows, seeds: Seeds) -> ChosenRows:
    """One row of each cluster, at random.

    Raises:
        ConfigError: without clusters.
    """
    clusters = rows.clusters
    if clusters is None:
        raise ConfigError("variants=distinct needs clusters: rows of a model, or a file with an array clusters")
    order = seeds.numpy("distinct").permutation(clusters.size)
    _, first = np.unique(clusters[order], return_index=True)
    # contexts are independent; rows of one are not: those that are left of one are few
    return ChosenRows(rows, np.sort(order[first]))


class JitteredRows:
    """Rows with independent noise of one size in every feature."""

    def __init__(self, rows: Rows, size: float, pool: Pool, seeds: Seeds) -> None:
        self._rows, self._seeds = rows, seeds
        self._size = size * float(np.sqrt(np.trace(pool.population.covariance) / rows.shape[1]))
        self.shape, self.is_class = rows.shape, rows.is_class
        self.contexts, self.clusters = rows.contexts, rows.clusters

    def blocks(self) -> Iterator[Block]:
        """See `Rows.blocks`."""
        for block in self._rows.blocks():
            noise = self._seeds.numpy("jitter", block.start).standard_normal(block.features.shape)
            yield block._replace(features=block.features + self._size * noise)


@dataclass(frozen=True, slots=True)
class DrawnRows:
    """Rows drawn with the moments of a pool in the columns as they are given; targets follow the linear model.

    Attributes:
        rows: whose number, contexts and clusters they have.
        kind: linear_labels (the features of `rows` themselves), gaussian, elliptical or clustered.
        pool: the moments.
        seeds: of what is drawn.
    """

    rows: Rows
    kind: str
    pool: Pool
    seeds: Seeds

    @property
    def shape(self) -> tuple[int, int, int]:
        """See `Rows.shape`."""
        return self.rows.shape

    @property
    def is_class(self) -> bool:
        """Targets are numbers."""
        return False

    @property
    def contexts(self) -> Int64[ndarray, " N"] | None:
        """Every drawn row is independent; see `Rows.contexts`."""
        return self.rows.contexts if self.kind == "linear_labels" else None

    @property
    def clusters(self) -> Int64[ndarray, " N"] | None:
        """Where copies are left; see `Rows.clusters`."""
        return self.rows.clusters if self.kind in ("linear_labels", "clustered") else None

    def blocks(self) -> Iterator[Block]:
        """See `Rows.blocks`."""
        population = self.pool.population
        width = population.num_features
        coefficients, noise = population.coefficients(width), np.sqrt(_noise(self.pool))
        for start, features in self._features():
            errors = self.seeds.numpy("noise", start).standard_normal((len(features), noise.size)) * noise
            yield Block(start, features, features @ coefficients + errors)

    def _features(self) -> Iterator[tuple[int, Float64[ndarray, "b d"]]]:
        if self.kind == "linear_labels":
            yield from ((block.start, block.features) for block in self.rows.blocks())
            return
        draw = self._drawn()
        for start in range(0, self.shape[0], BLOCK):
            yield start, draw(start, min(BLOCK, self.shape[0] - start), self.seeds.numpy(self.kind, start))

    def _drawn(self) -> Draw:
        """What draws the rows of a block."""
        population, pool = self.pool.population, self.pool
        width = population.num_features
        root = _root(population.covariance)
        if self.kind == "gaussian":
            return lambda start, size, rng: rng.standard_normal((size, width)) @ root
        if self.kind == "elliptical":
            leverages = np.sum(linalg.lstsq(root.T, pool.features[pool.sample].T)[0] ** 2, axis=0)
            scales = np.sqrt(row_scales(leverages, int(np.linalg.matrix_rank(root))))
            return lambda start, size, rng: (rng.standard_normal((size, width)) @ root) * rng.choice(scales, (size, 1))
        if pool.between is None or self.rows.clusters is None:
            raise ConfigError(
                "variants=clustered needs clusters of more than one row, and not more of them than sums can be kept "
                "of; leave it out"
            )
        clusters = self.rows.clusters
        between, within = _root(pool.between.covariance), _root(population.covariance - pool.between.covariance)
        means = self.seeds.numpy("means").standard_normal((int(clusters.max()) + 1, width)) @ between
        return lambda start, size, rng: (
            means[clusters[start : start + size]] + rng.standard_normal((size, width)) @ within
        )


def _noise(pool: Pool) -> Float64[ndarray, " m"]:
    """Mean square of each output's residual on fresh rows under the best head: N/(N - p) times that on its own rows."""
    num_rows, width = pool.shape[0], pool.population.num_features
    errors = pool.targets[pool.sample] - pool.features[pool.sample] @ pool.population.coefficients(width)
    squares = np.mean(errors**2, axis=0)
    total = float(squares.sum())
    fitted = max(pool.population.noise_trace(width), 0.0)
    return squares * (fitted / total * num_rows / (num_rows - width)) if total > 0 and num_rows > width else squares


def _root(covariance: Float64[ndarray, "d d"]) -> Float64[ndarray, "d d"]:
    """R with R'R = Sigma."""
    values, vectors = linalg.eigh(covariance)
    return np.asarray(np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T)
