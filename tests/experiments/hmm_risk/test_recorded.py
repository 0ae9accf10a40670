"""Figures of the committed runs, drawn again from their tables."""

import json
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from lab.core.runs.figures import house_style, save_figure
from lab.core.runs.recorded_study import LabelledRun, PlotRequest, RecordedStudy
from lab.experiments.distill.recorded import STUDY as DISTILL
from lab.experiments.hmm_risk.results.recorded import STUDY as HMM_RISK
from reference.parquet import read_table

REFERENCE = Path(__file__).parents[3] / "outputs" / "reference"
STUDIES: dict[str, RecordedStudy] = {"hmm_risk": HMM_RISK, "distill": DISTILL}
FIGURES = [
    (study, path.parents[1].name, path.stem)
    for study in STUDIES
    for path in sorted((REFERENCE / study).glob("*/figures/*.parquet"))
]


def test_committed_figures_are_found() -> None:
    assert len(FIGURES) > 20


@pytest.mark.slow
@pytest.mark.parametrize(("study", "run", "figure"), FIGURES, ids=["/".join(words) for words in FIGURES])
def test_a_committed_figure_is_drawn_again_without_computing(study: str, run: str, figure: str, tmp_path: Path) -> None:
    directory = REFERENCE / study / run
    start = time.process_time()
    with warnings.catch_warnings(), house_style():
        warnings.simplefilter("error")
        drawn = STUDIES[study].draw(figure, [LabelledRun(directory, "")], PlotRequest())
        assert drawn is not None
        save_figure(drawn, tmp_path, figure)
    assert time.process_time() - start < 5
    committed, plotted = (read_table(path / f"{figure}.parquet") for path in (directory / "figures", tmp_path))
    assert json.dumps(plotted) == json.dumps(committed)
    assert (tmp_path / f"{figure}.txt").read_text() == (directory / "figures" / f"{figure}.txt").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("run", sorted(path.parent.name for path in REFERENCE.glob("hmm_risk/*/lines.parquet")))
def test_committed_lines_pass_through_the_theory_at_the_dots(run: str) -> None:
    lines = read_table(REFERENCE / "hmm_risk" / run / "lines.parquet")
    known = {(row["curve"], row["width"]): row["theory_excess_risk"] for row in lines}
    for path in (REFERENCE / "hmm_risk" / run / "figures").glob("*.parquet"):
        for row in read_table(path):
            if row.get("quantity") == "excess_risk" and np.isfinite(row["theory"]):
                assert known[row["curve"], row["width"]] == pytest.approx(row["theory"], rel=1e-12)
