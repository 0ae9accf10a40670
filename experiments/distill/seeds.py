"""What seeds explain: intervals of means over replicates, and which students differ by more than that."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

from lab.core.students_t import half_width
from lab.experiments.distill.rows import Quantity
from lab.experiments.distill.summary import Summary

_CONFIDENCE = 0.95
_WORDS: dict[Quantity, str] = {"accuracy": "accuracy in %", "kl_per_answer_token": "KL in nats per answer token"}


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over replicates.

    Attributes:
        mean: of the values.
        half_width: of its interval; None for one value.
    """

    mean: float
    half_width: float | None

    @property
    def excludes_zero(self) -> bool:
        """Whether zero is outside the interval."""
        return self.half_width is not None and abs(self.mean) > self.half_width


def estimate(values: Sequence[float], confidence: float = _CONFIDENCE) -> Estimate:
    """The mean of one or more values, with its interval by Student's t."""
    if len(values) < 2:
        return Estimate(fmean(values), None)
    return Estimate(fmean(values), half_width(values, confidence))


def difference(first: Summary, second: Summary, quantity: Quantity) -> Estimate:
    """First minus second, paired: replicates of one number have the same data and the same draws."""
    pairs = zip(first.values[quantity], second.values[quantity], strict=True)
    return estimate([ours - theirs for ours, theirs in pairs])


def rankings(found: Sequence[Summary]) -> Iterator[str]:
    """The last stages of several students in order, best first, and which neighbours seeds tell apart."""
    last = [summary for summary in found if summary.is_last]
    for quantity, words in _WORDS.items():
        known = [summary for summary in last if len(summary.values[quantity]) > 1]
        if len(known) < 2 or len({len(summary.values[quantity]) for summary in known}) > 1:
            continue
        is_larger_better = quantity == "accuracy"
        ordered = sorted(known, key=lambda summary: fmean(summary.values[quantity]), reverse=is_larger_better)
        scale = 100 if is_larger_better else 1
        parts = [_named(ordered[0], quantity, scale)]
        for first, second in pairwise(ordered):
            sign = ("<", ">")[is_larger_better] if difference(first, second, quantity).excludes_zero else "~"
            parts.append(f"{sign} {_named(second, quantity, scale)}")
        whole = difference(ordered[0], ordered[-1], quantity)
        yield (
            f"{words}: {' '.join(parts)}; from first to last {scale * whole.mean:+.3g} ± "
            f"{scale * (whole.half_width or 0.0):.2g} (95 %, paired over {len(ordered[0].values[quantity])} seeds; ~ "
            "joins neighbours whose interval holds zero)"
        )


def _named(summary: Summary, quantity: Quantity, scale: float) -> str:
    return f"{summary.label} ({scale * fmean(summary.values[quantity]):.3g})"
