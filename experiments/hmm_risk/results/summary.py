"""From single draws to curves: mean, spread and distance from theory at every point of a sweep."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from lab.experiments.hmm_risk.rows import MEASURED_QUANTITIES

# Within this many rows of p = n the mean of the risk, or its variance, is infinite (inverse Wishart moments).
NO_MEAN_WITHIN = 3


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a figure: the points of one label and one ridge strength, in the order of the x axis.

    Attributes:
        label: its legend.
        x: columns that can serve as the x axis (gamma, width, context_length), one entry for each point.
        mean, standard_error, median, low, high: over replicates, by measured quantity; low and high are the 10 and
            90 % quantiles.
        theory: by quantity; `independent_rows` and `exact` in addition to the asymptotic line; NaN where undefined.
        floor: the minimum risk of any linear head on these features.
        null_excess: the excess risk of predicting zero.
        has_mean: False within three rows of p = n, where only quantiles are meaningful.
        is_reference: whether the theory is only a Gaussian reference, not a prediction for these data.
    """

    label: str
    ridge: str
    x: dict[str, Float64[ndarray, " k"]]
    mean: dict[str, Float64[ndarray, " k"]]
    standard_error: dict[str, Float64[ndarray, " k"]]
    median: dict[str, Float64[ndarray, " k"]]
    low: dict[str, Float64[ndarray, " k"]]
    high: dict[str, Float64[ndarray, " k"]]
    theory: dict[str, Float64[ndarray, " k"]]
    floor: Float64[ndarray, " k"]
    null_excess: Float64[ndarray, " k"]
    has_mean: ndarray
    is_reference: bool

    def centre(self, quantity: str) -> Float64[ndarray, " k"]:
        """The mean where it exists, else the median."""
        return np.where(self.has_mean, self.mean[quantity], self.median[quantity])

    def gap(self, quantity: str, line: str) -> Float64[ndarray, " k"]:
        """measured / theory - 1; NaN where either is not finite or has no mean."""
        theory = self.theory[line]
        with np.errstate(divide="ignore", invalid="ignore"):
            gap = self.mean[quantity] / theory - 1
        return np.where(self.has_mean & np.isfinite(theory), gap, np.nan)


def curves(rows: Iterable[Mapping[str, Any]]) -> list[Curve]:
    """Group the rows of a table into curves: same label and ridge, ordered by width, then by context."""
    groups: dict[tuple[str, str], dict[tuple[float, ...], list[Mapping[str, Any]]]] = {}
    for row in rows:
        point = (row["num_train"], row["width"], row["context_length"])
        groups.setdefault((row["label"], row["ridge"]), {}).setdefault(point, []).append(row)
    several_ridges = len({ridge for _, ridge in groups}) > 1
    grouped = [_curve(label, ridge, points, several_ridges) for (label, ridge), points in groups.items()]
    # a signal-to-noise ratio that does not depend on the width is more informative than the noise level
    if all("SNR" not in curve.label and np.ptp(curve.x["snr"]) < 1e-6 * curve.x["snr"][0] for curve in grouped):
        return [replace(curve, label=f"{curve.label}, SNR {curve.x['snr'][0]:.3g}".lstrip(", ")) for curve in grouped]
    return grouped


def _curve(
    label: str, ridge: str, points: dict[tuple[float, ...], list[Mapping[str, Any]]], several_ridges: bool
) -> Curve:
    ordered = [points[key] for key in sorted(points)]
    first = [replicates[0] for replicates in ordered]
    measured = [name for name in MEASURED_QUANTITIES if all(name in row for row in first)]
    # all cells have the same number of replicates, so the values of a quantity form a matrix
    values = {name: _rectangle([[row[name] for row in replicates] for replicates in ordered]) for name in measured}
    counts = {name: np.sum(np.isfinite(block), axis=1) for name, block in values.items()}
    with np.errstate(invalid="ignore"):
        error = {name: values[name].std(axis=1, ddof=1) / np.sqrt(counts[name]) for name in measured}
        mean = {name: values[name].mean(axis=1) for name in measured}
    words = [label] if label else []
    if several_ridges:
        words.append(f"λ = {ridge}" if ridge != "optimal" else "optimal λ")
    return Curve(
        label=", ".join(words) or "measured",
        ridge=ridge,
        x={name: _column(first, name) for name in ("gamma", "width", "context_length", "snr")},
        mean=mean,
        standard_error=error,
        median={name: np.median(values[name], axis=1) for name in measured},
        low={name: np.quantile(values[name], 0.1, axis=1) for name in measured},
        high={name: np.quantile(values[name], 0.9, axis=1) for name in measured},
        theory={name.removeprefix("theory_"): _column(first, name) for name in first[0] if name.startswith("theory_")},
        floor=_column(first, "noise_floor"),
        null_excess=_column(first, "null_risk") - _column(first, "noise_floor"),
        has_mean=np.array(
            [row["ridge"] != "0" or abs(row["num_train"] - row["width"]) > NO_MEAN_WITHIN for row in first]
        ),
        is_reference=bool(first[0]["gaussian_reference"]),
    )


def _rectangle(lists: Sequence[Sequence[float | None]]) -> Float64[ndarray, "k r"]:
    return np.array([[np.nan if value is None else value for value in inner] for inner in lists], dtype=np.float64)


def _column(rows: Sequence[Mapping[str, Any]], name: str) -> Float64[ndarray, " k"]:
    return np.array([np.nan if row.get(name) is None else row[name] for row in rows], dtype=np.float64)
