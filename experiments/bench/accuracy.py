"""How far results of an operator may be from exact ones, and how far they are."""

import math
from collections.abc import Sequence
from enum import StrEnum

import torch
from torch import Tensor


class Mode(StrEnum):
    """What one call computes."""

    forward = "forward"
    backward = "forward and backward"


# Largest error over the largest entry. float32: rounding of sums of up to a thousand terms; a gradient of A or dt sums
# over all tokens or a whole state. bfloat16: its 8 bits, once in the matrices and once in the result.
TOLERANCE = {
    (Mode.forward, torch.float32): 2e-5,
    (Mode.backward, torch.float32): 1e-4,
    (Mode.forward, torch.bfloat16): 3e-2,
    (Mode.backward, torch.bfloat16): 6e-2,
}


def largest_difference(found: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """The worst tensor's largest error, as a fraction of its largest entry; infinite for NaN or a wrong shape."""
    worst = 0.0
    for ours, reference in zip(found, exact, strict=True):
        if ours.shape != reference.shape:
            return math.inf
        share = float((ours.double() - reference).abs().max() / reference.abs().max())
        # `max` would skip NaN
        if math.isnan(share):
            return math.inf
        worst = max(worst, share)
    return worst
