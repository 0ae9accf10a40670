"""The two definitions of risk in two panels: the first descent is degenerate under one of them."""

from lab.experiments.hmm_risk.results.panels import EXCESS_RISK, TOTAL_RISK, panels

FIGURE = panels(
    EXCESS_RISK,
    TOTAL_RISK,
    shows="Excess risk, the error beyond the best linear head on the same features, and total prediction risk, against "
    "γ = p/n.",
)
