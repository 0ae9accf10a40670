"""Total prediction risk against gamma."""

from lab.experiments.hmm_risk.results.panels import TOTAL_RISK, panels

FIGURE = panels(TOTAL_RISK)
