"""Student's intervals against scipy's."""

import numpy as np
import pytest
from scipy import stats

from lab.core.students_t import half_width, t_quantile


@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_quantile_is_scipys_to_the_last_bit(confidence: float) -> None:
    for num_values in range(2, 200):
        assert t_quantile(num_values, confidence) == float(stats.t.ppf((1 + confidence) / 2, num_values - 1))


def test_half_an_interval_of_a_mean() -> None:
    values = [61.5, 70.25, 66.0]
    low, high = stats.t.interval(0.9, df=2, loc=np.mean(values), scale=stats.sem(values))
    assert half_width(values, 0.9) == pytest.approx((high - low) / 2, rel=1e-12)
    assert half_width([4.0, 4.0], 0.95) == 0
