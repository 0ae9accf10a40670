"""The interface of a head: its options, the keys of the sweep that it reads, and how it learns classes."""

# Letters: n rows, p features, k classes.

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from jaxtyping import Float64, Int64
from numpy import ndarray


class Prediction(NamedTuple):
    """Predictions of a head for test rows.

    Attributes:
        labels: the class of each row.
        probs: the probability of each class; those of a row sum to one.
    """

    labels: Int64[ndarray, " n"]
    probs: Float64[ndarray, "n k"]


class Classifier(NamedTuple):
    """A fitted classification head.

    Attributes:
        predict: maps features to class predictions.
        weight_norm: Frobenius norm of the weights.
        effective_rank: numerical rank of the training features.
        solved_by: how it was solved, for the table.
    """

    predict: Callable[[Float64[ndarray, "n p"]], Prediction]
    weight_norm: float
    effective_rank: int
    solved_by: str


class FitClasses(Protocol):
    """Learn classes from training rows."""

    def __call__(
        self,
        features: Float64[ndarray, "n p"],
        labels: Int64[ndarray, " n"],
        *,
        num_classes: int,
        ridge: float,
        rank_tolerance: float,
        options: Any,
    ) -> Classifier:
        """Fit.

        Args:
            features: X.
            labels: from 0 to `num_classes` - 1.
            num_classes: k; a class may have no row.
            ridge: lambda, 0 or more.
            rank_tolerance: singular values below this fraction of the largest count as zero.
            options: an instance of the head's options.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSpec:
    """A head of the study.

    Attributes:
        options: a dataclass of the head's own keys, the schema of `head=<name>`.
        reads: keys of the sweep that the head reads, of `ridge` and `rank_tolerance`; the others are refused.
        has_exact_risk: whether the closed form of the risk given the features holds for this head. Without one, it only
            learns classes (task=downstream_label of a discrete HMM).
        needs_ridge: whether ridge=0 has no solution.
        fit_classes: learns classes.
    """

    options: type
    reads: frozenset[str]
    has_exact_risk: bool = False
    needs_ridge: bool = False
    fit_classes: FitClasses
