"""What a study can do with its recorded runs without computing anything: draw figures, and list results to compare."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

if TYPE_CHECKING:
    from lab.core.runs.figures import Drawn

Scale = Literal["log", "linear"]
Limits = tuple[float, float]


class LabelledRun(NamedTuple):
    """A run among several.

    Attributes:
        directory: of the run.
        label: tells it from the others; empty if it is the only one.
    """

    directory: Path
    label: str


@dataclass(frozen=True, slots=True)
class AxesRequest:
    """What is to be different from the axes of a figure; None leaves an axis as it is.

    Attributes:
        xlim, ylim: lower and upper end, in every panel.
        xscale, yscale: in every panel.
        title: above the figure; empty for none.
    """

    xlim: Limits | None = None
    ylim: Limits | None = None
    xscale: Scale | None = None
    yscale: Scale | None = None
    title: str = ""


@dataclass(frozen=True, slots=True)
class PlotRequest:
    """How a figure of recorded runs is to be drawn.

    Attributes:
        curves: labels of those to draw, in this order; all of them if it is empty.
        labels: new labels by the old ones.
        axes: limits, scales and title.
    """

    curves: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    axes: AxesRequest = field(default_factory=AxesRequest)


class Result(NamedTuple):
    """A measured number of a run.

    Attributes:
        curve: the curve or student that it belongs to.
        point: where on it, such as `p = 100` or `stage 2`.
        quantity: what was measured.
        value: the mean, or another summary.
        standard_error: of the mean; None where there is none, as for a median.
        summary: what `value` is: `mean`, `median` or `one draw`.
    """

    curve: str
    point: str
    quantity: str
    value: float
    standard_error: float | None
    summary: str


class RecordedStudy(Protocol):
    """The recorded runs of one study; everything is read from their tables."""

    def figures(self) -> list[str]:
        """The names of all figures."""
        ...

    def draw(self, name: str, runs: Sequence[LabelledRun], request: PlotRequest) -> "Drawn | None":
        """Draw a figure of one or several runs; None if they hold nothing that it shows.

        Raises:
            LabError: if a table is missing or damaged, or a curve that was asked for does not exist.
        """
        ...

    def results(self, directory: Path) -> list[Result]:
        """What a run measured, in its order.

        Raises:
            RunError: if its table is missing or damaged.
        """
        ...
