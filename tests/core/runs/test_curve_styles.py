"""No two curves of a figure look alike, and a numeric grid has the colours of a scale."""

import pytest
from matplotlib.colors import to_rgb

from lab.core.runs.curve_styles import MARKERS, PALETTE, curve_styles

FAMILIES = {
    "names": [f"curve {chr(97 + index)}" for index in range(24)],
    "numbers": [f"noise {index / 8}, T = 10" for index in range(24)],
    "two numbers": [f"n = {10 + index % 4}, SNR {index}" for index in range(24)],
}


@pytest.mark.parametrize("labels", FAMILIES.values(), ids=FAMILIES.keys())
@pytest.mark.parametrize("count", [1, 7, 8, 24])
def test_no_two_curves_are_alike(labels: list[str], count: int) -> None:
    styles = curve_styles(labels[:count])
    assert len(styles) == len(set(styles)) == count


def test_few_curves_have_the_house_colours() -> None:
    assert curve_styles(["a", "b"]) == [(PALETTE[0], MARKERS[0]), (PALETTE[1], MARKERS[1])]


def test_a_grid_of_numbers_is_a_scale_in_their_order() -> None:
    labels = [f"SNR {number}" for number in (8, 0.25, 6, 0.5, 1, 1.5, 2, 3, 4)]
    colours = dict(zip(labels, (to_rgb(style.color) for style in curve_styles(labels)), strict=True))
    ordered = [colours[f"SNR {number}"] for number in (0.25, 0.5, 1, 1.5, 2, 3, 4, 6, 8)]
    # the scale becomes lighter from one end to the other
    lightness = [0.2126 * red + 0.7152 * green + 0.0722 * blue for red, green, blue in ordered]
    assert lightness == sorted(lightness)
    assert len(set(lightness)) == 9
