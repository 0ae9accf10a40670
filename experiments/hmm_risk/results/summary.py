"""From single draws to curves: mean, spread and distance from theory at every point of a sweep."""

# Letters: k points, K problems, R draws of the rows of each.

import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Bool, Float64
from numpy import ndarray

from lab.experiments.hmm_risk.results.spread import Spread, clear_distance, spread
from lab.experiments.hmm_risk.results.tails import NO_MEAN_WITHIN, is_heavy
from lab.experiments.hmm_risk.rows import MEASURED_QUANTITIES, RiskResult, quantities

Row = TypeVar("Row", bound=Mapping[str, Any])
Part = TypeVar("Part")

# columns that are the same for all draws of a problem, besides those of theory
_SHARED = frozenset(
    {
        "gamma",
        "width",
        "context_length",
        "snr",
        "noise_floor",
        "misspecification",
        "null_risk",
        "num_directions",
        "labellings_rejected",
    }
)
_THEORY = "theory_"
_MEASURED = (*MEASURED_QUANTITIES, "test_risk")

# what a constant guess achieves, by the quantity that it is compared with
CONSTANT = {"accuracy": "constant_accuracy", "log_loss": "constant_log_loss"}


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a figure: the points of one label and one ridge strength, in the order of the x axis.

    Attributes:
        label: its legend.
        name: the label without a signal-to-noise ratio that follows from the problem: runs that draw other problems
            have curves of the same name.
        x: columns that can serve as the x axis (gamma, width, context_length), one entry for each point.
        mean, standard_error, between, within: over problems and draws, by measured quantity; see `Spread`.
        median, low, high: of all draws, by measured quantity; low and high are the 10 and 90 % quantiles.
        theory: by quantity, averaged over problems; `independent_rows` and `exact` in addition to the asymptotic line;
            NaN where undefined.
        floor: the minimum risk of any linear head on these features, averaged over problems: of Gaussian features, and
            of a posterior, that of the Bayes rule.
        baseline: by measured quantity, what is achieved without features, averaged over problems: by predicting zero,
            or by the best constant guess on the same test rows.
        z: distances in two-level standard errors of paired differences, NaN where there is no mean: `exact`, the excess
            risk from the exact finite-n line of the same problem; `test`, the error on test rows from the exact risk
            of the same draw; and the name of a quantity, from its baseline.
        is_near: whether the features vary in about as many directions as there are rows; see `tails`.
        has_mean: False where only quantiles are meaningful; see `tails`.
        is_reference: whether the theory is only a Gaussian reference, not a prediction for these data.
        problem_is_drawn: whether anything but the rows is random.
        num_problems, num_draws: K and R; R is 0 in a sweep of theory alone.
        labellings_rejected: of all problems together.
    """

    label: str
    name: str
    ridge: str
    x: dict[str, Float64[ndarray, " k"]]
    mean: dict[str, Float64[ndarray, " k"]]
    standard_error: dict[str, Float64[ndarray, " k"]]
    between: dict[str, Float64[ndarray, " k"]]
    within: dict[str, Float64[ndarray, " k"]]
    median: dict[str, Float64[ndarray, " k"]]
    low: dict[str, Float64[ndarray, " k"]]
    high: dict[str, Float64[ndarray, " k"]]
    theory: dict[str, Float64[ndarray, " k"]]
    floor: Float64[ndarray, " k"]
    baseline: dict[str, Float64[ndarray, " k"]]
    z: dict[str, Float64[ndarray, " k"]]
    is_near: Bool[ndarray, " k"]
    has_mean: Bool[ndarray, " k"]
    is_reference: bool
    problem_is_drawn: bool
    num_problems: int
    num_draws: int
    labellings_rejected: int

    @property
    def num_independent(self) -> int:
        """Draws between which standard errors are taken: of the problem, or of the rows if there is one problem."""
        return self.num_problems if self.num_problems > 1 else self.num_draws

    @property
    def clearly(self) -> float:
        """The z beyond which a difference is one: two standard errors, or more if they are known from few draws."""
        return clear_distance(self.num_independent)

    @property
    def null_excess(self) -> Float64[ndarray, " k"]:
        """The excess risk of predicting zero."""
        return self.baseline["excess_risk"]

    def centre(self, quantity: str) -> Float64[ndarray, " k"]:
        """The mean where it is meaningful, else the median; theory, if nothing was drawn."""
        if self.num_draws == 0:
            return self.theory[quantity]
        return np.where(self.has_mean, self.mean[quantity], self.median[quantity])

    def gap(self, quantity: str, line: str) -> Float64[ndarray, " k"]:
        """measured / theory - 1; NaN where either is not finite or has no mean."""
        theory = self.theory[line]
        with np.errstate(divide="ignore", invalid="ignore"):
            gap = self.mean[quantity] / theory - 1
        return np.where(self.has_mean & np.isfinite(theory), gap, np.nan)


class _Point:
    """The draws at one point, problem by problem, and the columns that all draws of a problem share."""

    def __init__(self) -> None:
        self.shared: dict[int, dict[str, float]] = {}
        self.draws: dict[int, dict[str, array[float]]] = {}

    def add(self, row: Mapping[str, Any]) -> None:
        """Take a row: one draw, or theory alone."""
        problem = row["problem"]
        if problem not in self.shared:
            self.shared[problem] = {
                name: _number(row[name]) for name in row if name in _SHARED or name.startswith(_THEORY)
            }
            self.draws[problem] = {name: array("d") for name in _MEASURED if name in row}
        for name, values in self.draws[problem].items():
            values.append(_number(row[name]))

    def numbers(self, name: str) -> list[float]:
        """A shared column, problem by problem."""
        return [self.shared[problem].get(name, math.nan) for problem in sorted(self.shared)]

    def values(self, name: str) -> list["array[float]"]:
        """A measured column, problem by problem and draw by draw."""
        return [self.draws[problem][name] for problem in sorted(self.draws)]


class _Points:
    """The points of one curve."""

    def __init__(self, ridge: str, first: Mapping[str, Any]) -> None:
        self._ridge = ridge
        self._is_reference = bool(first["gaussian_reference"])
        self._problem_is_drawn = bool(first["problem_is_drawn"])
        self._points: dict[tuple[float, ...], _Point] = {}

    def add(self, row: Mapping[str, Any]) -> None:
        """Take a row of one point."""
        key = (row["num_train"], row["width"], row["context_length"])
        self._points.setdefault(key, _Point()).add(row)

    def curve(self, label: str, *, several_ridges: bool) -> Curve:
        """The curve through the points, ordered by rows, width and context."""
        points = [self._points[key] for key in sorted(self._points)]
        # all cells of a curve have as many problems and draws, so the values of a quantity form a block
        measured = [name for name in _MEASURED if all(name in point.draws[0] for point in points)]
        values = {name: np.array([point.values(name) for point in points]) for name in measured}
        shared = {name: np.array([point.numbers(name) for point in points]) for name in points[0].shared[0]}
        num_points, num_problems = len(points), len(points[0].shared)
        if not values:
            values = dict.fromkeys(quantities(RiskResult), np.empty((num_points, num_problems, 0)))
        spreads = {name: spread(block) for name, block in values.items()}
        is_risk = "excess_risk" in values
        is_near = self._is_near(shared)
        if is_risk:
            has_mean = ~(np.any(is_near & self._has_no_ridge(shared), axis=1) | is_heavy(values["excess_risk"]))
        else:
            has_mean = ~is_heavy(values["log_loss"])
        middle = {name: shared[name].mean(axis=1) for name in shared}
        words = [label] if label else []
        if several_ridges:
            words.append(f"λ = {self._ridge}" if self._ridge != "optimal" else "optimal λ")
        quantiles = {name: _quantiles(block) for name, block in values.items()}
        own_name = ", ".join(words) or "measured"
        return Curve(
            label=own_name,
            name=own_name,
            ridge=self._ridge,
            x={name: _column(middle, name, num_points) for name in ("gamma", "width", "context_length", "snr")},
            mean={name: found.mean for name, found in spreads.items()},
            standard_error={name: found.standard_error for name, found in spreads.items()},
            between={name: found.between for name, found in spreads.items()},
            within={name: found.within for name, found in spreads.items()},
            low={name: found[0] for name, found in quantiles.items()},
            median={name: found[1] for name, found in quantiles.items()},
            high={name: found[2] for name, found in quantiles.items()},
            theory={name.removeprefix(_THEORY): middle[name] for name in middle if name.startswith(_THEORY)},
            floor=_column(middle, "noise_floor", num_points),
            baseline=_baselines(middle, spreads),
            z={name: np.where(has_mean, found.z, np.nan) for name, found in _differences(values, shared).items()},
            is_near=np.any(is_near, axis=1),
            has_mean=has_mean,
            is_reference=self._is_reference,
            problem_is_drawn=self._problem_is_drawn,
            num_problems=num_problems,
            num_draws=next(iter(values.values())).shape[2],
            labellings_rejected=int(np.nansum(shared.get("labellings_rejected", np.zeros((1, 1)))[0])),
        )

    def _is_near(self, shared: Mapping[str, Float64[ndarray, "k K"]]) -> Bool[ndarray, "k K"]:
        """Around n directions the minimum-norm head has no mean; the error of one that classifies is bounded."""
        widths = shared["width"]
        directions = shared.get("num_directions", widths)
        # a row that was recorded without the column
        directions = np.where(np.isnan(directions), widths, directions)
        return np.asarray(np.abs(self._num_train() - directions) <= NO_MEAN_WITHIN)

    def _has_no_ridge(self, shared: Mapping[str, Float64[ndarray, "k K"]]) -> Bool[ndarray, "k K"]:
        """Without a ridge, or with one so small that it leaves hardly a row more free than the width does.

        A mean with such a ridge is that of rare draws: those whose smallest eigenvalue is below the ridge.
        """
        if self._ridge == "0":
            return np.ones(shared["width"].shape, dtype=bool)
        if "theory_variance" not in shared:
            return np.zeros(shared["width"].shape, dtype=bool)
        floor = shared["noise_floor"]
        with np.errstate(invalid="ignore"):
            # the variance of theory is floor df / (n - df), of which n - df rows are free: without ridge, n - p
            free = self._num_train() * floor / (floor + shared["theory_variance"])
        return np.asarray(free < NO_MEAN_WITHIN + 1)

    def _num_train(self) -> Float64[ndarray, "k 1"]:
        return np.array([[float(num_train)] for num_train, _, _ in sorted(self._points)])


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
                points = self._groups[key] = _Points(row["ridge"], row)
            points.add(row)
            yield row

    def all(self) -> list[Curve]:
        """The curves, in the order in which their first rows came."""
        several_ridges = len({ridge for _, ridge in self._groups}) > 1
        grouped = [points.curve(label, several_ridges=several_ridges) for (label, _), points in self._groups.items()]
        # a signal-to-noise ratio that does not depend on the width is more informative than the noise level
        if all("SNR" not in curve.label and _is_constant(curve.x["snr"]) for curve in grouped):
            return [
                replace(curve, label=f"{curve.label}, SNR {curve.x['snr'][0]:.3g}".lstrip(", ")) for curve in grouped
            ]
        return grouped

    def labelled(self, found: Sequence[Curve], parts: Mapping[tuple[str, str], Part]) -> dict[str, Part]:
        """What belongs to a label and ridge strength of rows, by the label of their curve.

        Args:
            found: `all()`.
            parts: by label and ridge strength.
        """
        return {curve.label: parts[key] for key, curve in zip(self._groups, found, strict=True) if key in parts}


def curves(rows: Iterable[Mapping[str, Any]]) -> list[Curve]:
    """The curves of the rows of a table."""
    found = Curves()
    for _ in found.seen(rows):
        pass
    return found.all()


def _is_constant(snr: Float64[ndarray, " k"]) -> bool:
    """Whether a ratio is a finite number, the same at all sizes: it is infinite where targets are certain."""
    return bool(np.isfinite(snr).all() and np.ptp(snr) < 1e-6 * snr[0])


def _quantiles(values: Float64[ndarray, "k K R"]) -> Float64[ndarray, "3 k"]:
    """The 10, 50 and 90 % quantiles of all draws; NaN without draws."""
    if values.size == 0:
        return np.full((3, values.shape[0]), np.nan)
    return np.quantile(values.reshape(values.shape[0], -1), (0.1, 0.5, 0.9), axis=1)


def _baselines(
    middle: Mapping[str, Float64[ndarray, " k"]], spreads: Mapping[str, Spread]
) -> dict[str, Float64[ndarray, " k"]]:
    found = {name: spreads[constant].mean for name, constant in CONSTANT.items() if constant in spreads}
    if "null_risk" in middle:
        excess = middle["null_risk"] - middle["noise_floor"]
        found |= {
            "prediction_risk": middle["null_risk"],
            "excess_risk": excess,
            "fixed_problem_excess": excess + middle["misspecification"],
        }
    return found


def _differences(
    values: Mapping[str, Float64[ndarray, "k K R"]], shared: Mapping[str, Float64[ndarray, "k K"]]
) -> dict[str, Spread]:
    """The differences of `Curve.z`, taken draw by draw."""
    pairs = {name: values[name] - values[constant] for name, constant in CONSTANT.items() if constant in values}
    if "theory_exact" in shared:
        pairs["exact"] = values["excess_risk"] - shared["theory_exact"][..., None]
    if "null_risk" in shared and "prediction_risk" in values:
        pairs["prediction_risk"] = values["prediction_risk"] - shared["null_risk"][..., None]
    if "test_risk" in values:
        pairs["test"] = values["test_risk"] - values["prediction_risk"]
    return {name: spread(block) for name, block in pairs.items()}


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _column(columns: Mapping[str, Float64[ndarray, " k"]], name: str, size: int) -> Float64[ndarray, " k"]:
    return columns.get(name, np.full(size, np.nan))
