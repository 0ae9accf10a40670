"""Figures of the committed runs, drawn again from their tables."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import linalg, optimize

from drawn import one_in
from lab.core.runs.compare import paired
from lab.core.runs.figures import house_style, save_figure
from lab.core.runs.over_seeds import means
from lab.core.runs.parquet import write_table
from lab.core.runs.recorded_study import LabelledRun, PlotRequest, RecordedStudy
from lab.experiments.distill.recorded import STUDY as DISTILL
from lab.experiments.hmm_risk.config import HmmRiskConfig, LinearGaussianConfig, Loading
from lab.experiments.hmm_risk.grid.expand import expand
from lab.experiments.hmm_risk.pool import WorkerState
from lab.experiments.hmm_risk.results.recorded import STUDY as HMM_RISK
from lab.experiments.hmm_risk.results.recorded import load
from lab.experiments.hmm_risk.units import Unit
from reference.parquet import read_table

REFERENCE = Path(__file__).parents[3] / "outputs" / "reference"
STUDIES: dict[str, RecordedStudy] = {"hmm_risk": HMM_RISK, "distill": DISTILL}
POINT = {
    **{"ridge": "0", "num_train": 10, "width": 5, "gamma": 0.5, "context_length": 1, "problem": 0},
    **{"noise_floor": 0.5, "misspecification": 0.1, "null_risk": 1.5, "theory_excess_risk": 2.0},
    **{"gaussian_reference": False, "problem_is_drawn": True},
}
FIGURES = [
    (study, path.parents[1].name, path.stem)
    for study in STUDIES
    for path in sorted((REFERENCE / study).glob("*/figures/*.parquet"))
]


MODES = LinearGaussianConfig(loading=Loading.identity, state_dim=None)
# without these there is neither a draw, nor a head, nor a theory
COMPUTING = {
    np.linalg: ("cholesky", "eigh", "eigvalsh", "qr", "svd", "lstsq", "pinv"),
    linalg: ("cholesky", "cho_factor", "cho_solve", "eigh", "inv", "qr", "solve", "solve_triangular", "svd"),
    optimize: ("brentq", "minimize_scalar"),
    np.random: ("default_rng", "Generator"),
}


@pytest.fixture
def _no_computing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("something is computed")

    for module, names in COMPUTING.items():
        for name in names:
            monkeypatch.setattr(module, name, refused)


def test_committed_figures_are_found() -> None:
    assert len(FIGURES) > 20


@pytest.mark.usefixtures("_no_computing")
@pytest.mark.parametrize("unit", [Unit(0, with_theory=True), Unit(0, replicates=(0,))], ids=["theory", "a draw"])
@pytest.mark.parametrize("hmm", [LinearGaussianConfig(state_dim=4), MODES], ids=["state", "modes"])
def test_no_unit_of_work_is_done_without_computing(hmm: Any, unit: Unit) -> None:
    with pytest.raises(AssertionError, match="something is computed"):
        WorkerState(expand(HmmRiskConfig(hmm=hmm, num_train=10, widths=[4, 20], observation_noise=1.0))).run(unit)


@pytest.mark.slow
@pytest.mark.usefixtures("_no_computing")
@pytest.mark.parametrize(("study", "run", "figure"), one_in(3, FIGURES, of="figures"), ids=str)
def test_a_committed_figure_is_drawn_again_without_computing(study: str, run: str, figure: str, tmp_path: Path) -> None:
    directory = REFERENCE / study / run
    with warnings.catch_warnings(), house_style():
        warnings.simplefilter("error")
        drawn = STUDIES[study].draw(figure, [LabelledRun(directory, "")], PlotRequest())
        assert drawn is not None
        save_figure(drawn, tmp_path, figure)
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


def test_curves_of_runs_that_draw_other_problems_are_found_in_one_another(tmp_path: Path) -> None:
    results = []
    for seed, ratio in enumerate((2.0, 2.5)):
        directory = tmp_path / str(seed)
        directory.mkdir()
        (directory / "config.json").write_text(json.dumps({"per_output": True, "seed": seed}))
        draws = [{"replicate": draw, "excess_risk": 1.0 + draw, "snr": ratio} for draw in range(3)]
        # two curves: the only one of a run is found under any label
        write_table(
            directory / "table.parquet", [{**POINT, **draw, "label": label} for label in ("a", "b") for draw in draws]
        )
        assert [curve.label for curve in load(directory).curves] == [f"a, SNR {ratio:g}", f"b, SNR {ratio:g}"]
        results.append(HMM_RISK.results(directory))
    assert [(pair.curve, pair.quantity) for pair in paired(*results)] == [("a", "excess_risk"), ("b", "excess_risk")]
    assert [(mean.curve, mean.num_runs) for mean in means(results)] == [("a", 2), ("b", 2)]
