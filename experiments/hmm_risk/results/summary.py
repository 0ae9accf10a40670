"""From single draws to curves: mean, spread and distance from theory at every point of a sweep."""

import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from lab.experiments.hmm_risk.rows import MEASURED_QUANTITIES

Row = TypeVar("Row", bound=Mapping[str, Any])

# columns that are the same for all draws of a point, besides those of theory
_SHARED = frozenset({"gamma", "width", "context_length", "snr", "noise_floor", "null_risk"})
_THEORY = "theory_"

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


class _Points:
    """The points of one curve: what their draws measured, and the columns that all draws of a point share."""

    def __init__(self, ridge: str, *, is_reference: bool) -> None:
        self.ridge = ridge
        self.is_reference = is_reference
        self._numbers: dict[tuple[float, ...], int] = {}
        self._shared: list[dict[str, float]] = []
        self._measured: list[dict[str, array[float]]] = []

    def add(self, row: Mapping[str, Any]) -> None:
        """Take a row: one draw at one point."""
        key = (row["num_train"], row["width"], row["context_length"])
        number = self._numbers.setdefault(key, len(self._shared))
        if number == len(self._shared):
            names = (name for name in row if name in _SHARED or name.startswith(_THEORY))
            self._shared.append({name: _number(row[name]) for name in names})
            self._measured.append({name: array("d") for name in MEASURED_QUANTITIES if name in row})
        for name, values in self._measured[number].items():
            values.append(_number(row[name]))

    def curve(self, label: str, *, several_ridges: bool) -> Curve:
        """The curve through the points, ordered by rows, width and context."""
        ordered = [self._numbers[key] for key in sorted(self._numbers)]
        first = [self._shared[number] for number in ordered]
        measured = [name for name in MEASURED_QUANTITIES if all(name in self._measured[n] for n in ordered)]
        # all cells have the same number of replicates, so the values of a quantity form a matrix
        statistics = {name: _statistics(np.array([self._measured[n][name] for n in ordered])) for name in measured}
        words = [label] if label else []
        if several_ridges:
            words.append(f"λ = {self.ridge}" if self.ridge != "optimal" else "optimal λ")
        return Curve(
            label=", ".join(words) or "measured",
            ridge=self.ridge,
            x={name: _column(first, name) for name in ("gamma", "width", "context_length", "snr")},
            mean={name: statistics[name]["mean"] for name in measured},
            standard_error={name: statistics[name]["standard_error"] for name in measured},
            median={name: statistics[name]["median"] for name in measured},
            low={name: statistics[name]["low"] for name in measured},
            high={name: statistics[name]["high"] for name in measured},
            theory={name.removeprefix(_THEORY): _column(first, name) for name in first[0] if name.startswith(_THEORY)},
            floor=_column(first, "noise_floor"),
            null_excess=_column(first, "null_risk") - _column(first, "noise_floor"),
            has_mean=np.array(
                [self.ridge != "0" or abs(n - width) > NO_MEAN_WITHIN for n, width, _ in sorted(self._numbers)]
            ),
            is_reference=self.is_reference,
        )


class Curves:
    """The curves of a table whose rows come one at a time: same label and ridge, ordered by width, then by context."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, str], _Points] = {}

    def seen(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Pass rows on, taking note of each."""
        for row in rows:
            key = (row["label"], row["ridge"])
            points = self._groups.get(key)
            if points is None:
                points = _Points(row["ridge"], is_reference=bool(row["gaussian_reference"]))
                self._groups[key] = points
            points.add(row)
            yield row

    def all(self) -> list[Curve]:
        """The curves, in the order in which their first rows came."""
        several_ridges = len({ridge for _, ridge in self._groups}) > 1
        grouped = [points.curve(label, several_ridges=several_ridges) for (label, _), points in self._groups.items()]
        # a signal-to-noise ratio that does not depend on the width is more informative than the noise level
        if all("SNR" not in curve.label and np.ptp(curve.x["snr"]) < 1e-6 * curve.x["snr"][0] for curve in grouped):
            return [
                replace(curve, label=f"{curve.label}, SNR {curve.x['snr'][0]:.3g}".lstrip(", ")) for curve in grouped
            ]
        return grouped


def curves(rows: Iterable[Mapping[str, Any]]) -> list[Curve]:
    """The curves of the rows of a table."""
    found = Curves()
    for _ in found.seen(rows):
        pass
    return found.all()


def _statistics(values: Float64[ndarray, "k r"]) -> dict[str, Float64[ndarray, " k"]]:
    """Over the replicates of each point."""
    with np.errstate(invalid="ignore"):
        error = values.std(axis=1, ddof=1) / np.sqrt(np.sum(np.isfinite(values), axis=1))
        mean = values.mean(axis=1)
    low, high = np.quantile(values, [0.1, 0.9], axis=1)
    return {"mean": mean, "standard_error": error, "median": np.median(values, axis=1), "low": low, "high": high}


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _column(rows: Sequence[Mapping[str, float]], name: str) -> Float64[ndarray, " k"]:
    return np.array([row.get(name, np.nan) for row in rows], dtype=np.float64)
