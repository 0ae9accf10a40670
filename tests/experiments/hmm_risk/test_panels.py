"""What a panel shows of quantities that its axis cannot hold."""

import pytest

from lab.experiments.hmm_risk.config import HmmRiskConfig, LinearGaussianConfig, Loading
from lab.experiments.hmm_risk.grid.expand import expand
from lab.experiments.hmm_risk.job import table_rows
from lab.experiments.hmm_risk.pool import run_all
from lab.experiments.hmm_risk.results.figure_spec import FigureData
from lab.experiments.hmm_risk.results.figures.bias_variance import FIGURE
from lab.experiments.hmm_risk.results.summary import curves
from lab.experiments.hmm_risk.units import units


@pytest.mark.parametrize(("widths", "says"), [([4, 6], "zero throughout"), ([4, 24], "zero up to γ = 0.333")])
def test_a_bias_of_zero_is_said(widths: list[int], says: str) -> None:
    hmm = LinearGaussianConfig(loading=Loading.identity, state_dim=None, spectral_radius=0.95)
    config = HmmRiskConfig(hmm=hmm, num_train=12, widths=widths, replicates=3)
    cells = expand(config)
    table = table_rows([row for _, rows in run_all(cells, list(units(cells)), 1) for row in rows], cells)
    figure, _ = FIGURE.draw(FigureData(curves(table), "per output"))
    assert says in [text.get_text() for axes in figure.axes for text in axes.texts]
