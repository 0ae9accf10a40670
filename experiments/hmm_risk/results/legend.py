"""Legends of panels: inside if there is room, else below."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer

# more entries cover the points
_MOST_INSIDE = 7
# letters of the entries beside each other that fit below one panel
_LETTERS_PER_PANEL = 62
_MOST_COLUMNS = 5
# of a line of the legend
_INCHES = 0.135


def add_legend(every_axes: Sequence[Axes]) -> None:
    """One legend for panels side by side, whose entries may differ."""
    entries: dict[str, Any] = {}
    for axes in every_axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    if not entries:
        return
    # curves first, then the lines that they share
    labels = sorted(entries, key=lambda label: not isinstance(entries[label], ErrorbarContainer))
    handles = [entries[label] for label in labels]
    if len(labels) <= _MOST_INSIDE and len(every_axes) == 1:
        every_axes[0].legend(handles, labels)
        return
    figure = every_axes[0].get_figure(root=True)
    assert figure is not None, "the panels are part of a figure"
    width = max(map(len, labels)) + 6
    num_columns = max(1, min(_LETTERS_PER_PANEL * len(every_axes) // width, len(labels), _MOST_COLUMNS))
    figure.legend(handles, labels, loc="outside lower center", ncols=num_columns, columnspacing=1.0)
    wide, high = figure.get_size_inches()
    figure.set_size_inches(wide, high + 0.05 + _INCHES * -(-len(labels) // num_columns))
