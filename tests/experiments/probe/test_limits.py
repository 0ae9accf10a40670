"""What a verdict says of its own limits, and which curves it compares."""

import math
from typing import Any

import pytest

from lab.experiments.probe.config import Basis
from lab.experiments.probe.report import verdict
from lab.experiments.probe.results import Results


def said(
    curves: list[str], *, num_rows: tuple[int, ...] = (3000, 3000), basis: Basis = Basis.rotation, **more: Any
) -> str:
    """The verdict on heads at p = 20 and n = 50; `more` belongs to curves or, ridge and width, to heads."""
    head = {"num_train": 50, "width": more.pop("width", 20), "ridge": 0.0}
    rows: list[Any] = []
    for curve, size in zip(curves, num_rows, strict=False):
        row = {"kind": "curve", "curve": curve, "num_rows": size, "num_features": 60, "leverage_sd": None}
        rows.append({**row, "cosine": 0.1, **more})
        rows.append({"kind": "theory", "curve": curve, **head, "rank": head["width"], "floor": 1.0})
        for draw in range(3):
            measured = {"kind": "measured", "curve": curve, "draw": draw, **head, "train": 0.5, "gcv": 1.0}
            measured |= {"corr_gcv": 1.0, "leave_one_context_out": math.nan, "leave_one_out": 1.0}
            rows.append({**measured, "risk": 1.0 + draw / 10 + len(curve) / 7, "accuracy": 0.7, "log_loss": 0.5})
            choice = {"kind": "choice", "curve": curve, "num_train": 50, "draw": draw, "how": "leave_one_out"}
            rows.append({**choice, "risk": 1.1, "best": 1.0})
    return " ".join(verdict(Results.of(rows), basis))


def test_intervals_are_said_to_be_of_one_pool_and_other_limits_where_they_apply() -> None:
    plain = said([""])
    assert "from one pool of 3,000 rows" in plain
    assert "known contexts" not in plain
    assert "principal components" not in plain
    assert "principal components are those of all rows of the pool" in said([""], basis=Basis.principal)
    with_contexts = said([""], num_contexts=40)
    assert "that of new rows of known contexts" in with_contexts
    assert "where the choice estimates that of new contexts" in with_contexts


def test_the_best_accuracy_is_said_to_be_chosen_in_hindsight() -> None:
    text = said([""], guess_accuracy=0.6, guess_log_loss=0.7)
    assert "of 1 heads, the best in hindsight on the held-out rows have accuracy 70.0 %" in text


@pytest.mark.parametrize(
    ("curves", "num_rows", "width", "is_compared"),
    [
        (["a, layer 1", "bb, layer 1"], (3000, 3000), 20, True),
        (["a, layer 1", "bb, layer 1"], (3000, 2000), 20, False),
        (["layer 1, as they are", "layer 1, jitter"], (3000, 3000), 20, True),
        (["layer 1, as they are", "layer 1, gaussian"], (3000, 3000), 20, False),
        (["a, layer 1, distinct", "bb, layer 1, distinct"], (700, 700), 20, True),
        # medians have no paired difference
        (["a, layer 1", "bb, layer 1"], (3000, 3000), 50, False),
    ],
)
def test_only_means_on_the_same_rows_are_compared(
    curves: list[str], num_rows: tuple[int, int], width: int, *, is_compared: bool
) -> None:
    assert ("paired difference" in said(curves, num_rows=num_rows, width=width)) == is_compared
