"""The interface of a figure: the columns that it needs, and how it is drawn."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
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
    """

    columns: tuple[str, ...]
    draw: "Callable[[FigureData], tuple[Figure, Columns]]"
    x: str = "gamma"
