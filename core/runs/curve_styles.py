"""Colour and marker of every curve of a figure, so that no two are alike."""

import re
from collections.abc import Sequence
from typing import NamedTuple

# Okabe and Ito's colours, without yellow, which is faint on white; markers distinguish curves without colour
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

# the lightest end of the scale is faint on white
_SCALE, _LIGHTEST = "viridis", 0.88
_NUMBER = re.compile(r"[-+]?\d+\.?\d*(?:e[-+]?\d+)?")


class CurveStyle(NamedTuple):
    """How a curve is drawn.

    Attributes:
        color: of its marks and lines.
        marker: of its points.
    """

    color: str
    marker: str


def curve_styles(labels: Sequence[str]) -> list[CurveStyle]:
    """A style for each curve; all different up to 49 curves.

    More than seven whose labels differ in one number have the colours of a scale, in the order of that number.
    """
    if len(labels) <= len(PALETTE):
        return [CurveStyle(*style) for style in zip(PALETTE, MARKERS, strict=True)][: len(labels)]
    numbers = _the_number(labels)
    if numbers is None:
        size = len(PALETTE)
        # another marker each time that the colours begin again
        return [CurveStyle(PALETTE[i % size], MARKERS[(i + i // size) % size]) for i in range(len(labels))]
    # it takes long to import, and few figures need it
    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib.colors import to_hex  # noqa: PLC0415

    order = sorted(range(len(labels)), key=lambda index: numbers[index])
    scale, styles = mpl.colormaps[_SCALE], {}
    for place, index in enumerate(order):
        shade = to_hex(scale(_LIGHTEST * place / (len(labels) - 1)))
        styles[index] = CurveStyle(shade, MARKERS[place % len(MARKERS)])
    return [styles[index] for index in range(len(labels))]


def _the_number(labels: Sequence[str]) -> list[float] | None:
    """The number in which labels differ; None if they differ otherwise."""
    parts = [_NUMBER.split(label) for label in labels]
    numbers = [[float(word) for word in _NUMBER.findall(label)] for label in labels]
    if any(part != parts[0] for part in parts):
        return None
    columns = [list(column) for column in zip(*numbers, strict=True)]
    # a ratio may stand beside the noise level that it follows from
    varying = [column for column in columns if len(set(column)) > 1]
    if not varying or len(set(varying[0])) < len(labels):
        return None
    return varying[0]
