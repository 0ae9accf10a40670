"""Theory at many widths of a problem whose second moments are dense: a random projection, or a filter's state."""

# Letters: w widths, r ridge strengths.

from collections.abc import Sequence

import numpy as np

from lab.core.errors import InputError
from lab.core.heads.leading_blocks import LeadingBlocks
from lab.core.heads.population import DensePopulation, Population
from lab.experiments.hmm_risk.results.curves import TheoryCurve


def is_regular(population: Population) -> bool:
    """Whether `dense_curve` is accurate: a dense population whose features are not determined by each other."""
    if not isinstance(population, DensePopulation):
        return False
    try:
        LeadingBlocks(population, [population.num_features])
    except InputError:
        return False
    return True


def dense_curve(
    population: Population, widths: Sequence[int], *, num_train: int, ridges: Sequence[float | str]
) -> TheoryCurve:
    """As `theory_curve`, in the time of a few Cholesky factors, whatever the number of widths.

    Args:
        population: second moments of features and targets for which `is_regular`.
        widths: p.
        num_train: n.
        ridges: λ of every column, or `optimal`.

    Raises:
        InputError: if a width is out of range, or the features are not of full rank.
    """
    assert isinstance(population, DensePopulation), "it is regular"
    blocks = LeadingBlocks(population, widths)
    columns = [
        blocks.best_risks(num_train=num_train)
        if ridge == "optimal"
        else blocks.risks(num_train=num_train, ridge=float(ridge))
        for ridge in ridges
    ]
    free_rows = num_train - blocks.widths - 1
    noise_trace, widest = blocks.noise_trace, population.noise_trace(population.num_features)
    with np.errstate(divide="ignore", invalid="ignore"):
        snr, exact = blocks.signal / noise_trace, noise_trace * blocks.widths / free_rows
    return TheoryCurve(
        widths=blocks.widths,
        gamma=blocks.widths / num_train,
        num_outputs=np.full(len(widths), population.num_outputs(population.num_features)),
        signal=blocks.signal,
        noise_trace=noise_trace,
        snr=snr,
        misspecification=noise_trace - widest,
        ridges=np.column_stack([column.ridges for column in columns]),
        kappa=np.column_stack([column.kappa for column in columns]),
        bias=np.column_stack([column.bias for column in columns]),
        variance=np.column_stack([column.variance for column in columns]),
        # of a wider model, it has a closed form for features of equal variance only
        exact_excess=np.where(free_rows > 0, exact, np.nan),
    )
