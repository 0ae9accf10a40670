"""How close to each other widths of a line have to be."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Spacing:
    """The largest step from a width to the next one.

    Each feature of a random projection, or of a random loading, adds information by chance, so that theory at one
    width differs from that at the next by about 1/p of itself: between two widths it is a random walk. With k
    directions that carry the signal, the walk is shorter by √k.

    Attributes:
        share: of the width.
        to_threshold: of the distance from p = n.
        rough_until: the step is 1 up to this width, and its square over the square of this width from there on; 0 if
            nothing in the theory is random.
        tolerance: distance of theory at a width from the line through its neighbours above which there are more widths
            around it; None if there are never. The line through all of them is closer: a quarter of this where theory
            bends, two thirds where it is rough.
    """

    share: float
    to_threshold: float
    rough_until: float = 0.0
    tolerance: float | None = 0.0012

    def between(self, low: int, high: int, *, num_train: int | None, step: int) -> Iterator[int]:
        """Widths from `low` on, up to `high` and without it, all of them `low` plus multiples of `step`.

        Args:
            low: the first.
            high: the end.
            num_train: n, where the risk is infinite; None if it is not.
            step: widths are multiples of it.
        """
        width = low
        while width < high:
            yield width
            ahead = width * self.share
            if num_train is not None:
                ahead = min(ahead, abs(width - num_train) * self.to_threshold)
            if self.rough_until:
                ahead = min(ahead, (width / self.rough_until) ** 2)
            width += step * max(1, math.floor(ahead / step))


def segments(widths: Sequence[int], *, num_train: int | None) -> list[tuple[int, int]]:
    """Neighbours among ascending widths, without those on either side of n, if the risk is infinite there."""
    return [(low, high) for low, high in pairwise(widths) if num_train is None or high < num_train or low > num_train]


# straight segments between such widths, on logarithmic axes, are within 0.2 % of a smooth line
DRAWN = Spacing(0.03, 0.1)
