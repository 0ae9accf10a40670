"""The rows that a sweep records and tabulates, column by column.

metrics.jsonl holds theory rows and measured rows; the table joins each measured row with its theory. A figure may draw
any column of the table that is a float here, and theory_<column> beside it.
"""

from typing import NotRequired, TypedDict, get_type_hints


class TheoryKey(TypedDict):
    """The columns that every theory row has.

    Attributes:
        cell: index of the problem.
        width: p.
        ridge: as typed: a number, or `optimal`.
        ridge_strength: lambda of (X'X + n lambda I)^-1 X'Y.
        observation_noise: standard deviation of the representation's own noise.
        num_outputs: entries of the target.
        gaussian_reference: whether the theory is that of Gaussian features, which these features are not.
    """

    cell: int
    width: int
    ridge: str
    ridge_strength: float
    observation_noise: float
    num_outputs: int
    gaussian_reference: bool


class RiskTheory(TheoryKey):
    """What is known of the risk before any row is drawn; per output, or summed over outputs, as `per_output` says.

    Attributes:
        snr: signal over noise at this width.
        noise_floor: the risk of the best linear head on these features.
        misspecification: noise_floor less that of the widest model's features.
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


class GaussianTheory(RiskTheory):
    """Theory of a linear-Gaussian problem.

    Attributes:
        theory_exact: the mean excess risk at this n, where a formula is known; else NaN.
        theory_independent_rows: of dependent rows, what theory says of independent ones; else NaN.
    """

    theory_exact: float
    theory_independent_rows: float


class MeasuredKey(TypedDict):
    """The columns that every measured row has.

    Attributes:
        cell: index of the problem.
        replicate: which draw of the training rows.
        width: p.
        ridge: as typed.
        rank_tolerance: the share of the largest singular value below which one counted as zero.
    """

    cell: int
    replicate: int
    width: int
    ridge: str
    rank_tolerance: float


class MeasuredHead(MeasuredKey):
    """A head on one draw.

    Attributes:
        weight_norm: root of E||Bhat||^2.
        effective_rank: numerical rank of the training features.
        solved_by: how the head was solved.
    """

    weight_norm: float
    effective_rank: int
    solved_by: str


class MeasuredRisk(MeasuredHead):
    """Exact risk given the features of one draw, and with `num_test` the error on test rows."""

    bias: float
    variance: float
    test_risk: NotRequired[float]
    test_standard_error: NotRequired[float]


class MeasuredClasses(MeasuredHead):
    """Error of a classifying head on test rows."""

    accuracy: float
    log_loss: float


class RiskResult(MeasuredRisk):
    """Columns that the table adds to a measured risk: sums of the parts."""

    excess_risk: float
    prediction_risk: float
    fixed_problem_excess: float


def quantities(row: type) -> tuple[str, ...]:
    """The float columns of a kind of row that every problem of the kind has, keys left out."""
    keys = get_type_hints(MeasuredKey).keys() | get_type_hints(TheoryKey).keys()
    required: frozenset[str] = getattr(row, "__required_keys__", frozenset())
    return tuple(
        name for name, kind in get_type_hints(row).items() if kind is float and name in required and name not in keys
    )


MEASURED_QUANTITIES = tuple(dict.fromkeys((*quantities(RiskResult), *quantities(MeasuredClasses))))
