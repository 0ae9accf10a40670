"""From recorded rows to points: the mean of each head over draws with its interval, beside its lines."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from lab.core.students_t import t_quantile
from lab.experiments.probe.rows import CurveRow, Row

# Letters: k draws.

# without ridge, |n - rank| up to which the mean risk of Gaussian rows has no variance
_NO_MEAN = 3
# gamma between which lines are not held against what is measured
THRESHOLD = (0.8, 1.25)
_CONFIDENCE = 0.95
# per cent up to which a line is said to be near
NEAR = 5.0
# of that of predicting zero; below it, a risk is rounding
_ROUNDING = 1e-12
LINES = ("gaussian", "elliptical", "empirical")
ESTIMATES = ("leave_one_out", "gcv", "corr_gcv", "leave_one_context_out")
# those for several rows of one context
OF_CONTEXTS = ("corr_gcv", "leave_one_context_out")


def percent_above(risk: float, other: float) -> float:
    """How far a risk lies above another one, in per cent; linear targets leave nothing but rounding."""
    return 100 * (max(risk, _ROUNDING) / max(other, _ROUNDING) - 1)


@dataclass(frozen=True, slots=True)
class Point:
    """The head of one width and strength.

    Attributes:
        curve, num_train, width, ridge: of the head.
        rank: number of directions of the features: p, if none depends on others.
        risks: of each draw, over that of predicting zero.
        mean: of the draws; their median next to rank = n, without ridge or with one that is too small to matter there.
        low, high: interval of 95 % of the mean, Student's; infinite for a median.
        summary: mean or median.
        lines: gaussian, elliptical, exact, empirical and floor, as far as there are.
        estimates: mean over draws of each estimate from training rows; without ridge, and beside a median, the median,
            since a row that nearly determines a direction makes one of them as large as it likes.
    """

    curve: str
    num_train: int
    width: int
    rank: int
    ridge: float
    risks: Float64[ndarray, " k"]
    mean: float
    low: float
    high: float
    summary: str
    lines: Mapping[str, float]
    estimates: Mapping[str, float]

    @property
    def gamma(self) -> float:
        """p/n."""
        return self.width / self.num_train

    @property
    def is_away(self) -> bool:
        """Whether rank/n lies outside the threshold."""
        return not THRESHOLD[0] <= self.rank / self.num_train <= THRESHOLD[1]

    @property
    def median(self) -> float:
        """Of the draws."""
        return float(np.median(self.risks))

    def gap(self, line: str) -> float:
        """How far what is measured lies above a line, in per cent, or an estimate above it; NaN without either."""
        if line in self.estimates:
            # a median is held against a median: where rows are near-copies, the mean risk may be twice as high
            return percent_above(self.estimates[line], self.median if self.ridge == 0 else self.mean)
        return percent_above(self.mean, self._line(line))

    def median_gap(self, line: str) -> float:
        """How far the median risk lies above a line, in per cent; NaN without it."""
        return percent_above(self.median, self._line(line))

    def is_beyond(self, line: str, bound: float) -> bool:
        """Whether all of the interval lies further than `bound` per cent from a line: more than draws explain."""
        middle = self._line(line)
        ends = percent_above(self.low, middle), percent_above(self.high, middle)
        return min(ends) > bound or max(ends) < -bound

    def _line(self, line: str) -> float:
        """NaN without it, and where it is infinite: nothing measured lies a share of that away."""
        value = self.lines.get(line, math.nan)
        return value if math.isfinite(value) else math.nan


def lowest(points: Sequence[Point]) -> Point:
    """The point of lowest mean risk: the lowest of each n and width, then of these.

    Where one of those that are compared has no mean, medians of all are.
    """
    found: dict[tuple[int, int], list[Point]] = {}
    for point in points:
        found.setdefault((point.num_train, point.width), []).append(point)
    return _least([_least(some) for some in found.values()])


def _least(points: Sequence[Point]) -> Point:
    if all(point.summary == "mean" for point in points):
        return min(points, key=lambda point: point.mean)
    return min(points, key=lambda point: point.median)


@dataclass(frozen=True, slots=True)
class Choice:
    """What one way to choose did over all draws of a curve and n.

    Attributes:
        how: of the choice.
        costs: risk of what it chose over the lowest of the draw, less 1, in per cent.
    """

    curve: str
    num_train: int
    how: str
    costs: Float64[ndarray, " k"]


@dataclass(frozen=True, slots=True)
class Results:
    """What a table holds.

    Attributes:
        curves: in order.
        points: of all curves.
        choices: of all curves and n.
        classes: mean accuracy and log-loss by curve, n, width and strength.
        has_contexts: whether a draw has several rows of one context; with one, CorrGCV is GCV, up to rounding.
    """

    curves: Sequence[CurveRow]
    points: Sequence[Point]
    choices: Sequence[Choice]
    classes: Mapping[tuple[str, int, int, float], tuple[float, float]]
    has_contexts: bool

    @classmethod
    def of(cls, table: Sequence[Row]) -> Self:
        """The results in the rows of a table, in its order."""
        theory: dict[tuple[Any, ...], dict[str, float]] = {}
        ranks: dict[tuple[Any, ...], int] = {}
        measured: dict[tuple[Any, ...], list[Any]] = {}
        costs: dict[tuple[str, int, str], list[float]] = {}
        curves: list[CurveRow] = []
        for row in table:
            if row["kind"] == "curve":
                curves.append(row)
            elif row["kind"] == "choice":
                costs.setdefault((row["curve"], row["num_train"], row["how"]), []).append(
                    percent_above(row["risk"], row["best"])
                )
            else:
                key = row["curve"], row["num_train"], row["width"], row["ridge"]
                if row["kind"] == "theory":
                    names = ("floor", "exact", *LINES)
                    values = {name: row.get(name) for name in names}
                    # runs of earlier versions have none
                    ranks[key] = row.get("rank") or row["width"]
                    theory[key] = {name: float(value) for name, value in values.items() if isinstance(value, float)}
                else:
                    measured.setdefault(key, []).append(row)
        points = [_point(key, rows, theory.get(key, {}), ranks.get(key, key[2])) for key, rows in measured.items()]
        classes = {
            key: (float(np.mean([row["accuracy"] for row in rows])), float(np.mean([row["log_loss"] for row in rows])))
            for key, rows in measured.items()
            if rows[0].get("accuracy") is not None
        }
        found = [Choice(*key, np.array(values)) for key, values in costs.items()]
        rows_of = [row for rows in measured.values() for row in rows if row.get("corr_gcv") is not None]
        pairs = [(row["corr_gcv"], row["gcv"]) for row in rows_of]
        # NaN where rows of a context have the same features
        has_contexts = any(one != other and not abs(one - other) <= 1e-6 * abs(other) + 1e-9 for one, other in pairs)
        return cls(curves, points, found, classes, has_contexts)

    def of_curve(self, curve: str, num_train: int) -> list[Point]:
        """The points of a curve and n."""
        return [point for point in self.points if (point.curve, point.num_train) == (curve, num_train)]

    def sizes(self) -> list[int]:
        """The numbers of training rows."""
        return sorted({point.num_train for point in self.points})

    def best(self, curve: str, num_train: int) -> Point:
        """The head of lowest risk."""
        return lowest(self.of_curve(curve, num_train))


def _point(key: tuple[Any, ...], rows: Sequence[Any], lines: Mapping[str, float], rank: int) -> Point:
    curve, num_train, width, ridge = key
    risks = np.array([row["risk"] for row in rows])
    has_mean = abs(rank - num_train) > _NO_MEAN or (ridge > 0 and _num_free(rows, num_train) > _NO_MEAN)
    estimates = {}
    for name in ESTIMATES:
        # runs of earlier versions have fewer
        values = np.array([math.nan if row.get(name) is None else row[name] for row in rows])
        estimates[name] = float(values.mean() if ridge > 0 and has_mean else np.median(values))
    middle = float(risks.mean() if has_mean else np.median(risks))
    half = interval(risks) if has_mean else math.inf
    summary = "mean" if has_mean else "median"
    ends = middle - half, middle + half
    return Point(curve, num_train, width, rank, ridge, risks, middle, *ends, summary, lines, estimates)


def _num_free(rows: Sequence[Any], num_train: int) -> float:
    """Median over draws of n less the degrees of freedom of a head: GCV is the training error over their square share.

    A ridge that leaves up to three of them keeps a head as near to interpolation as three features fewer would.
    """
    shares = [row["train"] / row["gcv"] if row["gcv"] > 0 else 0.0 for row in rows if math.isfinite(row["gcv"])]
    return num_train * math.sqrt(max(float(np.median(shares)), 0.0)) if shares else math.inf


def interval(values: Float64[ndarray, " k"]) -> float:
    """Half the width of Student's interval of a mean."""
    error = float(values.std(ddof=1)) / math.sqrt(values.size)
    return t_quantile(values.size, _CONFIDENCE) * error
