"""Excess over the best head on the full model's features."""

from lab.experiments.hmm_risk.results.panels import Panel, panels

FIGURE = panels(
    Panel("fixed_problem_excess", "excess over the full head", top="sweet spot"),
    shows="Excess risk over the best linear head on the features of the widest model, against γ = p/n.",
)
