"""Excess risk against gamma: dots and bars are means and standard errors, lines are theory."""

from lab.experiments.hmm_risk.results.panels import EXCESS_RISK, panels

FIGURE = panels(EXCESS_RISK)
