"""House style of figures: sized for a printed column, colour-blind-safe, saved with the plotted numbers."""

import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypedDict

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lab.core.errors import RunError
from lab.core.runs.atomic_files import make_folder, write_atomically
from lab.core.runs.captions import Caption
from lab.core.runs.parquet import write_columns
from lab.core.streams import say

_log = logging.getLogger(__name__)

# of a saved figure; the plotted numbers and the caption are beside them
FORMATS = ("pdf", "png")

_COLUMN_INCHES = 3.5
# of a panel in a grid: width and height
_PANEL_INCHES = 2.35, 1.6
# of a legend in this style: an entry without its name, and a letter of a name
_LEGEND_ENTRY_IN, _LETTER_IN = 0.43, 0.046
_STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "axes.labelsize": 8,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 8,
    "errorbar.capsize": 1.5,
    "figure.constrained_layout.use": True,
    "font.size": 8,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "legend.fontsize": 6.5,
    "legend.edgecolor": "none",
    "legend.fancybox": False,
    "legend.framealpha": 0.8,
    "lines.linewidth": 1.0,
    # embed fonts as editable, searchable text, not outlines
    "pdf.fonttype": 42,
    "svg.fonttype": "none",
    # names of clip paths and the like, which would be random
    "svg.hashsalt": "lab",
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
}


class LineStyle(TypedDict, total=False):
    """How a line is drawn, as matplotlib's arguments; sizes and widths in points."""

    color: str
    label: str
    linestyle: str
    linewidth: float
    marker: str
    markersize: float


@contextmanager
def house_style() -> Iterator[None]:
    """Context in which figures are drawn and saved."""
    with mpl.rc_context(_STYLE):
        yield


def new_figure(*, num_panels: int) -> tuple[Figure, Sequence[Axes]]:
    """Panels side by side; one fills a printed column, two fill a page."""
    figure = Figure(figsize=(_COLUMN_INCHES * num_panels, 2.7))
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, num_panels, squeeze=False)
    return figure, list(axes[0])


def new_grid(*, num_rows: int, num_columns: int) -> tuple[Figure, Sequence[Sequence[Axes]]]:
    """Rows of small panels, three across a page; those of a row share the y axis, those of a column the x axis."""
    figure = Figure(figsize=(_PANEL_INCHES[0] * max(num_columns, 1.5), _PANEL_INCHES[1] * num_rows + 0.5))
    FigureCanvasAgg(figure)
    axes = figure.subplots(num_rows, num_columns, squeeze=False, sharex="col", sharey="row")
    return figure, [list(row) for row in axes]


def legend_below(figure: Figure, axes: Axes, *, num_columns: int) -> None:
    """A legend below the panels, which are too small for so many names; the figure grows by its height.

    Of a narrow figure it has fewer columns: as many as names of such lengths have room.
    """
    handles, labels = axes.get_legend_handles_labels()
    width, height = figure.get_size_inches()
    room = int(width / (_LEGEND_ENTRY_IN + _LETTER_IN * max(map(len, labels), default=0)))
    num_columns = max(1, min(num_columns, room))
    figure.legend(handles, labels, loc="outside lower center", ncols=num_columns)
    figure.set_size_inches(width, height + 0.14 * -(-len(labels) // num_columns))


Columns = Mapping[str, Sequence[object]]


class Drawn(NamedTuple):
    """A figure that is drawn but not saved.

    Attributes:
        figure: as matplotlib has it.
        columns: the plotted numbers, all of equal length.
        caption: what its marks mean; None for a figure without one.
    """

    figure: Figure
    columns: Columns
    caption: Caption | None = None


def draw_figures(folder: Path, names: Sequence[str], draw: Callable[[str], Drawn | None]) -> list[Path]:
    """Draw and save figures one after the other; one that fails is named on standard error, and the others follow.

    The numbers are recorded by then: a run does not fail for a picture of them.

    Args:
        folder: where they are saved.
        names: of the figures.
        draw: returns the figure of a name; None if there is nothing to draw.

    Returns:
        The PNG files that were written.

    Raises:
        RunError: if the disk is full or the folder cannot be written.
    """
    saved = []
    with house_style():
        for name in names:
            try:
                drawn = draw(name)
                if drawn is not None:
                    save_figure(drawn, folder, name)
                    saved.append(folder / f"{name}.png")
            except RunError:
                raise
            # matplotlib has many ways to refuse numbers that it cannot show
            except Exception as error:
                _log.debug("figure %s", name, exc_info=True)
                reason = (str(error).splitlines() or [""])[0]
                say(f"figure {name} could not be drawn ({type(error).__name__}: {reason}); table and summary are whole")
    return saved


def save_figure(drawn: Drawn, directory: Path, name: str, formats: Sequence[str] = FORMATS) -> list[Path]:
    """Write the figure in each format (a bitmap with 300 dots an inch), and NAME.parquet with the plotted numbers.

    With a caption, NAME.txt and NAME.tex hold it: as text, and in a figure environment for LaTeX.

    Returns:
        The files of the figure itself.

    Raises:
        RunError: if the disk is full or the folder cannot be written.
    """
    make_folder(directory)
    paths = [directory / f"{name}.{suffix}" for suffix in formats]
    for path in paths:
        write_atomically(path, rendered(drawn.figure, path.suffix[1:]))
    write_columns(directory / f"{name}.parquet", drawn.columns)
    if drawn.caption is not None:
        write_atomically(directory / f"{name}.txt", drawn.caption.text + "\n")
        write_atomically(directory / f"{name}.tex", drawn.caption.latex(name))
    return paths


def rendered(figure: Figure, suffix: str) -> bytes:
    """The content of a file of the figure: the same for the same numbers, since no date is in it."""
    # the font subsetter logs every glyph
    logging.getLogger("fontTools").setLevel(logging.WARNING)
    metadata: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
    buffer = io.BytesIO()
    with house_style():
        figure.savefig(buffer, format=suffix, dpi=300, metadata=metadata.get(suffix, {}))
    return buffer.getvalue()
