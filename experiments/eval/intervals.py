"""Scores with intervals: Wilson's for shares of independent answers, bootstrap percentiles for all others.

The bootstrap draws clusters of samples that are scored together: the two questions of an image, the rotations of a
question, the pieces of a document. All models of a task are scored on the same draws, so that differences are paired.
"""

# Letters: R resamples, M models.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from jaxtyping import Float64
from numpy import ndarray

from lab.core.benchmarks.accuracy import number_of
from lab.core.benchmarks.totals import resampled
from lab.core.runs.random_streams import Seeds
from lab.experiments.eval.task import Measured

WILSON, BOOTSTRAP, NONE = "Wilson", "bootstrap", ""


@dataclass(frozen=True, slots=True)
class Scored:
    """The scores of a model on a task.

    Attributes:
        measured: what they were computed from.
        values: by name.
        draws: by name, in the resamples.
    """

    measured: Measured
    values: Mapping[str, float]
    draws: Mapping[str, Float64[ndarray, " R"]]

    @property
    def headline(self) -> str | None:
        """The name of the score to quote."""
        return next((name for name in self.measured.headlines if name in self.values), None)

    def interval(self, name: str, confidence: float) -> tuple[float | None, float | None, str]:
        """The ends of a score's interval, and how it was computed."""
        if self.measured.is_share(name):
            low, high = wilson(self.values[name] / 100, number_of(self.measured.counts.totals(), name), confidence)
            return 100 * low, 100 * high, WILSON
        return (*percentiles(self.draws[name], confidence), BOOTSTRAP)


def scored(found: Mapping[str, Measured], *, num_resamples: int, seed: int, purpose: str) -> dict[str, Scored]:
    """The scores of several models on the same samples.

    Args:
        found: by model.
        num_resamples: R.
        seed: random seed.
        purpose: what the random numbers are for; equal ones are equal draws.
    """
    by_clusters: dict[tuple[str, ...], list[str]] = {}
    for model, measured in found.items():
        by_clusters.setdefault(measured.counts.clusters, []).append(model)
    draws: dict[str, dict[str, list[Float64[ndarray, " R"]]]] = {model: {} for model in found}
    for clusters, models in by_clusters.items():
        generator = Seeds(seed).numpy(purpose)
        for weights in resampled(len(clusters), num_resamples, generator):
            for model in models:
                measured = found[model]
                for name, values in measured.scores(measured.counts.totals(weights)).items():
                    draws[model].setdefault(name, []).append(values)
    return {
        model: Scored(
            measured,
            {name: float(values[0]) for name, values in measured.scores(measured.counts.totals()).items()},
            {name: np.concatenate(parts) for name, parts in draws[model].items()},
        )
        for model, measured in found.items()
    }


def wilson(share: float, number: float, confidence: float) -> tuple[float, float]:
    """Wilson's interval of a share of `number` independent answers (Wilson, J. Am. Stat. Assoc. 22, 1927)."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    middle = (share + z**2 / (2 * number)) / (1 + z**2 / number)
    half = z / (1 + z**2 / number) * (share * (1 - share) / number + z**2 / (4 * number**2)) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)


def percentiles(draws: Float64[ndarray, " R"], confidence: float) -> tuple[float | None, float | None]:
    """The middle part of some draws; None if none is a number."""
    numbers = draws[np.isfinite(draws)]
    if not len(numbers):
        return None, None
    low, high = np.quantile(numbers, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def recovered(
    model: Sequence[float] | ndarray, teacher: Sequence[float] | ndarray, chance: float
) -> Float64[ndarray, " R"]:
    """The share of a teacher's skill above chance that a model has, in per cent; not a number without such skill."""
    skill = np.asarray(teacher, dtype=np.float64) - chance
    share = np.full(skill.shape, np.nan)
    return 100 * np.divide(np.asarray(model) - chance, skill, out=share, where=skill > 0)
