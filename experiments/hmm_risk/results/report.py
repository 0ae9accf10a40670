"""The table and the headline of a finished sweep."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from lab.core.runs.json_files import Entry
from lab.experiments.hmm_risk.results.summary import CONSTANT, Curve

# range in which the asymptotic line is accurate: nearer to p = n it is too low by (n - p)/(n - p - 1)
_NEAR_THRESHOLD = (0.8, 1.25)

_ROUNDING = 1e-13

_Column = Sequence[Entry] | Float64[ndarray, " k"]


def summary_table(curves: Sequence[Curve]) -> tuple[list[str], list[list[Entry]]]:
    """Header and rows of the table, in full precision; the column `summary` says whether a row has means or medians.

    Columns that hold nothing for any curve are left out: those of a second problem, of test rows, of quantiles where
    all means exist. `s.e.` is the two-level standard error of a mean; 10 and 90 % quantiles of the draws stand beside a
    median. `gap %` and `z` compare with the exact finite-n line where there is one; without it, the gap is from the
    asymptotic theory.
    """
    tables = [_label_columns(curve) if "accuracy" in curve.mean else _risk_columns(curve) for curve in curves]
    names = list(dict.fromkeys(name for table in tables for name in table))
    filled = [{name: _entries(column) for name, column in table.items()} for table in tables]
    kept = [name for name in names if any(entry is not None for table in filled for entry in table.get(name, []))]
    rows: list[list[Entry]] = []
    for curve, table in zip(curves, filled, strict=True):
        missing: list[Entry] = [None] * curve.has_mean.size
        rows += [list(row) for row in zip(*(table.get(name, missing) for name in kept), strict=True)]
    return kept, rows


def headline(curves: Sequence[Curve]) -> str:
    """The main result in a few words: where the first curve peaks, or the best of all curves against its baseline."""
    if "accuracy" in curves[0].mean:
        return _classes_headline(curves)
    curve = curves[0]
    risk, parts = curve.centre("excess_risk"), []
    if risk.size > 2 and np.ptp(curve.x["gamma"]):
        peak = int(np.argmax(risk))
        is_inside = 0 < peak < risk.size - 1
        where = f"peaks at gamma {curve.x['gamma'][peak]:.3g}{'' if curve.has_mean[peak] else ' (median)'}"
        parts.append(f"excess risk {where if is_inside else 'has no peak inside the grid'}")
    z, gap = root_mean_square(curve.z["exact"] for curve in curves if "exact" in curve.z), largest_gap(curves)
    if np.isfinite(z):
        parts.append(f"z of the exact line {z:.2f} rms")
    elif np.isfinite(gap):
        parts.append(f"theory within {100 * gap:.1f} %")
    return ", ".join(parts)


def largest_gap(curves: Sequence[Curve]) -> float:
    """Largest |measured / theory - 1| of the excess risk away from p = n; NaN if no theory applies."""
    gaps = [np.nan]
    for curve in curves:
        if "excess_risk" in curve.mean and not curve.is_reference:
            gamma = curve.x["gamma"]
            away = (gamma < _NEAR_THRESHOLD[0]) | (gamma > _NEAR_THRESHOLD[1])
            gaps += np.abs(curve.gap("excess_risk", "excess_risk"))[away].tolist()
    finite = [gap for gap in gaps if np.isfinite(gap)]
    return max(finite, default=float("nan"))


def root_mean_square(parts: Iterable[Float64[ndarray, " k"]]) -> float:
    """The root mean square of all finite numbers; NaN if there is none."""
    numbers = np.concatenate([np.empty(0), *parts])
    finite = numbers[np.isfinite(numbers)]
    return float(np.sqrt(np.mean(finite**2))) if finite.size else float("nan")


def _classes_headline(curves: Sequence[Curve]) -> str:
    """The curve whose best accuracy is farthest above a constant guess."""
    gains = [curve.mean["accuracy"] - curve.baseline["accuracy"] for curve in curves]
    best = max(range(len(curves)), key=lambda index: float(gains[index].max()))
    curve, place = curves[best], int(np.argmax(gains[best]))
    name = f"{curve.label}: " if len(curves) > 1 else ""
    found = f"accuracy {curve.mean['accuracy'][place]:.3f} at p = {curve.x['width'][place]:.0f}"
    constant = f"constant guess {curve.baseline['accuracy'][place]:.3f}"
    is_better = curve.z["accuracy"][place] > curve.clearly or curve.standard_error["accuracy"][place] == 0
    return f"{name}{found}, {constant}{'' if is_better else ': no better'}"


def _risk_columns(curve: Curve) -> dict[str, _Column]:
    missing = np.full(curve.has_mean.size, np.nan)
    exact = curve.theory.get("exact", missing)
    gap = curve.gap("excess_risk", "excess_risk")
    if "exact" in curve.theory:
        gap = np.where(np.isfinite(exact), curve.gap("excess_risk", "exact"), gap)
    columns: dict[str, _Column] = {
        **_place(curve),
        **_measured(curve, "excess_risk", "excess"),
        "theory": curve.theory["excess_risk"],
        "exact n": exact,
        "gap %": 100 * gap,
        "z": curve.z.get("exact", missing),
    }
    if curve.num_draws:
        parts = {"bias": "bias", "variance": "variance", "total": "prediction_risk"}
        columns |= {title: curve.centre(quantity) for title, quantity in parts.items()}
    columns |= {"floor": curve.floor, "null": curve.baseline["prediction_risk"]}
    if "test_risk" in curve.mean:
        columns |= {
            "on test rows": curve.centre("test_risk"),
            "s.e. on test rows": np.where(curve.has_mean, curve.standard_error["test_risk"], np.nan),
            "z on test rows": curve.z["test"],
        }
    return columns


def _label_columns(curve: Curve) -> dict[str, _Column]:
    columns: dict[str, _Column] = {**_place(curve)}
    for name, title in (("accuracy", "accuracy"), ("log_loss", "log-loss")):
        columns |= _measured(curve, name, title)
        columns[f"constant {title}"] = curve.mean[CONSTANT[name]]
        columns[f"z of {title}"] = curve.z[name]
    return columns


def _place(curve: Curve) -> dict[str, _Column]:
    return {
        "curve": [curve.label] * curve.has_mean.size,
        "width": [round(width) for width in curve.x["width"].tolist()],
        "gamma": curve.x["gamma"],
    }


def _measured(curve: Curve, quantity: str, title: str) -> dict[str, _Column]:
    """A measured quantity, what it summarises, and its spread; nothing in a sweep of theory alone."""
    if not curve.num_draws:
        return {}
    is_mean = curve.has_mean
    end = "" if title in ("excess", "accuracy") else f" of {title}"
    return {
        title: curve.centre(quantity),
        **({} if end else {"summary": ["mean" if mean else "median" for mean in is_mean]}),
        f"s.e.{end}": np.where(is_mean, curve.standard_error[quantity], np.nan),
        f"s.d. between{end}": np.where(is_mean, curve.between[quantity], np.nan),
        # with one problem it is the standard error itself
        f"s.e. within{end}": np.where(is_mean & (curve.num_problems > 1), curve.within[quantity], np.nan),
        f"10 %{end}": np.where(is_mean, np.nan, curve.low[quantity]),
        f"90 %{end}": np.where(is_mean, np.nan, curve.high[quantity]),
    }


def _entries(column: _Column) -> list[Entry]:
    if isinstance(column, ndarray):
        # zero for values that are zero up to rounding
        return [None if not np.isfinite(x) else 0.0 if abs(x) < _ROUNDING else x for x in column.tolist()]
    return list(column)
