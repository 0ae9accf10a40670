"""Theory between the widths at which it was evaluated, within half a per cent.

Without ridge the risk is infinite at p = n, and near there no straight segments follow it. Times its distance from n it
is smooth, so this product is interpolated, linearly on double logarithmic scales, on each side of p = n.
"""

# Letters: k widths at which theory is known, j widths in between.

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from jaxtyping import Float64, Int64
from numpy import ndarray

from lab.experiments.hmm_risk.theory_lines.spacing import DRAWN, segments

# columns of a theory row that make up all others; `misspecification` may be negative by rounding, and is only added
PARTS = ("theory_bias", "theory_variance", "noise_floor", "misspecification", "null_risk")
LINES_BESIDE = ("theory_exact", "theory_independent_rows")
# of a line, as of a table
COLUMNS = (
    *PARTS,
    *LINES_BESIDE,
    "theory_excess_risk",
    "theory_prediction_risk",
    "theory_fixed_problem_excess",
)


@dataclass(frozen=True, slots=True)
class Known:
    """Theory of one problem and ridge strength at some widths, ascending.

    Attributes:
        num_train: n.
        has_pole: whether the risk is infinite at p = n: without ridge.
        is_dependent: whether several rows come from one sequence; then the bias is infinite at p = n, too.
        widths: p.
        values: by column; NaN where a column has no value, infinite at a pole.
    """

    num_train: int
    has_pole: bool
    is_dependent: bool
    widths: Int64[ndarray, " k"]
    values: Mapping[str, Float64[ndarray, " k"]]

    def at(self, widths: Int64[ndarray, " j"]) -> dict[str, Float64[ndarray, " j"]]:
        """Every column at widths within the range, but not at p = n if there is a pole."""
        parts = {name: self._column(name, widths) for name in (*PARTS, *LINES_BESIDE) if name in self.values}
        excess = parts["theory_bias"] + parts["theory_variance"]
        return parts | {
            "theory_excess_risk": excess,
            "theory_prediction_risk": excess + parts["noise_floor"],
            "theory_fixed_problem_excess": excess + parts["misspecification"],
        }

    def only(self, places: Int64[ndarray, " j"]) -> "Known":
        """The theory at some of the widths."""
        values = {name: column[places] for name, column in self.values.items()}
        return replace(self, widths=self.widths[places], values=values)

    def _column(self, name: str, widths: Int64[ndarray, " j"]) -> Float64[ndarray, " j"]:
        result = np.full(widths.size, np.nan)
        for side in self.sides():
            nodes = self.widths[side]
            mine = (widths >= nodes[0]) & (widths <= nodes[-1])
            if mine.any():
                weight = self._weight(name, nodes)
                smooth = _log_linear(nodes, self.values[name][side] * weight, widths[mine])
                result[mine] = smooth / self._weight(name, widths[mine])
        return result

    def sides(self) -> list[Int64[ndarray, " k"]]:
        """Places of the widths between which one may interpolate: below and above p = n, or all of them."""
        places = np.arange(self.widths.size)
        if not self.has_pole:
            return [places]
        sides = [places[self.widths < self.num_train], places[self.widths > self.num_train]]
        return [side for side in sides if side.size]

    def _weight(self, name: str, widths: Int64[ndarray, " j"]) -> Float64[ndarray, " j"]:
        """What a column is multiplied with to be smooth up to p = n."""
        ones = np.ones(widths.size)
        if not self.has_pole:
            return ones
        distance = np.abs(widths - self.num_train).astype(np.float64)
        if name == "theory_bias":
            # of independent rows it vanishes there, in proportion to the distance
            return distance if self.is_dependent else 1 / distance
        if name == "theory_exact":
            # its own pole is one row further out; there it has no value
            return np.maximum(distance - 1, 0.5)
        return distance if name in ("theory_variance", "theory_independent_rows") else ones


def _log_linear(
    nodes: Int64[ndarray, " k"], values: Float64[ndarray, " k"], widths: Int64[ndarray, " j"]
) -> Float64[ndarray, " j"]:
    """Linear interpolation on logarithmic axes; with a linear axis of values where an end is not positive."""
    left = np.clip(np.searchsorted(nodes, widths, side="right") - 1, 0, max(nodes.size - 2, 0))
    right = np.minimum(left + 1, nodes.size - 1)
    start, end = values[left], values[right]
    length = np.log(nodes[right] / nodes[left])
    share = np.divide(np.log(widths / nodes[left]), length, out=np.zeros(widths.size), where=length > 0)
    is_positive = (start > 0) & (end > 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        curved = np.exp((1 - share) * np.log(start) + share * np.log(end))
    # at a node its own value, also if the neighbour has none
    between = np.where(is_positive, curved, (1 - share) * start + share * end)
    return np.where(share == 0, start, np.where(share == 1, end, between))


def drawn_widths(widths: Sequence[int], *, pole: int | None, step: int) -> Int64[ndarray, " j"]:
    """Widths so close to each other that straight segments between them, on logarithmic axes, are the line.

    Args:
        widths: at which theory is known, ascending.
        pole: n, where the risk is infinite; None if it is not.
        step: widths are multiples of it.
    """
    known = [width for width in widths if width != pole]
    parts = [DRAWN.between(*pair, num_train=pole, step=step) for pair in segments(known, num_train=pole)]
    return np.array(sorted({*known, *chain.from_iterable(parts)}), dtype=np.int64)


def known_of(rows: Sequence[Mapping[str, float]], *, num_train: int, has_pole: bool, is_dependent: bool) -> Known:
    """The theory in rows of one problem and ridge strength, in any order of widths."""
    ordered = sorted(rows, key=lambda row: row["width"])
    return Known(
        num_train=num_train,
        has_pole=has_pole,
        is_dependent=is_dependent,
        widths=np.array([row["width"] for row in ordered], dtype=np.int64),
        values={
            name: np.array([np.nan if row[name] is None else row[name] for row in ordered], dtype=np.float64)
            for name in COLUMNS
            if name in ordered[0]
        },
    )
