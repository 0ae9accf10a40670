"""What a probe keeps of its rows: second moments of all of them, and those rows that are drawn.

Rows are read block by block, so that any number of them fits: once for moments and drawn rows, once more for pairs.
"""

# Letters: N rows, d features, m outputs, k kept rows, n rows of a draw, c clusters.

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray
from scipy import linalg

from lab.core.errors import InputError
from lab.core.heads.population import DensePopulation
from lab.core.runs.random_streams import Seeds
from lab.experiments.probe.config import Basis
from lab.experiments.probe.rows import Block, Rows

# rows that stand for all, and numbers in them: 160 MB
_SAMPLE, _MOST_SAMPLED = (4000, 16_000), 2e7
# numbers in the sums of clusters: 320 MB
_MOST_SUMS = 4e7
# below it, squares lose digits
_LEAST_SQUARES = 1e-290
# rows, spread over all, among which the nearest other one is looked for
_LOOKED_AT = 400


@dataclass(frozen=True, slots=True)
class Pool:
    """Rows that stand for the population, in the basis whose first coordinates are the features of a width.

    Attributes:
        population: second moments; targets are in units of their root mean square.
        between: moments of pairs of different rows of one cluster; None where they were not asked for.
        null_risk: mean square of the targets before that.
        shape: numbers of rows, features and outputs.
        is_class: whether targets are classes.
        features, targets: of kept rows.
        num_clusters: of all rows; None without clusters.
        num_contexts: of all rows; None without contexts.
        draws: kept rows of each draw, context by context.
        sample: kept rows that stand for all.
    """

    population: DensePopulation
    between: DensePopulation | None
    null_risk: float
    shape: tuple[int, int, int]
    is_class: bool
    features: Float64[ndarray, "k d"]
    targets: Float64[ndarray, "k m"]
    num_clusters: int | None
    num_contexts: int | None
    draws: Sequence[Int64[ndarray, " n"]]
    sample: Int64[ndarray, " s"]

    def leading(self, draw: int, num_train: int) -> Int64[ndarray, " n"]:
        """The kept rows of a draw of fewer rows: the first contexts of the largest."""
        return self.draws[draw][:num_train]

    def cosine(self) -> float:
        """Median over rows of the first draw of the largest cosine with another one."""
        rows = self.features[self.draws[0][:_LOOKED_AT]]
        lengths = np.linalg.norm(rows, axis=1)
        rows = rows[lengths > 0] / lengths[lengths > 0, None]
        if len(rows) < 2:
            return 0.0
        products = rows @ rows.T
        np.fill_diagonal(products, -1.0)
        return float(np.median(products.max(axis=1)))


