"""`lab bench hmm-risk`: the work of a sweep and its discrete HMM, ours and the usual implementations."""

from collections.abc import Generator

import numpy as np

from lab.experiments.bench.harness import Case, Row
from lab.experiments.bench.hmm_risk_filter import FilterSetting, filter_cases
from lab.experiments.bench.hmm_risk_sweep import SweepSetting, sweep_case
from lab.experiments.bench.hmm_risk_widths import every_width_case

DISTRIBUTIONS = ("numpy", "scipy", "torch", "scikit-learn", "hmmlearn", "pomegranate", "dynamax", "jax")
_HINT = "pip install 'ssm-lab[bench]'"


def cases(*, quick: bool) -> Generator[Case, list[Row] | None, None]:
    """The cases one by one, so that only one's data are in memory; `quick` shrinks them all to milliseconds."""
    if quick:
        yield sweep_case(SweepSetting(num_train=40, widths=(5, 20, 30, 50, 80, 120), state_dim=6, num_test=100), _HINT)
        yield every_width_case(num_train=40)
        # not `yield from`: it would forward the sent rows to a list, which has no `send`
        for case in filter_cases(FilterSetting(num_sequences=20, num_tokens=8, num_states=4, vocabulary=10), _HINT):
            yield case
        return
    widths = tuple(int(width) for width in np.linspace(20, 2000, 60))
    yield sweep_case(SweepSetting(num_train=400, widths=widths, state_dim=50, num_test=1000), _HINT)
    yield every_width_case(num_train=400)
    for num_states, vocabulary in ((64, 512), (128, 1024)):
        setting = FilterSetting(num_sequences=1000, num_tokens=64, num_states=num_states, vocabulary=vocabulary)
        for case in filter_cases(setting, _HINT):
            yield case
