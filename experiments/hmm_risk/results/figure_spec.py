"""The interface of a figure: the columns that it needs, and how it is drawn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lab.experiments.hmm_risk.results.summary import Curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Columns = dict[str, list[str | float]]


@dataclass(frozen=True, slots=True)
class FigureData:
    """Data of a figure.

    Attributes:
        curves: one for each label and ridge strength.
        unit: of risks, for axis labels: per output, or summed over outputs.
    """

    curves: Sequence[Curve]
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureSpec:
    """A figure of the study.

    Attributes:
        columns: columns of the table (see `rows.py`) that every problem of the run must have.
        draw: returns the figure and the plotted numbers by column.
        x: the column on the x axis; a grid over it gives points of a curve, not separate curves.
        most_curves: of more curves, as many are drawn, evenly spaced in the order of the sweep.
    """

    columns: tuple[str, ...]
    draw: "Callable[[FigureData], tuple[Figure, Columns]]"
    x: str = "gamma"
    most_curves: int = 12

    def drawn(self, data: FigureData) -> "tuple[Figure, Columns]":
        """Draw the figure; if only some of the curves are in it, it says so, and so do its numbers."""
        total = len(data.curves)
        if total <= self.most_curves:
            return self.draw(data)
        places = [round(index * (total - 1) / (self.most_curves - 1)) for index in range(self.most_curves)]
        figure, columns = self.draw(replace(data, curves=[data.curves[place] for place in places]))
        figure.suptitle(f"{self.most_curves} of {total:,} curves, evenly spaced", fontsize="small")
        num_rows = len(next(iter(columns.values())))
        return figure, {**columns, "curves_of_the_sweep": [total] * num_rows}
