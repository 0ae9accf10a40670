"""One draw of a curve: the measured heads of all widths and strengths, and what would be chosen from its rows alone."""

# Letters: n rows, d features, m outputs, w widths, r strengths, h held-out rows.

from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from lab.core.heads.fitted_risk import FittedRisk, fitted_risk
from lab.core.heads.linear_head import LinearHead
from lab.core.heads.population import DensePopulation
from lab.core.runs.random_streams import Seeds
from lab.experiments.probe.pool import Pool
from lab.experiments.probe.rows import ChoiceRow, MeasuredRow

# probability that a least-squares head gives a class at the least
_LEAST_PROBABILITY = 1e-3


def measured_rows(
    pool: Pool,
    curve: str,
    draw: int,
    *,
    num_train: int,
    widths: Sequence[int],
    ridge: Sequence[float],
    rows_per_context: int,
    folds: int,
    seeds: Seeds,
) -> Iterator[MeasuredRow | ChoiceRow]:
    """Every head of a draw, then the choices."""
    rows = pool.leading(draw, num_train)
    features, targets = pool.features[rows], pool.targets[rows]
    fitted = fitted_risk(features, targets, pool.population, widths, ridge=ridge, rows_per_context=rows_per_context)
    # the pool holds the rows of the draw, too
    size = pool.shape[0]
    risk = (size * fitted.risk - num_train * fitted.train) / (size - num_train)
    for place, width in enumerate(widths):
        for column, strength in enumerate(ridge):
            at = place, column
            row: MeasuredRow = {
                "kind": "measured",
                "curve": curve,
                "num_train": num_train,
                "draw": draw,
                "width": width,
                "ridge": strength,
                "risk": float(risk[at]),
                "train": float(fitted.train[at]),
                "leave_one_out": float(fitted.leave_one_out[at]),
                "gcv": float(fitted.gcv[at]),
                "corr_gcv": float(fitted.corr_gcv[at]),
                "leave_one_context_out": float(fitted.leave_one_context_out[at]),
            }
            if pool.is_class:
                row["accuracy"], row["log_loss"] = _classified(pool, draw, rows, width, strength)
            yield row
    estimates = dict([_estimate(fitted, rows_per_context)])
    if folds:
        estimates["cross_validation"] = cross_validated(
            features, targets, widths, ridge, folds, rows_per_context, seeds.numpy("folds", draw, num_train)
        )
    for how, estimate in estimates.items():
        chosen = divmod(int(np.nanargmin(estimate)), len(ridge))
        yield {
            "kind": "choice",
            "curve": curve,
            "num_train": num_train,
            "draw": draw,
            "how": how,
            "width": widths[chosen[0]],
            "ridge": ridge[chosen[1]],
            "risk": float(risk[chosen]),
            "best": float(np.nanmin(risk)),
        }


def cross_validated(
    features: Float64[ndarray, "n d"],
    targets: Float64[ndarray, "n m"],
    widths: Sequence[int],
    ridge: Sequence[float],
    folds: int,
    rows_per_context: int,
    rng: np.random.Generator,
) -> Float64[ndarray, "w r"]:
    """Mean squared error on the rows of each fold of heads that were fitted to the others; contexts stay whole."""
    num_contexts = features.shape[0] // rows_per_context
    fold_of = np.repeat(rng.permutation(num_contexts) % folds, rows_per_context)
    total = np.zeros((len(widths), len(ridge)))
    for fold in range(folds):
        out, kept = fold_of == fold, fold_of != fold
        if not out.any() or not kept.any():
            continue
        left = features[out], targets[out]
        moments = DensePopulation(
            left[0].T @ left[0] / len(left[0]),
            left[0].T @ left[1] / len(left[0]),
            float(np.mean(np.sum(left[1] ** 2, 1))),
        )
        # the strength of all rows: lambda multiplies their number
        scaled = [strength * features.shape[0] / int(kept.sum()) for strength in ridge]
        total += len(left[0]) * fitted_risk(features[kept], targets[kept], moments, widths, ridge=scaled).risk
    return total / features.shape[0]


def _estimate(fitted: FittedRisk, rows_per_context: int) -> tuple[str, Float64[ndarray, "w r"]]:
    """Name and values of what a draw is chosen by.

    The error of rows, or of contexts, that are left out. Where no head of a draw has that of contexts: CorrGCV, and GCV
    where the rows of a context have the same features and leave CorrGCV undefined, too.
    """
    if rows_per_context == 1:
        return "leave_one_out", fitted.leave_one_out
    if np.isfinite(fitted.leave_one_context_out).any():
        return "leave_one_context_out", fitted.leave_one_context_out
    if np.isfinite(fitted.corr_gcv).any():
        return "corr_gcv", fitted.corr_gcv
    return "gcv", fitted.gcv


def _classified(pool: Pool, draw: int, rows: Int64[ndarray, " n"], width: int, strength: float) -> tuple[float, float]:
    """Accuracy, and log-loss in nats of predictions clipped to probabilities, on sampled rows that are not drawn."""
    others = np.setdiff1d(pool.sample, pool.draws[draw])
    head = LinearHead.fit(pool.features[rows][:, :width], pool.targets[rows], ridge=strength, rtol=1e-12)
    scores, true = head.predict(pool.features[others][:, :width]), pool.targets[others].argmax(axis=1)
    # targets are in units of their root mean square, which is 1 for columns of zeros and a one
    probabilities = np.maximum(scores, _LEAST_PROBABILITY)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    chosen = probabilities[np.arange(true.size), true]
    return float(np.mean(scores.argmax(axis=1) == true)), float(-np.mean(np.log(chosen)))


def guessed(pool: Pool) -> tuple[float, float]:
    """Accuracy and log-loss of the constant guess: the shares of the classes."""
    shares = np.mean(pool.targets[pool.sample], axis=0)
    shares = shares[shares > 0] / shares.sum()
    return float(shares.max()), float(-np.sum(shares * np.log(shares)))
