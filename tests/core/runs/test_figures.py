import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from lab.core.errors import RunError
from lab.core.runs.curve_styles import MARKERS, PALETTE
from lab.core.runs.figures import Drawn, house_style, legend_below, new_figure, save_figure
from reference.parquet import read_table

COLUMNS = {"gamma": [0.5, 1.0, 2.0], "curve": ["a", "a", "b"], "risk": [1.0, float("inf"), 0.25]}


def draw(directory, name="risk"):
    with house_style():
        figure, (left, right) = new_figure(num_panels=2)
        left.plot(COLUMNS["gamma"], [1.0, 3.0, 0.25], color=PALETTE[0], marker=MARKERS[0], label="α = ½")
        right.semilogy([1, 2], [1e-3, 1e3])
        left.set_xlabel("γ = p/n")
        left.legend()
        save_figure(Drawn(figure, COLUMNS), directory, name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """One figure, saved."""
    path = tmp_path_factory.mktemp("run") / "figures"
    draw(path)
    return path


def test_a_figure_is_a_pdf_a_png_and_the_plotted_numbers(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["risk.parquet", "risk.pdf", "risk.png"]
    assert (folder / "risk.pdf").read_bytes().startswith(b"%PDF-")
    picture = mpl.image.imread(folder / "risk.png")
    # two printed columns of 3.5 inches, 2.7 high, at 300 dots an inch
    assert picture.shape[:2] == (810, 2100)
    assert picture[..., :3].std() > 0.01
    rows = read_table(folder / "risk.parquet")
    assert [list(row.values()) for row in rows] == [list(row) for row in zip(*COLUMNS.values(), strict=True)]


def test_the_same_numbers_give_the_same_files(folder, tmp_path):
    draw(tmp_path)
    for name in ("risk.pdf", "risk.png", "risk.parquet"):
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes()


def test_text_in_a_pdf_is_text(folder):
    content = (folder / "risk.pdf").read_bytes()
    # TrueType fonts (type 42), not outlines (type 3)
    assert b"/Type3" not in content
    assert b"/FontFile2" in content


def test_the_style_ends_with_the_block():
    before = mpl.rcParams["font.size"], mpl.rcParams["axes.grid"]
    with house_style():
        assert mpl.rcParams["font.size"] == 8
        assert mpl.rcParams["axes.grid"]
    assert (mpl.rcParams["font.size"], mpl.rcParams["axes.grid"]) == before


@pytest.mark.parametrize("num_panels", [1, 2, 3])
def test_a_panel_fills_a_printed_column(num_panels):
    figure, axes = new_figure(num_panels=num_panels)
    assert len(axes) == num_panels
    assert figure.get_size_inches().tolist() == [3.5 * num_panels, 2.7]


# Machado, Oliveira and Fernandes (2009), full severity, on linear RGB
DEFICIENCIES = {
    "none": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}


@pytest.mark.parametrize(
    "names", [("theory", "measured"), ("Gaussian", "elliptical", "empirical", "no ridge", "best ridge")]
)
def test_a_legend_below_one_panel_is_no_wider_than_the_figure(names):
    with house_style():
        figure, (axes,) = new_figure(num_panels=1)
        for name in names:
            axes.plot([0, 1], label=name)
        legend_below(figure, axes, num_columns=5)
        figure.draw_without_rendering()
        (legend,) = figure.legends
        assert legend.get_window_extent().width <= figure.bbox.width


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_colours_can_be_told_apart(deficiency):
    assert len(set(PALETTE)) == len(PALETTE) == len(set(MARKERS))
    linear = np.array([to_rgb(color) for color in PALETTE]) ** 2.2
    seen = np.clip(linear @ np.transpose(DEFICIENCIES[deficiency]), 0, 1) ** (1 / 2.2)
    distances = np.linalg.norm(seen[:, None] - seen[None], axis=2)[np.triu_indices(len(PALETTE), 1)]
    assert distances.min() > 0.15, distances.min()


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"file cannot be written: .*; set LAB_OUTPUTS"):
        draw(tmp_path / "file")