def make_pool(
    rows: Rows,
    *,
    basis: Basis,
    num_train: int,
    num_draws: int,
    rows_per_context: int,
    label: str,
    seeds: Seeds,
    with_pairs: bool = False,
) -> Pool:
    """Read rows and draw from them.

    Args:
        rows: all of them.
        basis: of the features.
        num_train: n of the largest draw.
        num_draws: how many.
        rows_per_context: T, rows that a draw takes of each of n/T contexts.
        label: of the rows, for errors.
        seeds: of basis and draws.
        with_pairs: whether to look for the moments of pairs of rows of one cluster.

    Raises:
        InputError: if there are too few rows or contexts, or the numbers cannot be squared.
    """
    num_rows = rows.shape[0]
    draws = [
        _drawn(rows, num_train, rows_per_context, seeds.numpy("draw", number), label) for number in range(num_draws)
    ]
    most = int(np.clip(_MOST_SAMPLED // sum(rows.shape[1:]), *_SAMPLE))
    sample = np.sort(seeds.numpy("sample").choice(num_rows, min(most, num_rows), replace=False))
    wanted = np.unique(np.concatenate([*draws, sample]))
    sums = _Sums.of(rows, wanted, label)
    turn = _turn(basis, sums.covariance, seeds.numpy("basis"))
    pairs = _between(rows) if with_pairs else None
    unit = sums.square**0.5

    def turned(covariance: Float64[ndarray, "d d"], cross: Float64[ndarray, "d m"], square: float) -> DensePopulation:
        moved = turn.T @ covariance @ turn
        return DensePopulation((moved + moved.T) / 2, turn.T @ cross / unit, square / sums.square)

    return Pool(
        population=turned(sums.covariance, sums.cross, sums.square),
        between=None if pairs is None else turned(*pairs),
        null_risk=sums.square,
        shape=rows.shape,
        is_class=rows.is_class,
        features=sums.features @ turn,
        targets=sums.targets / unit,
        num_clusters=None if rows.clusters is None else np.unique(rows.clusters).size,
        num_contexts=None if rows.contexts is None else np.unique(rows.contexts).size,
        draws=[np.searchsorted(wanted, draw) for draw in draws],
        sample=np.searchsorted(wanted, sample),
    )


def refuse_useless(rows: Rows, *, num_train: int, rows_per_context: int, num_columns: int, label: str) -> None:
    """Read all rows, and refuse those that `make_pool` would, or that have nothing in their first columns.

    Raises:
        InputError: as `make_pool`, and as the rows do.
    """
    refuse_too_few(rows, num_train=num_train, rows_per_context=rows_per_context, label=label)
    features, targets, largest = np.zeros(rows.shape[1]), 0.0, np.zeros(rows.shape[1])
    for block in rows.blocks():
        with np.errstate(over="ignore"):
            features += np.sum(block.features**2, axis=0)
            targets += float(np.sum(block.targets**2))
        largest = np.maximum(largest, np.abs(block.features).max(axis=0))
    _refuse_squares(label, float(features.sum()), targets, rows)
    if not largest[:num_columns].any():
        raise InputError(
            f"widths={num_columns}: the first {int(np.argmax(largest > 0))} columns of {label} are 0; raise it, or "
            "leave out basis=as_given"
        )


def refuse_too_few(rows: Rows, *, num_train: int, rows_per_context: int, label: str) -> None:
    """Refuse rows of which no draw can be made.

    Raises:
        InputError: as `make_pool`.
    """
    _drawn(rows, num_train, rows_per_context, np.random.default_rng(0), label)


def refuse_no_pairs(rows: Rows, label: str) -> None:
    """Refuse rows whose clusters have no moments of pairs.

    Raises:
        InputError: if every cluster has one row, or there are too many clusters for their sums to be kept.
    """
    assert rows.clusters is not None, "rows with clusters"
    number = int(np.count_nonzero(np.bincount(rows.clusters) > 1))
    if number == 0:
        raise InputError(f"variants=clustered: every cluster of {label} has one row; leave it out")
    if number * sum(rows.shape[1:]) > _MOST_SUMS:
        raise InputError(f"variants=clustered: {label} has {number} clusters, too many to keep sums of; leave it out")


def _refuse_squares(label: str, features: float, targets: float, rows: Rows) -> None:
    for name, total in (("features", features), ("targets", targets)):
        if not np.isfinite(total):
            raise InputError(f"{label}: the squares of its {name} are beyond float64; give them in another unit")
        if total < _LEAST_SQUARES:
            largest = max(float(np.abs(getattr(block, name)).max()) for block in rows.blocks())
            if largest == 0:
                raise InputError(f"{label}: all {name} are 0; there is nothing to fit")
            raise InputError(
                f"{label}: the largest of its {name} is {largest:.2g}, whose square is beyond float64; give them in "
                "another unit"
            )


def _drawn(rows: Rows, num_train: int, size: int, rng: np.random.Generator, label: str) -> Int64[ndarray, " n"]:
    """Rows of a draw: T of each of n/T contexts, context by context."""
    contexts = rows.contexts
    num_rows = rows.shape[0]
    if num_train >= num_rows:
        raise InputError(f"{label} has {num_rows} rows, too few for num_train={num_train} and others; lower it")
    if contexts is None:
        return np.asarray(rng.permutation(num_rows)[:num_train])
    order = rng.permutation(num_rows)
    # in each context, rows in random order; the first T of the contexts that have as many
    order = order[np.argsort(contexts[order], kind="stable")]
    sizes = np.bincount(contexts)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    able = np.flatnonzero(sizes >= size)
    if able.size * size < num_train:
        raise InputError(
            f"{label} has {able.size} contexts of {size} or more rows, too few for num_train={num_train}; "
            f"{_cure(sizes, num_train, size)}"
        )
    chosen = rng.permutation(able)[: num_train // size]
    return np.asarray(order[(starts[chosen][:, None] + np.arange(size)).ravel()])


def _cure(sizes: Int64[ndarray, " g"], num_train: int, size: int) -> str:
    """What makes a draw of contexts of these sizes possible: another number of rows of each, or fewer rows."""
    cures = []
    most = int(np.count_nonzero(sizes >= size)) * size
    if most >= max(2 * size, 4):
        cures.append(f"lower it to {most} or less")
    possible = [
        other
        for other in range(1, int(sizes.max()) + 1)
        if num_train % other == 0 and int(np.count_nonzero(sizes >= other)) * other >= num_train >= 2 * other
    ]
    if possible:
        nearest = min(possible, key=lambda other: abs(other - size))
        cures.append(f"{'raise' if nearest > size else 'lower'} rows_per_context to {nearest}")
    return ", or ".join(cures) or "give more rows of each context"


def _turn(basis: Basis, covariance: Float64[ndarray, "d d"], rng: np.random.Generator) -> Float64[ndarray, "d d"]:
    """The matrix whose first columns are the directions of the features of a width."""
    size = covariance.shape[0]
    if basis is Basis.as_given:
        return np.eye(size)
    if basis is Basis.principal:
        return np.asarray(linalg.eigh(covariance)[1][:, ::-1])
    drawn = rng.standard_normal((size, size))
    if basis is Basis.projection:
        return drawn / np.sqrt(size)
    turn, triangle = np.linalg.qr(drawn)
    return np.asarray(turn * np.sign(np.diag(triangle)))


@dataclass(slots=True)
class _Sums:
    """Moments of all rows, and the rows that are kept."""

    covariance: Float64[ndarray, "d d"]
    cross: Float64[ndarray, "d m"]
    square: float
    features: Float64[ndarray, "k d"]
    targets: Float64[ndarray, "k m"]

    @staticmethod
    def of(rows: Rows, wanted: Int64[ndarray, " k"], label: str) -> "_Sums":
        num_rows, num_features, num_outputs = rows.shape
        covariance, cross = np.zeros((num_features, num_features)), np.zeros((num_features, num_outputs))
        kept = np.empty((wanted.size, num_features)), np.empty((wanted.size, num_outputs))
        square = 0.0
        for block in rows.blocks():
            with np.errstate(over="ignore", invalid="ignore"):
                covariance += block.features.T @ block.features
                cross += block.features.T @ block.targets
                square += float(np.sum(block.targets**2))
            first, last = np.searchsorted(wanted, [block.start, block.start + len(block.features)])
            for array, values in zip(kept, (block.features, block.targets), strict=True):
                array[first:last] = values[wanted[first:last] - block.start]
        _refuse_squares(label, float(np.trace(covariance)), square, rows)
        return _Sums(covariance / num_rows, cross / num_rows, square / num_rows, *kept)


def _between(rows: Rows) -> tuple[Float64[ndarray, "d d"], Float64[ndarray, "d m"], float] | None:
    """Moments of pairs of rows of a cluster; every row counts once, with all others of its cluster.

    None if there are no such pairs, or too many clusters for their sums to be kept.
    """
    clusters = rows.clusters
    if clusters is None:
        return None
    _, num_features, num_outputs = rows.shape
    sizes = np.bincount(clusters)
    # a row without another one of its cluster has no pair
    numbers = np.cumsum(sizes > 1) - 1
    num_clusters = int(numbers[-1]) + 1
    if num_clusters == 0 or num_clusters * (num_features + num_outputs) > _MOST_SUMS:
        return None
    totals = np.zeros((num_clusters, num_features)), np.zeros((num_clusters, num_outputs))
    # a row is no pair with itself
    own, own_cross, own_square = np.zeros((num_features, num_features)), np.zeros((num_features, num_outputs)), 0.0
    for block in rows.blocks():
        features, targets, number, size = _with_pairs(block, clusters, numbers, sizes)
        if number.size:
            first = np.flatnonzero(np.diff(number, prepend=-1))
            for total, values in zip(totals, (features, targets), strict=True):
                total[number[first]] += np.add.reduceat(values, first)
        covariance, cross, square = _moments(features, targets, 1 / (size - 1))
        own += covariance
        own_cross += cross
        own_square += square
    counted = sizes[sizes > 1]
    covariance, cross, square = _moments(*totals, 1 / (counted - 1))
    covariance, cross = (covariance - own) / counted.sum(), (cross - own_cross) / counted.sum()
    # as many directions as there are clusters; the others are slightly negative by chance
    values, vectors = linalg.eigh((covariance + covariance.T) / 2)
    return (
        (vectors * np.maximum(values, 0.0)) @ vectors.T,
        cross,
        (square - own_square) / float(counted.sum()),
    )


def _moments(
    features: Float64[ndarray, "k d"], targets: Float64[ndarray, "k m"], weights: Float64[ndarray, " k"]
) -> tuple[Float64[ndarray, "d d"], Float64[ndarray, "d m"], float]:
    """Weighted sums of x x', x y' and y'y."""
    weighted = features * weights[:, None]
    return weighted.T @ features, weighted.T @ targets, float(np.sum(targets**2, axis=1) @ weights)


def _with_pairs(
    block: Block, clusters: Int64[ndarray, " N"], numbers: Int64[ndarray, " c"], sizes: Int64[ndarray, " c"]
) -> tuple[Float64[ndarray, "b d"], Float64[ndarray, "b m"], Int64[ndarray, " b"], Int64[ndarray, " b"]]:
    """The rows of a block whose cluster has another row, cluster by cluster, with number and size of it."""
    mine = clusters[block.start : block.start + len(block.features)]
    chosen = np.flatnonzero(sizes[mine] > 1)
    chosen = chosen[np.argsort(mine[chosen], kind="stable")]
    return block.features[chosen], block.targets[chosen], numbers[mine[chosen]], sizes[mine[chosen]]
