"""The rows that a sweep records and tabulates, column by column.

metrics.jsonl holds theory rows and measured rows; the table joins each measured row with its theory. Theory rows of
kind `between` are at widths between those of the grid; lines.parquet is made of them. A figure may draw any column of
the table that is a float here, and theory_<column> beside it.
"""

from typing import Any, Literal, NotRequired, TypedDict, final, get_type_hints


class TheoryKey(TypedDict):
    """The columns that every theory row has.

    Attributes:
        kind: in metrics.jsonl only.
        cell: index of the family of problems.
        problem: number of the draw of A, W, E and the labelling.
        problem_is_drawn: whether anything of these is random; else every problem of the cell would be the same.
        width: p.
        ridge: as configured: a number, or `optimal`.
        ridge_strength: lambda of (X'X + n lambda I)^-1 X'Y.
        observation_noise: standard deviation of the representation's own noise.
        num_outputs: entries of the target.
        gaussian_reference: whether the theory assumes Gaussian features although these are not.
        num_between: rows of theory between the widths of the grid that were recorded with this one; see `theory_lines`.
            In metrics.jsonl only.
    """

    kind: Literal["theory", "between"]
    cell: int
    problem: int
    problem_is_drawn: bool
    width: int
    ridge: str
    ridge_strength: float
    observation_noise: float
    num_outputs: int
    gaussian_reference: bool
    num_between: NotRequired[int]


@final
class ClassTheory(TheoryKey):
    """A head that classifies: there is no theory of its error.

    Attributes:
        labellings_rejected: labellings that were drawn before this one and have almost one class only.
    """

    labellings_rejected: int


class RiskTheory(TheoryKey):
    """Theoretical risk; per output or summed over outputs, depending on `per_output`.

    Attributes:
        snr: signal-to-noise ratio at this width.
        noise_floor: the risk of the best linear head on these features.
        misspecification: noise_floor minus the noise floor of the widest model.
        null_risk: the risk of predicting zero.
    """

    snr: float
    noise_floor: float
    misspecification: float
    null_risk: float
    theory_excess_risk: float
    theory_bias: float
    theory_variance: float
    theory_prediction_risk: float
    theory_fixed_problem_excess: float


@final
class DiscreteTheory(RiskTheory):
    """Gaussian reference of a discrete problem.

    Attributes:
        num_directions: in which the features vary: p, or fewer where they span less than their width.
    """

    num_directions: int


@final
class GaussianTheory(RiskTheory):
    """Theory of a linear-Gaussian problem.

    Attributes:
        theory_exact: the mean excess risk at this n; NaN without a closed form.
        theory_independent_rows: for dependent rows, the theory of independent ones; else NaN.
        theory_correction: for dependent rows, the first correction of their theory for few directions or sequences, as
            a share of it; beyond `finite_size.LARGEST_CORRECTION`, the theory is NaN. Else NaN.
    """

    theory_exact: float
    theory_independent_rows: float
    theory_correction: float


class MeasuredKey(TypedDict):
    """The columns that every measured row has.

    Attributes:
        kind: in metrics.jsonl only.
        cell: index of the family of problems.
        problem: number of the draw of A, W, E and the labelling.
        replicate: number of the draw of the training rows.
        width: p.
        ridge: as configured.
        rank_tolerance: the fraction of the largest singular value below which one counted as zero.
    """

    kind: Literal["measured"]
    cell: int
    problem: int
    replicate: int
    width: int
    ridge: str
    rank_tolerance: float


class MeasuredHead(MeasuredKey):
    """A head fitted to one draw.

    Attributes:
        weight_norm: root of E||Bhat||^2.
        effective_rank: numerical rank of the training features.
        solved_by: how the head was solved.
    """

    weight_norm: float
    effective_rank: int
    solved_by: str


class MeasuredRisk(MeasuredHead):
    """Exact risk given the features of one draw."""

    bias: float
    variance: float


class TestRisk(TypedDict):
    """The mean error on test rows and its standard error, in the unit of the risk."""

    test_risk: float
    test_standard_error: float


@final
class TestedRisk(MeasuredRisk, TestRisk):
    """With the error on test rows, if `num_test` is set."""


@final
class MeasuredClasses(MeasuredHead):
    """Error of a classifying head on test rows.

    Attributes:
        accuracy: share of the test rows whose class is predicted.
        log_loss: mean of -log of the probability of the class, nats.
        constant_accuracy: of the best constant guess on the same test rows: the share of the most frequent class.
        constant_log_loss: of the best constant probabilities on the same test rows: the entropy of their classes.
    """

    accuracy: float
    log_loss: float
    constant_accuracy: float
    constant_log_loss: float


class RiskResult(MeasuredRisk):
    """Columns that the table adds to a measured risk: sums of its parts."""

    excess_risk: float
    prediction_risk: float
    fixed_problem_excess: float


Theory = ClassTheory | DiscreteTheory | GaussianTheory
Measured = MeasuredRisk | TestedRisk | MeasuredClasses
Row = Theory | Measured
# measured columns joined with those of theory: which ones depends on the problems of the run
TableRow = dict[str, Any]


def quantities(row: type) -> tuple[str, ...]:
    """The float columns, except keys, that every row of a kind has."""
    keys = get_type_hints(MeasuredKey).keys() | get_type_hints(TheoryKey).keys()
    required: frozenset[str] = getattr(row, "__required_keys__", frozenset())
    return tuple(
        name for name, kind in get_type_hints(row).items() if kind is float and name in required and name not in keys
    )


MEASURED_QUANTITIES = tuple(dict.fromkeys((*quantities(RiskResult), *quantities(MeasuredClasses))))
