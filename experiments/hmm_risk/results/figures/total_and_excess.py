"""The two definitions of risk in two panels: the first descent is degenerate under one of them."""

from lab.experiments.hmm_risk.results.panels import EXCESS_RISK, TOTAL_RISK, panels

FIGURE = panels(EXCESS_RISK, TOTAL_RISK)
