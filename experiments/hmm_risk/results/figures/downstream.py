"""Accuracy and log-loss of a classifying head."""

from lab.experiments.hmm_risk.results.panels import Panel, panels

FIGURE = panels(
    Panel("accuracy", "accuracy", scale="linear", has_unit=False),
    Panel("log_loss", "log-loss (nats)", has_unit=False),
    shows="Accuracy and log-loss of a classifying head on test rows, against model size γ = p/n.",
)
