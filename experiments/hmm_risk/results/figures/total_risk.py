"""Total prediction risk against gamma."""

from lab.experiments.hmm_risk.results.panels import TOTAL_RISK, panels

FIGURE = panels(TOTAL_RISK, shows="Total prediction risk, the squared error on a new row, against γ = p/n.")
