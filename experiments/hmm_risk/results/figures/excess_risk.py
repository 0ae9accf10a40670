"""Excess risk against gamma: dots and bars are means and standard errors, lines are theory."""

from lab.experiments.hmm_risk.results.panels import EXCESS_RISK, panels

FIGURE = panels(
    EXCESS_RISK, shows="Excess risk, the error beyond the best linear head on the same features, against γ = p/n."
)
