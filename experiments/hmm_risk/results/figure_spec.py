"""The interface of a figure: the columns that it needs, and how it is drawn."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from jaxtyping import Float64
from numpy import ndarray

from lab.core.runs.curve_styles import CurveStyle, curve_styles
from lab.experiments.hmm_risk.results.summary import Curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from lab.core.runs.captions import Caption
    from lab.core.runs.figures import Drawn

Columns = dict[str, list[str | float]]
# a theory line by column, such as gamma and theory_excess_risk
Line = Mapping[str, Float64[ndarray, " j"]]


@dataclass(frozen=True, slots=True)
class FigureData:
    """Data of a figure.

    Attributes:
        curves: one for each label and ridge strength.
        unit: of risks, for axis labels: per output, or summed over outputs.
        lines: theory between the dots, by the label of the curve; a curve that has none is joined by straight lines.
        seeds: of the runs.
        num_classes: of a classifying head; None if there is none, or if curves differ.
    """

    curves: Sequence[Curve]
    unit: str
    lines: Mapping[str, Line] = field(default_factory=dict)
    seeds: Sequence[int] = ()
    num_classes: int | None = None

    def styles(self) -> list[CurveStyle]:
        """Colour and marker of each curve."""
        return curve_styles([curve.label for curve in self.curves])


def figure_data(
    curves: Sequence[Curve],
    lines: Mapping[str, Line],
    *,
    per_output: bool,
    seed: int,
    num_classes: Collection[int],
) -> FigureData:
    """What the figures of one run are drawn from.

    Args:
        curves: of its table.
        lines: theory between the dots, by the label of the curve.
        per_output: whether risks are divided by the number of outputs.
        seed: of the run.
        num_classes: of each problem that has classes.
    """
    unit = "per output" if per_output else "(sum over outputs)"
    return FigureData(curves, unit, lines, (seed,), next(iter(num_classes)) if len(num_classes) == 1 else None)


@dataclass(frozen=True, slots=True, kw_only=True)
class FigureSpec:
    """A figure of the study.

    Attributes:
        columns: columns of the table (see `rows.py`) that every problem of the run must have.
        draw: returns the figure and the plotted numbers by column.
        caption: what the figure shows and what its marks mean.
        x: the column on the x axis; a grid over it gives points of a curve, not separate curves.
        most_curves: of more curves, as many are drawn, evenly spaced in the order of the sweep.
        has_lines: whether theory is drawn as lines between the sizes of the dots.
    """

    columns: tuple[str, ...]
    draw: "Callable[[FigureData], tuple[Figure, Columns]]"
    caption: "Callable[[FigureData], Caption]"
    x: str = "gamma"
    most_curves: int = 24
    has_lines: bool = True

    def drawn(self, data: FigureData) -> "Drawn":
        """Draw the figure; if only some of the curves are in it, it says so, and so do its numbers."""
        # matplotlib takes long to import, and a sweep is checked before anything is drawn
        from lab.core.runs.figures import Drawn  # noqa: PLC0415

        total = len(data.curves)
        if total <= self.most_curves:
            return Drawn(*self.draw(data), self.caption(data))
        places = [round(index * (total - 1) / (self.most_curves - 1)) for index in range(self.most_curves)]
        shown = replace(data, curves=[data.curves[place] for place in places])
        figure, columns = self.draw(shown)
        figure.suptitle(f"{self.most_curves} of {total:,} curves, evenly spaced", fontsize="small")
        num_rows = len(next(iter(columns.values())))
        return Drawn(figure, {**columns, "curves_of_the_sweep": [total] * num_rows}, self.caption(shown))
