"""The norm of decoder layers and of queries and keys."""

# Letters: D width of what is normed.

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lab.core.fused.rms_norm import rms_norm


class RmsNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps), times a weight for each channel; statistics in float32 or better."""

    def __init__(self, width: int, *, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "*tokens D"]) -> Float[Tensor, "*tokens D"]:
        """`x` with its last axis normed, in the dtype of `x`."""
        return rms_norm(x, self.weight, eps=self.eps)
