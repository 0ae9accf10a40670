"""Bias and variance, one panel each."""

from lab.experiments.hmm_risk.results.panels import Panel, panels

FIGURE = panels(
    Panel("bias", "bias"), Panel("variance", "variance"), shows="Bias and variance against model size γ = p/n."
)
