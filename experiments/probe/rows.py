"""Rows of features and targets that a probe reads, wherever they come from, and the rows that a run records."""

# Letters: b rows of a block, d features, m outputs, N rows.

from collections.abc import Iterator
from typing import Literal, NamedTuple, NotRequired, Protocol, TypedDict

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

# rows of a block: 2,048 of width 4,096 take 64 MB
BLOCK = 2048


def of_unit_size(rows: Float64[ndarray, "b d"]) -> Float64[ndarray, "b d"]:
    """Rows scaled to a root mean square of 1; one of zeros stays."""
    sizes = np.sqrt(np.mean(rows**2, axis=1, keepdims=True))
    scaled: Float64[ndarray, "b d"] = rows / np.where(sizes > 0, sizes, 1.0)
    return scaled


class Block(NamedTuple):
    """Some rows.

    Attributes:
        start: number of the first.
        features: of the rows, in their order.
        targets: likewise; of a class, one column is 1.
    """

    start: int
    features: Float64[ndarray, "b d"]
    targets: Float64[ndarray, "b m"]


class Rows(Protocol):
    """Rows that are read in order, as often as wanted, a block at a time."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Numbers of rows, features and outputs."""
        ...

    @property
    def is_class(self) -> bool:
        """Whether targets are classes, one column for each."""
        ...

    @property
    def contexts(self) -> Int64[ndarray, " N"] | None:
        """The context of each row, from 0; None if every row is independent of the others."""
        ...

    @property
    def clusters(self) -> Int64[ndarray, " N"] | None:
        """Rows that may be near-copies of each other have one number, such as that of their token; None without."""
        ...

    def blocks(self) -> Iterator[Block]:
        """All rows."""
        ...


class MeasuredRow(TypedDict):
    """A head of one draw.

    Attributes:
        curve: what the rows are: a layer of a model, or a variant.
        num_train: n.
        draw: its number.
        width: p.
        ridge: lambda.
        risk: mean squared error on all rows of the pool that are not in the draw, over that of predicting zero.
        train: the same on the rows of the draw.
        leave_one_out, gcv, corr_gcv, leave_one_context_out: estimates of `risk` from the rows of the draw; see
            `core.heads.fitted_risk`.
        accuracy, log_loss: of a classification head, on held-out rows.
    """

    kind: Literal["measured"]
    curve: str
    num_train: int
    draw: int
    width: int
    ridge: float
    risk: float
    train: float
    leave_one_out: float
    gcv: float
    corr_gcv: float
    leave_one_context_out: float
    accuracy: NotRequired[float]
    log_loss: NotRequired[float]


class ChoiceRow(TypedDict):
    """A width and a ridge strength chosen from the training rows of a draw.

    Attributes:
        how: leave_one_out; where a draw has several rows of one context leave_one_context_out, corr_gcv if no head of
            the draw has that, or gcv if none has either; or cross_validation with folds of the same rows.
        width, ridge: what it chose.
        risk: of that head.
        best: the lowest risk of the draw, in hindsight.
    """

    kind: Literal["choice"]
    curve: str
    num_train: int
    draw: int
    how: str
    width: int
    ridge: float
    risk: float
    best: float


class TheoryRow(TypedDict):
    """Lines at a width and strength, in the unit of the measured risk; NaN with as many directions as rows of the pool.

    Attributes:
        rank: number of directions of the features.
        floor: risk of the best head of this width.
        gaussian: deterministic equivalent for Gaussian rows, from the measured spectrum.
        exact: for Gaussian rows at finite n, where there is a closed form.
        elliptical: with the measured scales of rows.
        empirical: of the measured rows themselves; of the minimum-norm head.
    """

    kind: Literal["theory"]
    curve: str
    num_train: int
    width: int
    rank: int
    ridge: float
    floor: float
    gaussian: float
    elliptical: float
    exact: NotRequired[float]
    empirical: NotRequired[float]


class CurveRow(TypedDict):
    """What is known of the rows of a curve.

    Attributes:
        num_rows: of the pool.
        num_features: d.
        num_outputs: m.
        null_risk: mean square of the targets, the unit of all risks.
        leverage_sd: standard deviation of the leverage, over its mean; NaN with as many directions as rows.
        cosine: median over rows of a draw of the largest cosine with another one.
        states: name of the states in the cache, a digest of the model and of what it has read; absent for a file.
        num_clusters: of the pool; absent without clusters.
        num_contexts: of the pool; absent where all rows are independent.
        guess_accuracy, guess_log_loss: of the constant guess; of classes only.
    """

    kind: Literal["curve"]
    curve: str
    num_rows: int
    num_features: int
    num_outputs: int
    null_risk: float
    leverage_sd: float
    cosine: float
    states: NotRequired[str]
    num_clusters: NotRequired[int]
    num_contexts: NotRequired[int]
    guess_accuracy: NotRequired[float]
    guess_log_loss: NotRequired[float]


Row = MeasuredRow | ChoiceRow | TheoryRow | CurveRow
