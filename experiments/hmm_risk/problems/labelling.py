"""Classes of a discrete HMM's sequences, as in Wei, Xie and Ma (arXiv 2106.09226), and what a constant guess achieves.

The class of a sequence is argmax_c <w_c, A p(h_1 | tokens)>. A is applied as in their code, which does not invert it to
go back in time. Some labellings give almost every sequence the same class, which leaves nothing to learn: they are
drawn again, and how often is recorded. Given all tokens, the class is certain; the best rule that sees the features
only is not known.
"""

# Letters: N sequences, S hidden states, k classes.

from typing import NamedTuple

import numpy as np
import scipy
from jaxtyping import Float64, Int64
from numpy import ndarray

from lab.core.errors import ConfigError
from lab.core.runs.random_streams import Seeds

# sequences by which a labelling is judged
NUM_JUDGED = 2000

_MOST_DRAWS = 100
# expected rows outside of the largest class: a set with one class only then has a probability of about exp(-10)
_EXPECTED_ROWS, _LARGEST_SHARE = 10, 0.1


class Labelling(NamedTuple):
    """Weights that give each sequence a class.

    Attributes:
        weights: w_c.
        num_rejected: labellings that were drawn before, and had almost one class only.
    """

    weights: Float64[ndarray, "k S"]
    num_rejected: int


def classes(first: Float64[ndarray, "N S"], weights: Float64[ndarray, "k S"]) -> Int64[ndarray, " N"]:
    """The class of each sequence, given A p(h_1 | tokens)."""
    return (first @ weights.T).argmax(axis=1)


def draw_labelling(
    first: Float64[ndarray, "N S"], num_classes: int, seeds: Seeds, *, fewest_rows: int, what: str
) -> Labelling:
    """The first labelling under which enough sequences are outside of the largest class.

    Enough are ten expected rows in the smaller of training and test set, but no more than a tenth of them.

    Args:
        first: A p(h_1 | tokens) of sequences that are used for nothing else.
        num_classes: k.
        seeds: of the problem.
        fewest_rows: rows of the smaller of training and test set.
        what: the problem, for the error.

    Raises:
        ConfigError: if each of 100 labellings has almost one class only.
    """
    least = min(_EXPECTED_ROWS / fewest_rows, _LARGEST_SHARE)
    for number in range(_MOST_DRAWS):
        # the first one has the stream of runs that drew one only
        rng = seeds.numpy("class_weights", *([number] if number else []))
        weights = _draw_weights(num_classes, first.shape[1], rng)
        if 1 - _shares(classes(first, weights)).max() >= least:
            return Labelling(weights, number)
    raise ConfigError(
        f"{what}: in each of {_MOST_DRAWS} labellings fewer than {100 * least:.2g} % of the sequences are outside of "
        "one class; raise hmm.num_states or task.num_outputs, or choose another seed"
    )


def best_constant(labels: Int64[ndarray, " N"]) -> tuple[float, float]:
    """Accuracy and log-loss of the best guess that ignores the features: one class, and the shares of all classes."""
    shares = _shares(labels)
    return float(shares.max()), float(scipy.special.entr(shares).sum())


def _draw_weights(num_classes: int, num_states: int, rng: np.random.Generator) -> Float64[ndarray, "k S"]:
    """Six entries of each class, drawn with replacement, are standard normal; the others are zero."""
    weights = np.zeros((num_classes, num_states))
    for row in weights:
        entries = rng.integers(num_states, size=6)
        row[entries] = rng.standard_normal(6)
    return weights


def _shares(labels: Int64[ndarray, " N"]) -> Float64[ndarray, " k"]:
    return np.bincount(labels) / labels.size
