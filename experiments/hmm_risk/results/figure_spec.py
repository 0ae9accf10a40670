"""The interface of a figure: the columns that it draws, and how."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lab.experiments.hmm_risk.results.summary import Curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Columns = dict[str, list[Any]]


@dataclass(frozen=True, slots=True)
class FigureData:
    """What a figure is drawn from.

    Attributes:
        curves: one for each label and ridge strength.
        unit: said after a risk on its axis: per output, or summed over outputs.
    """

    curves: Sequence[Curve]
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureSpec:
    """A figure of the study.

    Attributes:
        columns: of the table, which every problem of the run must have; `results/rows.py` says which there are.
        draw: returns the figure and the plotted numbers by column.
        x: the column on the x axis; a grid of it does not make curves of their own.
    """

    columns: tuple[str, ...]
    draw: "Callable[[FigureData], tuple[Figure, Columns]]"
    x: str = "gamma"
