"""Figures of a probe: every curve and every n has its panel, and lines end at p = n."""

import math
from typing import Any

import numpy as np

from lab.experiments.probe.figures import drawn
from lab.experiments.probe.results import Results

CURVES, SIZES, WIDTHS = [f"layer {number}" for number in range(1, 6)], (20, 40), (10, 19, 20, 21, 60)


def results(strengths: tuple[float, ...] = (0.0, 1.0)) -> Results:
    table: list[Any] = []
    for curve in CURVES:
        table.append({"kind": "curve", "curve": curve})
        for size in SIZES:
            for width in WIDTHS:
                for ridge in strengths:
                    head = {"curve": curve, "num_train": size, "width": width, "ridge": ridge}
                    line = math.inf if width == size and ridge == 0 else 2.0
                    table.append({"kind": "theory", "gaussian": line, "elliptical": line, **head})
                    # at p = n, a risk of thousands
                    risk = 5000.0 if width == size and ridge == 0 else 2.0 + ridge
                    for draw in range(3):
                        table.append({"kind": "measured", "draw": draw, "risk": risk + draw / 10, "gcv": 1.0, **head})
                        table[-1] |= {"corr_gcv": 1.0, "train": 0.5}
    return Results.of(table)


def test_every_curve_and_n_has_a_panel() -> None:
    figure = drawn("risk_by_width", results())
    assert figure is not None
    titles = [axes.get_title() for axes in figure.figure.axes]
    assert [title for title in titles if title] == ["n = 20", "n = 40"]
    assert [axes.get_ylabel() for axes in figure.figure.axes if axes.get_ylabel()] == CURVES
    shown = set(zip(figure.columns["curve"], figure.columns["num_train"], strict=True))
    assert shown == {(curve, size) for curve in CURVES for size in SIZES}


def test_heads_without_ridge_alone_are_not_called_the_best() -> None:
    for strengths, names in (((0.0, 1.0), {"no ridge", "best ridge"}), ((0.0,), {"no ridge"})):
        figure = drawn("risk_by_width", results(strengths))
        assert figure is not None
        assert set(figure.figure.axes[0].get_legend_handles_labels()[1]) & {"no ridge", "best ridge"} == names


def test_no_line_leads_across_the_threshold_and_medians_there_do_not_flatten_the_panel() -> None:
    figure = drawn("risk_by_width", results())
    assert figure is not None
    for axes, size in zip(figure.figure.axes, SIZES * len(CURVES), strict=True):
        lines = [line for line in axes.lines if line.get_linestyle() != "None" and len(np.asarray(line.get_xdata()))]
        # the grey line's ends are 0 and 1, in units of the panel
        ends = [(min(places), max(places)) for line in lines if max(places := np.asarray(line.get_xdata())) > 1]
        assert ends
        assert not any(low < size < high for low, high in ends)
        assert 5 < axes.get_ylim()[1] < 50


def test_ridge_has_a_panel_for_each_curve() -> None:
    figure = drawn("risk_by_ridge", results())
    assert figure is not None
    assert [axes.get_title() for axes in figure.figure.axes] == CURVES
